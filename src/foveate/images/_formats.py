"""The formats that image files are read in, and how a file of each is opened."""

import io
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageFile, UnidentifiedImageError

from foveate import _jxl
from foveate._extras import require
from foveate.images._limits import MeteredFile

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "JPEG2000", "JXL", "HEIF", "GIF", "BMP", "TIFF", "PPM")
"""The formats that are read by default, by Pillow's names: MPO is made of JPEGs, PPM includes PBM and PGM.

No other decoder looks at a file, whatever its name: Pillow has many that are rarely used and little tested, and one
(EPS) that runs a program.
"""
SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".gif", ".jp2", ".pgm", ".ppm", ".tif", ".tiff"),
        *(".jxl", ".heic", ".heif"),
    )
)
"""The endings of files in these formats."""
_NOT_IN_PILLOW = ("JXL", "HEIF")


def check_formats(formats: Sequence[str]) -> list[str]:
    """Return Pillow's names of the formats that Pillow is to read: those in ``FORMATS`` and further ones.

    Raises:
        ValueError: if Pillow does not read a format of such a name.

    Example:
        >>> "DDS" in check_formats(["dds"]), "DDS" in check_formats([])
        (True, False)
    """
    if isinstance(formats, str):
        raise ValueError(f"formats: expected a list of names, got {formats!r}; for one format pass [{formats!r}]")
    further = [name for name in dict.fromkeys(map(str.upper, formats)) if name not in FORMATS]
    if further:
        Image.init()
    for name in further:
        if name not in Image.OPEN:
            raise ValueError(f"formats: Pillow reads no format {name!r}; it reads {', '.join(Image.OPEN)}")
    # Pillow recognizes an MPO by itself, once it has opened it as a JPEG.
    return [name for name in FORMATS if name not in ("MPO", *_NOT_IN_PILLOW)] + further


def open_image(data: bytes, formats: list[str]) -> Image.Image:
    """Open an image file, of JPEG XL, HEIF or one of the formats given; its pixels are not decoded yet."""
    if _jxl.is_jxl(data):
        return _JxlImageFile(io.BytesIO(data))
    if _is_heif(data):
        plugin: type[Image.Image] = require("pillow_heif", "codecs").HeifImageFile
        return plugin(io.BytesIO(data))  # type: ignore[call-arg]
    try:
        return Image.open(MeteredFile(data), formats=formats)
    except UnidentifiedImageError as error:  # whose own message has a memory address in it
        names = ", ".join([*FORMATS, *(name for name in formats if name not in FORMATS)])
        raise UnidentifiedImageError(
            f"not an image of an allowed format, or damaged at its start ({names}; formats= allows more)"
        ) from error


class _JxlImageFile(ImageFile.ImageFile):
    """JPEG XL, for which Pillow has no plugin; its mode is right only once it is loaded."""

    format = "JXL"

    def _open(self) -> None:
        assert self.fp is not None
        self._data: bytes | None = self.fp.read()
        height, width, *_ = _jxl.header(self._data)
        self._size, self._mode = (width, height), "RGB"

    def load(self) -> Any:
        if self._data is not None:
            pixels = _jxl.decode(self._data)
            decoded = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
            self._data, self._size, self._mode, self.im = None, decoded.size, decoded.mode, decoded.im
        return super().load()


def _is_heif(data: bytes) -> bool:
    """Whether a file begins with a box of HEIF's brands (ISO/IEC 23008-12); AVIF shares them, and is left to Pillow."""
    if data[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[8:12], *(data[start : start + 4] for start in range(16, end, 4))}
    heif = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
    return data[8:12] in heif and not brands & {b"avif", b"avis"}
