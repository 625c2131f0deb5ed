"""Which files are taken for images, by the endings of their names."""

from pathlib import PurePosixPath

SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".gif", ".jp2", ".pgm", ".ppm", ".tif", ".tiff"),
        *(".jxl", ".heic", ".heif", ".hevc"),  # the last is a bare bitstream, which only its codec reads
    )
)
"""Files with these endings are taken for images."""


def suffix_of(name: str) -> str:
    """Return the ending of a name in lower case, with its dot; empty if it has none."""
    return PurePosixPath(name).suffix.lower()
