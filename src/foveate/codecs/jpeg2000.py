"""JPEG 2000 (ITU-T T.800) with Pillow's OpenJPEG."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf, log10
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from foveate.codecs import _pillow
from foveate.codecs._codec import Codec, CodecError, check_integer

__all__ = ["Jpeg2000"]

_END_OF_CODESTREAM = b"\xff\xd9"
_TOLERANCE = 0.5
"""dB by which an image may miss the quality."""
_SLACK = 1.0
"""dB above the least acceptable PSNR, from which on the search for fewer bytes stops."""
_FINEST = 80
"""The aim in dB from which on OpenJPEG is made to keep everything."""


@dataclass(frozen=True)
class Jpeg2000(Codec):
    """JPEG 2000, one quality layer, in a JP2 file.

    OpenJPEG aims for a PSNR and misses it, so each image is decoded after encoding, and encoded again with a higher aim
    if it fell short by more than 0.5 dB. The transforms are the irreversible ones (the 9/7 wavelet and YCbCr). Their
    rounding limits the PSNR, to about 50 dB in color; beyond, the reversible ones are used (5/3 and RCT), which are
    lossless in the limit. So the PSNR of an image is never more than 0.5 dB below ``quality``.

    Args:
        quality: the PSNR to reach over all samples of the image, in dB, 15 (coarsest) to 60 (finest).

    Raises:
        TypeError: if ``quality`` is not an integer.
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
        self._store(quality=check_integer("quality: JPEG 2000", self.quality, 15, 60))

    def _encode(self, image: npt.NDArray[np.uint8], saliency: npt.NDArray[np.float32] | None) -> bytes:
        data = self._reaching(image, irreversible=True) or self._reaching(image, irreversible=False)
        assert data is not None  # as the reversible transforms are lossless in the limit
        return data

    def _reaching(self, image: npt.NDArray[np.uint8], irreversible: bool) -> bytes | None:
        """Return a file that reaches the PSNR with few bytes to spare; None if these transforms cannot reach it."""
        goal = self.quality - _TOLERANCE
        best = None
        aim, too_low, enough, step = self.quality, self.quality - 1, _FINEST, 0
        while too_low < aim:
            data = _encoded(image, aim, irreversible)
            reached = _psnr(image, self.decode(data))
            if reached >= goal:
                best, enough = data, aim
                if aim == self.quality or reached < goal + _SLACK:
                    break
            elif aim == _FINEST:
                break
            else:
                too_low, step = aim, max(2 * step, ceil(goal - reached))
            # Growing steps until it is reached, then bisection between the highest aim that fell
            # short and the lowest that did not.
            aim = (too_low + enough) // 2 if best else min(too_low + step, _FINEST)
        return best

    def decode(self, data: bytes) -> npt.NDArray[np.uint8]:
        # OpenJPEG decodes what there is of a truncated codestream; only the end marker shows that it is complete.
        if not data.endswith(_END_OF_CODESTREAM):
            raise CodecError(f"data: not a complete and valid JPEG2000 bitstream ({len(data)} bytes): it is truncated")
        return _pillow.decode(data, "JPEG2000")

    @classmethod
    def library(cls) -> str:
        return _pillow.library("OpenJPEG", "jpg_2000")


def _encoded(image: npt.NDArray[np.uint8], aim: int, irreversible: bool) -> bytes:
    """Encode with a PSNR for OpenJPEG to aim for, in dB."""
    # Without mct Pillow leaves out the color transform, which costs a third more bytes.
    return _pillow.encode(
        image,
        "JPEG2000",
        1 << 26,
        quality_mode="dB",
        quality_layers=None if aim == _FINEST else [aim],
        irreversible=irreversible,
        mct=int(image.shape[2] == 3),
        comment=b" ",  # OpenJPEG signs its files with 33 bytes unless there is a comment; this is the shortest
    )


def _psnr(image: npt.NDArray[np.uint8], decoded: npt.NDArray[np.uint8]) -> float:
    """Return the PSNR over all samples, summed in integers so that the bytes do not depend on the machine."""
    rows = zip(image.astype(np.int16), decoded, strict=True)
    squares = sum(int(np.square(a - b, dtype=np.int32).sum(dtype=np.int64)) for a, b in rows)
    return 10 * log10(255**2 * image.size / squares) if squares else inf
