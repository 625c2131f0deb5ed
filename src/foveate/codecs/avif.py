"""AVIF (AV1 intra frames) with Pillow's libavif."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from foveate.codecs import _pillow
from foveate.codecs._codec import Codec, check_integer, check_subsampling

__all__ = ["Avif"]


@dataclass(frozen=True)
class Avif(Codec):
    """AVIF with 8 bits a channel; grayscale is stored without chroma and comes back as RGB.

    Args:
        quality: 0 (coarsest) to 100 (finest), the scale of libavif.
        speed: 0 (slow, fewer bytes) to 10 (fast). Below 6 an image takes seconds.
        subsampling: of the chroma planes: ``"4:2:0"``, ``"4:2:2"`` or ``"4:4:4"``.

    Raises:
        TypeError: if a number is not an integer.
        ValueError: if an argument is out of its range.

    Example:
        >>> import numpy as np
        >>> Avif(50).decode(Avif(50).encode(np.zeros((40, 60, 3), np.uint8))).shape
        (40, 60, 3)
    """

    quality: int = 50
    speed: int = 8
    subsampling: Literal["4:2:0", "4:2:2", "4:4:4"] = "4:2:0"

    name: ClassVar[str] = "avif"
    suffix: ClassVar[str] = ".avif"
    media_type: ClassVar[str] = "image/avif"
    grayscale: ClassVar[bool] = False
    scale: ClassVar[Sequence[float]] = range(101)
    ladder: ClassVar[tuple[float, ...]] = (15, 30, 50, 70)

    def __post_init__(self) -> None:
        self._store(
            quality=check_integer("quality: AVIF", self.quality, 0, 100),
            speed=check_integer("speed: AVIF", self.speed, 0, 10),
        )
        check_subsampling("AVIF", self.subsampling)

    def _encode(self, image: npt.NDArray[np.uint8], saliency: npt.NDArray[np.float32] | None) -> bytes:
        # One thread, so that the bytes do not depend on the machine.
        return _pillow.encode(
            image,
            "AVIF",
            65536,
            quality=self.quality,
            speed=self.speed,
            subsampling="4:0:0" if image.shape[2] == 1 else self.subsampling,
            max_threads=1,
        )

    def decode(self, data: bytes) -> npt.NDArray[np.uint8]:
        pixels = _pillow.decode(data, "AVIF")
        # Only Pillow 13 and later return an image without chroma as gray; older ones return RGB, and so does this.
        return pixels.repeat(3, axis=2) if pixels.shape[2] == 1 else pixels

    @classmethod
    def library(cls) -> str:
        return _pillow.library("libavif", "avif")
