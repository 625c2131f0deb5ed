"""JPEG XL (ISO/IEC 18181) with imagecodecs' libjxl, from the extra ``codecs``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from foveate import _jxl
from foveate._checks import check_number
from foveate._extras import require
from foveate.codecs._codec import Codec, CodecError, check_integer

__all__ = ["Jxl"]


@dataclass(frozen=True)
class Jxl(Codec):
    """Lossy JPEG XL: a bare codestream of the VarDCT mode, without a container.

    Args:
        quality: the Butteraugli distance to keep, 0.1 (finest) to 25 (coarsest): lower is finer. 1 is meant to be
            indistinguishable from the source side by side.
        effort: 1 (fast) to 9 (slow, often fewer bytes). From 8 on an image takes seconds.

    Raises:
        TypeError: if ``effort`` is not an integer.
        ValueError: if an argument is out of its range.

    Example:
        >>> str(Jxl(2.5, effort=3))
        'jxl:2.5,effort=3'
    """

    quality: float = 4.0
    effort: int = 7

    name: ClassVar[str] = "jxl"
    suffix: ClassVar[str] = ".jxl"
    media_type: ClassVar[str] = "image/jxl"
    scale: ClassVar[Sequence[float]] = tuple(k / 10 for k in range(250, 0, -1))
    ladder: ClassVar[tuple[float, ...]] = (10.0, 6.0, 3.0, 1.5)

    def __post_init__(self) -> None:
        self._store(
            quality=check_number("quality: JPEG XL's distance", self.quality, 0.1, 25),
            effort=check_integer("effort: JPEG XL", self.effort, 1, 9),
        )

    def _encode(self, image: npt.NDArray[np.uint8], saliency: npt.NDArray[np.float32] | None) -> bytes:
        library = require("imagecodecs", "codecs")
        # One thread, so that the bytes do not depend on the machine.
        return bytes(
            library.jpegxl_encode(
                image, distance=self.quality, effort=self.effort, numthreads=1, usecontainer=False, lossless=False
            )
        )

    def decode(self, data: bytes) -> npt.NDArray[np.uint8]:
        try:
            pixels = _jxl.decode(data)
        except ValueError as error:
            raise CodecError(
                f"data: not a complete and valid JPEG XL bitstream ({len(data)} bytes): {error}"
            ) from error
        # An alpha channel, which only other encoders write, is dropped.
        return np.ascontiguousarray(pixels[..., : 3 if pixels.shape[2] >= 3 else 1])

    @classmethod
    def library(cls) -> str:
        return f"{require('imagecodecs', 'codecs').jpegxl_version()} (imagecodecs)"
