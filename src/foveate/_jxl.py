"""Reading JPEG XL (ISO/IEC 18181) through imagecodecs' libjxl, from the extra ``codecs``."""

import numpy as np
import numpy.typing as npt

from foveate._checks import MAX_PIXELS
from foveate._extras import require

_CODESTREAM, _CONTAINER = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"


def is_jxl(data: bytes) -> bool:
    """Whether a file begins like JPEG XL, as a bare codestream or in a container."""
    return data.startswith((_CODESTREAM, _CONTAINER))


def decode(data: bytes) -> npt.NDArray[np.uint8]:
    """Return the image (H, W, channels): gray or RGB, with its alpha channel if it has one, scaled to 8 bits.

    Raises:
        ValueError: if it is not a complete and valid bitstream, or its header announces more than ``MAX_PIXELS``
            pixels.
        ImportError: if imagecodecs is not installed.
    """
    library = require("imagecodecs", "codecs")
    height, width, channels, bits = header(data)
    if height * width * max(channels, 4) > 4 * MAX_PIXELS:  # the limit assumes three colors and alpha
        raise ValueError(f"{width}x{height} JPEG XL, {channels} channels, is over {MAX_PIXELS} pixels")
    try:
        pixels = library.jpegxl_decode(data, index=0, numthreads=1)
    except (RuntimeError, IndexError) as error:
        raise ValueError(str(error)) from error
    if pixels.dtype.kind == "f":
        pixels = (pixels.astype(np.float32).clip(0, 1) * 255 + 0.5).astype(np.uint8)
    elif bits != 8:  # libjxl gives 10-bit samples unscaled, in 16 bits
        white = (1 << min(bits, 8 * pixels.dtype.itemsize)) - 1
        pixels = ((pixels.astype(np.uint32) * 255 + white // 2) // white).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels[..., None] if pixels.ndim == 2 else pixels)


def header(data: bytes) -> tuple[int, int, int, int]:
    """Return height, width, channels and bits a sample, from which follows the memory that decoding will take.

    libjxl itself sets no limit.

    Raises:
        ValueError: if there is no header, or it announces an animation or a preview.
    """
    bits = _Bits(_codestream(data)[2:66])
    height, width = bits.size()
    if bits.u(1):  # all_default
        return height, width, 3, 8
    if bits.u(1):  # extra_fields
        bits.u(3)  # orientation
        if bits.u(1):
            bits.size()  # intrinsic size
        if bits.u(1) or bits.u(1):
            raise ValueError("it has a preview or is an animation; expected a single image")
    if bits.u(1):  # floating-point samples
        depth = bits.u32((32, 0), (16, 0), (24, 0), (1, 6))
        bits.u(4)
    else:
        depth = bits.u32((8, 0), (10, 0), (12, 0), (1, 6))
    bits.u(1)  # modular_16bit_buffers
    return height, width, 3 + bits.u32((0, 0), (1, 0), (2, 4), (1, 12)), depth


class _Bits:
    """Reads a codestream's header: least significant bit first (ISO/IEC 18181-1, 6.2)."""

    def __init__(self, data: bytes) -> None:
        self.value, self.left = int.from_bytes(data, "little"), 8 * len(data)

    def u(self, bits: int) -> int:
        """Read an unsigned integer of so many bits."""
        if bits > self.left:
            raise ValueError("it is truncated in its header")
        number = self.value & ((1 << bits) - 1)
        self.value >>= bits
        self.left -= bits
        return number

    def u32(self, *choices: tuple[int, int]) -> int:
        """Read a U32: two bits choose (offset, bits)."""
        offset, bits = choices[self.u(2)]
        return offset + self.u(bits)

    def size(self) -> tuple[int, int]:
        """Read a SizeHeader: height and width."""
        small = self.u(1)

        def side() -> int:
            return 8 * (1 + self.u(5)) if small else self.u32((1, 9), (1, 13), (1, 18), (1, 30))

        height, ratio = side(), self.u(3)
        if ratio == 0:
            return height, side()
        numerator, denominator = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
        return height, height * numerator // denominator


def _codestream(data: bytes) -> bytes:
    """Return the start of the codestream, which may be in boxes of a container."""
    if data[:2] == _CODESTREAM:
        return data[:66]
    box = 0
    while box + 8 <= len(data):
        length, kind, header_length = int.from_bytes(data[box : box + 4], "big"), data[box + 4 : box + 8], 8
        if length == 1:
            length, header_length = int.from_bytes(data[box + 8 : box + 16], "big"), 16
        if kind in (b"jxlc", b"jxlp"):
            start = box + header_length + (4 if kind == b"jxlp" else 0)
            if data[start : start + 2] == _CODESTREAM:
                return data[start : start + 66]
        if length < header_length:
            break
        box += length
    raise ValueError("it has no codestream")
