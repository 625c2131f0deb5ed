"""Limits on what a file may cost: its bytes, its pixels, and the time to decode it."""

import io

from PIL import Image

from foveate._checks import MAX_PIXELS
from foveate.images._render import tiff_tag

MAX_BYTES = 1 << 30
"""Larger files are refused unread."""

_MAX_SCANNED_PIXELS = 1 << 33
"""Scans of a JPEG times its pixels: 1024 scans up to 8 megapixels, 128 at ``MAX_PIXELS``.

A decoder goes over the whole image once a scan. Usual are about 10, or some dozens in the several images of an MPO.
"""
_COSTLY_PARTS = {
    b"\xff\xd8\xff": (b"Exif\0\0",),  # Pillow joins them, in time quadratic in their number
    b"\x89PNG": (b"zTXt", b"iTXt", b"iCCP"),  # each may unpack to 1 MiB
    **dict.fromkeys((b"P1", b"P2", b"P3"), (b"#",)),  # Pillow cuts comments out one by one
}
"""By the first bytes of a file: the parts that take time out of proportion to their bytes."""
_MAX_COSTLY_PARTS = 256
"""How often such a part may occur in a file; a few times is usual."""
_MAX_READS, _READS_PER_SEEK = 1 << 21, 24
"""How many reads Pillow may take for one file; a seek counts as several, for the parsing it stands for. 1 to 4 s."""
_TILE_SIDES = (322, 323)
"""TIFF's tags TileWidth and TileLength."""


class TooMuchWorkError(ValueError):
    """A file would take too long to read for its size."""


def check_bytes(count: int) -> None:
    """Raise a ValueError if a file has more than ``MAX_BYTES`` bytes."""
    if count > MAX_BYTES:
        raise ValueError(f"{count} bytes are over the limit of {MAX_BYTES}")


def check_parts(data: bytes) -> None:
    """Raise a ValueError if a file has very many parts that take long to read."""
    for start, parts in _COSTLY_PARTS.items():
        for part in parts if data.startswith(start) else ():
            if (count := data.count(part)) > _MAX_COSTLY_PARTS:
                name = part.decode().strip("\0")
                raise ValueError(f"{count} parts of the kind {name} are over the limit of {_MAX_COSTLY_PARTS}")


def check_size(image: Image.Image, data: bytes) -> None:
    """Raise a ValueError if decoding an opened file would take too much memory, or too long."""
    pixels = image.width * image.height
    if pixels > MAX_PIXELS:
        raise ValueError(f"{image.width}x{image.height} is over the limit of {MAX_PIXELS} pixels")
    width, height = (next(iter(tiff_tag(image, tag)), 1) for tag in _TILE_SIDES)
    if width * height > MAX_PIXELS:
        raise ValueError(f"tiles of {width}x{height} are over the limit of {MAX_PIXELS} pixels")
    if image.format in ("JPEG", "MPO"):
        # These bytes only occur before a scan: within one, 0xff is followed by 0 or by the mark of a restart.
        scans = data.count(b"\xff\xda")
        if scans * max(pixels, 1 << 23) > _MAX_SCANNED_PIXELS:
            raise ValueError(f"a JPEG of {scans} scans, which would take too long; about 10 are usual")


class MeteredFile(io.BytesIO):
    """A file in memory that can be read only so many times, so that chains and loops in it end."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._left = _MAX_READS

    def _spend(self, reads: int) -> None:
        self._left -= reads
        if self._left < 0:
            self._left = _MAX_READS  # for whoever catches the error and goes on
            raise TooMuchWorkError("made of too many parts, which would take too long to read")

    def read(self, size: int | None = -1, /) -> bytes:
        self._spend(1)
        return super().read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._spend(_READS_PER_SEEK)
        return super().seek(offset, whence)
