"""Reading the files of any of the codecs, for loaders that know Pillow's formats only."""

from pathlib import Path

from PIL import Image

from foveate.codecs import read_image
from foveate.export._suffixes import is_image_name
from foveate.images import read_bytes, to_array


def load(file: str | Path) -> Image.Image:
    """Read an image that any codec of Foveate wrote, or any that :func:`foveate.images.read` reads, as 8-bit RGB.

    It looks as :func:`compress_dataset` sees it: turned as EXIF says, on white where it is transparent, 16-bit samples
    scaled from their whole range, and of several frames the first.

    It is a ``loader`` for ``torchvision.datasets.ImageFolder``, which alone does not know the endings of all codecs::

        ImageFolder(root, transform, loader=load, is_valid_file=is_image)

    Raises:
        OSError, ValueError, SyntaxError, EOFError: if it is not a readable image, or needs a library that is not
            installed; ``foveate.images.UNREADABLE`` has them all.
        ValueError: if its codec needs a library that is not installed.

    Example:
        >>> import tempfile, numpy as np
        >>> from foveate import Avif
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "gray.avif"
        ...     _ = path.write_bytes(Avif().encode(np.full((4, 5, 3), 99, np.uint8)))
        ...     load(path).size, is_image(path)
        ((5, 4), True)
    """
    path = Path(file)
    return Image.fromarray(to_array(read_image(read_bytes(path), path.suffix)))


def is_image(file: str | Path) -> bool:
    """Whether a file has the ending of an image that :func:`load` reads."""
    return is_image_name(Path(file).name)
