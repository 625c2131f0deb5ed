"""Reading what any of the codecs wrote, for loaders that know Pillow's formats only."""

from pathlib import Path

import numpy as np
from PIL import Image

from foveate.codecs import Hevc
from foveate.export._sources import SUFFIXES
from foveate.images import read, read_bytes, to_array


def load(file: str | Path) -> Image.Image:
    """Read a picture that any codec of Foveate wrote, or any that :func:`foveate.images.read` reads, as 8-bit RGB.

    It is shown as :func:`compress_dataset` sees it: turned as EXIF says, on white where it is transparent, 16-bit
    samples scaled from their whole range, and of several frames the first.

    It is a ``loader`` for ``torchvision.datasets.ImageFolder``, which alone does not know the endings of all codecs::

        ImageFolder(root, transform, loader=load, is_valid_file=is_picture)

    Raises:
        OSError, ValueError, SyntaxError, EOFError: if it is no readable picture, or needs a library that is not
            installed; ``foveate.images.UNREADABLE`` has them all.
        ImportError: if the library for a bare HEVC stream is not installed.

    Example:
        >>> import tempfile, numpy as np
        >>> from foveate import Avif
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "gray.avif"
        ...     _ = path.write_bytes(Avif().encode(np.full((4, 5, 3), 99, np.uint8)))
        ...     load(path).size, is_picture(path)
        ((5, 4), True)
    """
    path = Path(file)
    if path.suffix.lower() == ".hevc":  # a bare stream, which has no signature to be told by
        array = Hevc().decode(read_bytes(path))
        return Image.fromarray(np.broadcast_to(array, (*array.shape[:2], 3)).copy())
    return Image.fromarray(to_array(read(path)))


def is_picture(file: str | Path) -> bool:
    """Whether a file has the ending of a picture that :func:`load` reads."""
    return Path(file).suffix.lower() in SUFFIXES
