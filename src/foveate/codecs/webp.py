"""WebP (RFC 9649), lossy, with Pillow's libwebp."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from foveate.codecs import _pillow
from foveate.codecs._codec import Codec, check_integer

__all__ = ["WebP"]


@dataclass(frozen=True)
class WebP(Codec):
    """Lossy WebP: VP8 intra coding, chroma always 4:2:0.

    Args:
        quality: 0 (coarsest) to 100 (finest), the scale of libwebp.
        method: the effort of the encoder, 0 (fast) to 6 (slow, fewer bytes).

    Raises:
        TypeError: if an argument is not an integer.
        ValueError: if an argument is out of its range.

    Example:
        >>> import numpy as np
        >>> WebP(50).decode(WebP(50).encode(np.zeros((40, 60, 3), np.uint8))).shape
        (40, 60, 3)
    """

    quality: int = 50
    method: int = 4

    name: ClassVar[str] = "webp"
    suffix: ClassVar[str] = ".webp"
    media_type: ClassVar[str] = "image/webp"
    grayscale: ClassVar[bool] = False
    scale: ClassVar[Sequence[float]] = range(101)
    ladder: ClassVar[tuple[float, ...]] = (5, 20, 50, 80)

    def __post_init__(self) -> None:
        self._store(
            quality=check_integer("quality: WebP", self.quality, 0, 100),
            method=check_integer("method: WebP", self.method, 0, 6),
        )

    def _encode(self, image: npt.NDArray[np.uint8], saliency: npt.NDArray[np.float32] | None) -> bytes:
        return _pillow.encode(image, "WEBP", 16383, quality=self.quality, method=self.method)

    def decode(self, data: bytes) -> npt.NDArray[np.uint8]:
        return _pillow.decode(data, "WEBP")

    @classmethod
    def library(cls) -> str:
        return _pillow.library("libwebp", "webp")
