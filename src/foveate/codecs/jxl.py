"""JPEG XL (ISO/IEC 18181) through imagecodecs' libjxl, from the extra ``codecs``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from foveate._checks import MAX_PIXELS, check_number
from foveate._extras import require
from foveate.codecs._codec import Codec, CodecError, check_integer


@dataclass(frozen=True)
class Jxl(Codec):
    """Lossy JPEG XL: a naked codestream of the VarDCT mode, without a container.

    Args:
        quality: the Butteraugli distance to keep, 0.1 (finest) to 25 (coarsest): lower is finer. 1 is meant to be
            indistinguishable side by side.
        effort: 1 (fast) to 9 (slow, often fewer bytes). From 8 on a photo takes seconds.

    Raises:
        TypeError: if ``effort`` is no integer.
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
        self._keep(
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
        library = require("imagecodecs", "codecs")
        try:
            height, width, channels = _header(data)
            if height * width * max(channels, 4) > 4 * MAX_PIXELS:  # three colours and alpha are what is foreseen
                raise CodecError(f"data: {width}x{height} JPEG XL, {channels} channels, is over {MAX_PIXELS} pixels")
            pixels = library.jpegxl_decode(data, index=0, numthreads=1)
        except CodecError:
            raise
        except (ValueError, RuntimeError, IndexError) as error:
            raise CodecError(f"data: no whole and sound JPEG XL bitstream ({len(data)} bytes): {error}") from error
        if pixels.dtype == np.uint16:
            pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
        elif pixels.dtype != np.uint8:
            pixels = (pixels.astype(np.float32).clip(0, 1) * 255 + 0.5).astype(np.uint8)
        if pixels.ndim == 2:
            pixels = pixels[..., None]
        return np.ascontiguousarray(pixels[..., : 3 if pixels.shape[2] >= 3 else 1])

    @classmethod
    def library(cls) -> str:
        return f"{require('imagecodecs', 'codecs').jpegxl_version()} (imagecodecs)"


class _Bits:
    """Reads a codestream's header: least significant bit first (ISO/IEC 18181-1, 6.2)."""

    def __init__(self, data: bytes) -> None:
        self.value, self.left = int.from_bytes(data, "little"), 8 * len(data)

    def u(self, bits: int) -> int:
        if bits > self.left:
            raise ValueError("it breaks off in its header")
        found = self.value & ((1 << bits) - 1)
        self.value >>= bits
        self.left -= bits
        return found

    def u32(self, *choices: tuple[int, int]) -> int:
        """A U32: two bits choose (offset, bits)."""
        offset, bits = choices[self.u(2)]
        return offset + self.u(bits)

    def size(self) -> tuple[int, int]:
        """A SizeHeader: height and width."""
        small = self.u(1)

        def side() -> int:
            return 8 * (1 + self.u(5)) if small else self.u32((1, 9), (1, 13), (1, 18), (1, 30))

        height, ratio = side(), self.u(3)
        if ratio == 0:
            return height, side()
        across, down = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
        return height, height * across // down


def _header(data: bytes) -> tuple[int, int, int]:
    """Height, width and channels that decoding will take memory for: libjxl itself sets no limit.

    Raises:
        ValueError: if there is no header, or it announces an animation or a preview.
    """
    bits = _Bits(_codestream(data)[2:66])
    height, width = bits.size()
    if bits.u(1):  # all_default
        return height, width, 3
    if bits.u(1):  # extra_fields
        bits.u(3)  # orientation
        if bits.u(1):
            bits.size()  # intrinsic size
        if bits.u(1) or bits.u(1):
            raise ValueError("it has a preview or is an animation; a picture is expected")
    if bits.u(1):  # floating-point samples
        bits.u32((32, 0), (16, 0), (24, 0), (1, 6))
        bits.u(4)
    else:
        bits.u32((8, 0), (10, 0), (12, 0), (1, 6))
    bits.u(1)  # modular_16bit_buffers
    return height, width, 3 + bits.u32((0, 0), (1, 0), (2, 4), (1, 12))


def _codestream(data: bytes) -> bytes:
    """The start of the codestream, which may stand in boxes of a container."""
    if data[:2] == b"\xff\x0a":
        return data[:66]
    at = 0
    while at + 8 <= len(data):
        length, kind, head = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], 8
        if length == 1:
            length, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        if kind in (b"jxlc", b"jxlp"):
            start = at + head + (4 if kind == b"jxlp" else 0)
            if data[start : start + 2] == b"\xff\x0a":
                return data[start : start + 66]
        if length < head:
            break
        at += length
    raise ValueError("there is no codestream in it")
