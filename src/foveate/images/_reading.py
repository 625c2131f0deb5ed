"""Reading image files that nobody vouches for: complete files only, at a bounded cost."""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from foveate.images._decoding import UNREADABLE, guarded_decoding
from foveate.images._formats import check_formats, open_image
from foveate.images._limits import TooMuchWorkError, check_bytes, check_parts, check_size
from foveate.images._render import render

if TYPE_CHECKING:
    from torch import Tensor

_NOT_REGULAR = "not a regular file, but a pipe, a socket or a device"
_ORIENTATION = 0x0112
"""Tag of EXIF, and of TIFF."""
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF's orientation: what makes the image upright."""


def read(
    file: str | Path | bytes, *, gray: bool = False, upright: bool = True, formats: Sequence[str] = ()
) -> "Tensor":
    """Read an image file as uint8 RGB (3, H, W), as :func:`render` shows it; the first of several frames or pages.

    Args:
        file: its path, or its bytes; in any of ``FORMATS``, whatever its name.
        gray: return an image without colors as (1, H, W).
        upright: turn it upright as EXIF says; many data set loaders do not. Damaged EXIF is ignored, as in browsers
            (except in an AVIF, which libavif refuses). JPEG XL and HEIF are always upright.
        formats: further formats of Pillow to read, such as ``"PSD"``, for files that are trusted.

    Raises:
        OSError, ValueError, SyntaxError, EOFError: if it is not a readable image; ``UNREADABLE`` lists every kind of
            error, whatever a decoder raised.
        ValueError: if it is not a regular file, has more than ``MAX_BYTES`` bytes or ``foveate.codecs.MAX_PIXELS``
            pixels, would take time out of proportion to its size, has samples that :func:`render` refuses, or needs a
            library that is not installed; or if Pillow does not know a format.

    Example:
        >>> import io
        >>> stream = io.BytesIO()
        >>> Image.new("L", (5, 4)).save(stream, "PNG")
        >>> read(stream.getvalue()).shape, read(stream.getvalue(), gray=True).shape
        (torch.Size([3, 4, 5]), torch.Size([1, 4, 5]))
    """
    from foveate.images._tensors import from_array  # with torch, which other users of this module do without

    with _opened(file, formats) as image:
        rendered = render(image, gray=gray)
        transpose = _UPRIGHT.get(_orientation(image)) if upright else None
        pixels = np.asarray(rendered if transpose is None else rendered.transpose(transpose))
        return from_array(pixels[..., None] if pixels.ndim == 2 else pixels)


def is_rotated(file: bytes, formats: Sequence[str] = ()) -> bool:
    """Whether an image file is stored rotated or mirrored, and EXIF says how to make it upright.

    Raises:
        OSError, ValueError, SyntaxError, EOFError: if it cannot be opened; ``UNREADABLE`` lists every kind of error.
    """
    with _opened(file, formats) as image:
        return _orientation(image) in _UPRIGHT


def count_frames(file: bytes, formats: Sequence[str] = ()) -> int:
    """Return the number of frames or pages of an image file, of which :func:`read` takes the first.

    Counting stops where it would take too long, and the frames counted so far are returned.

    Raises:
        OSError, ValueError, SyntaxError, EOFError: if they cannot be counted; ``UNREADABLE`` lists every kind of error.
    """
    with _opened(file, formats) as image:
        try:
            # The frames of a PSD are the layers of one image.
            return 1 if image.format == "PSD" else int(getattr(image, "n_frames", 1))
        except TooMuchWorkError:
            return image.tell() + 1


def format_of(file: bytes) -> str | None:
    """Return Pillow's name of the format of an image file, in lower case; None if it is not one of ``FORMATS``.

    Example:
        >>> format_of(b"P5 1 1 255 0"), format_of(b"%!PS-Adobe-3.0 EPSF-3.0")
        ('ppm', None)
    """
    try:
        with _opened(file, ()) as image:
            return (image.format or "").lower()
    except UNREADABLE:
        return None


@contextmanager
def _opened(file: str | Path | bytes, formats: Sequence[str]) -> Iterator[Image.Image]:
    allowed = check_formats(formats)
    data = file if isinstance(file, bytes) else read_bytes(file)
    check_bytes(len(data))
    check_parts(data)
    with guarded_decoding(), open_image(data, allowed) as image:
        check_size(image, data)
        yield image


def _orientation(image: Image.Image) -> int:
    """Return EXIF's orientation, 1 to 8; 1, upright as stored, if EXIF is damaged, as the pixels may still be sound."""
    try:
        # It is 1 for a TIFF that is loaded: Pillow turns it by itself.
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1


def read_bytes(file: str | Path) -> bytes:
    """Return the bytes of a regular file; a file of another kind could block its reader forever.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is a pipe, a socket or a device, or has more than ``MAX_BYTES`` bytes.
    """
    try:
        with open(file, "rb", opener=_open_without_blocking) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(_NOT_REGULAR)
            check_bytes(status.st_size)
            return stream.read()
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        raise ValueError(_NOT_REGULAR) from error  # a socket, or a device that is not there


def _open_without_blocking(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
