"""JPEG 2000 (ITU-T T.800) through Pillow's OpenJPEG."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from foveate.codecs import _pillow
from foveate.codecs._codec import Codec, CodecError, check_integer

_END_OF_CODESTREAM = b"\xff\xd9"


@dataclass(frozen=True)
class Jpeg2000(Codec):
    """JPEG 2000 with the 9/7 wavelet and the irreversible colour transform, one quality layer, in a JP2 file.

    Args:
        quality: the PSNR to reach, in dB, 15 (coarsest) to 60 (finest).

    Raises:
        TypeError: if ``quality`` is no integer.
        ValueError: if it is out of its range.

    Example:
        >>> import numpy as np
        >>> Jpeg2000(35).decode(Jpeg2000(35).encode(np.zeros((40, 60, 3), np.uint8))).shape
        (40, 60, 3)
    """

    quality: int = 34

    name: ClassVar[str] = "jpeg2000"
    suffix: ClassVar[str] = ".jp2"
    media_type: ClassVar[str] = "image/jp2"
    scale: ClassVar[Sequence[float]] = range(15, 61)
    ladder: ClassVar[tuple[float, ...]] = (28, 31, 34, 38)

    def __post_init__(self) -> None:
        check_integer("quality: JPEG 2000", self.quality, 15, 60)

    def _encode(self, image: npt.NDArray[np.uint8], saliency: npt.NDArray[np.float32] | None) -> bytes:
        # Pillow leaves the colour transform off unless told, which costs a third more bytes.
        return _pillow.encode(
            image,
            "JPEG2000",
            1 << 26,
            quality_mode="dB",
            quality_layers=[self.quality],
            irreversible=True,
            mct=int(image.shape[2] == 3),
            comment=b" ",  # OpenJPEG signs its files with 33 bytes unless there is a comment; this is the shortest
        )

    def decode(self, data: bytes) -> npt.NDArray[np.uint8]:
        # OpenJPEG shows what it has of a codestream that breaks off; only its end marker tells.
        if not data.endswith(_END_OF_CODESTREAM):
            raise CodecError(f"data: no whole and sound JPEG2000 bitstream ({len(data)} bytes): it breaks off")
        return _pillow.decode(data, "JPEG2000")

    @classmethod
    def library(cls) -> str:
        return _pillow.library("OpenJPEG", "jpg_2000")
