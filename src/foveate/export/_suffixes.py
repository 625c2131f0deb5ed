"""Which files are taken for images, by the endings of their names."""

from pathlib import PurePosixPath

from foveate.codecs import reader_of
from foveate.images import SUFFIXES


def suffix_of(name: str) -> str:
    """Return the ending of a name in lower case, with its dot; empty if it has none."""
    return PurePosixPath(name).suffix.lower()


def is_image_name(name: str) -> bool:
    """Whether a file is taken for an image: of a usual format, or of a codec, also of one that a package adds."""
    suffix = suffix_of(name)
    return suffix in SUFFIXES or reader_of(suffix) is not None
