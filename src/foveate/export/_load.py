"""Reading what any of the codecs wrote, for loaders that know Pillow's formats only."""

from pathlib import Path

from PIL import Image

from foveate.codecs import codec
from foveate.export._sources import SUFFIXES

_NOT_PILLOW = {".jxl": "jxl", ".hevc": "hevc", ".heic": "hevc:container=heif", ".heif": "hevc:container=heif"}


def load(file: str | Path) -> Image.Image:
    """Read a picture that any codec of Foveate wrote, or any that Pillow knows, as an RGB image.

    It is a ``loader`` for ``torchvision.datasets.ImageFolder``, which alone does not know the endings of all codecs::

        ImageFolder(root, transform, loader=load, is_valid_file=is_picture)

    Raises:
        OSError: if it is no readable picture.
        CodecError: if it is a damaged bitstream.
        ImportError: if the codec's library is not installed.

    Example:
        >>> import tempfile, numpy as np
        >>> from foveate import Avif
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "grey.avif"
        ...     _ = path.write_bytes(Avif().encode(np.full((4, 5, 3), 99, np.uint8)))
        ...     load(path).size, is_picture(path)
        ((5, 4), True)
    """
    path = Path(file)
    name = _NOT_PILLOW.get(path.suffix.lower())
    if name is not None:
        return Image.fromarray(codec(name).decode(path.read_bytes()).squeeze()).convert("RGB")
    with Image.open(path) as picture:
        return picture.convert("RGB")


def is_picture(file: str | Path) -> bool:
    """Whether a file has the ending of a picture that :func:`load` reads."""
    return Path(file).suffix.lower() in SUFFIXES
