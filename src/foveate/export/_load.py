"""Reading the files of any of the codecs, for loaders that know Pillow's formats only."""

from pathlib import Path

import numpy as np
from PIL import Image

from foveate.codecs import Hevc
from foveate.export._suffixes import SUFFIXES, suffix_of
from foveate.images import contents, read, to_array


def load(file: str | Path) -> Image.Image:
    """Read an image that any codec of Foveate wrote, or any that :func:`foveate.images.read` reads, as 8-bit RGB.

    It looks as :func:`compress_dataset` sees it: turned as EXIF says, on white where it is transparent, 16-bit samples
    scaled from their whole range, and of several frames the first.

    It is a ``loader`` for ``torchvision.datasets.ImageFolder``, which alone does not know the endings of all codecs::

        ImageFolder(root, transform, loader=load, is_valid_file=is_picture)

    Raises:
        OSError, ValueError, SyntaxError, EOFError: if it is not a readable image, or needs a library that is not
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
    if suffix_of(path.name) == ".hevc":  # a bare stream, which has no signature
        array = Hevc().decode(contents(path))
        return Image.fromarray(np.broadcast_to(array, (*array.shape[:2], 3)).copy())
    return Image.fromarray(to_array(read(path)))


def is_picture(file: str | Path) -> bool:
    """Whether a file has the ending of an image that :func:`load` reads."""
    return suffix_of(Path(file).name) in SUFFIXES
