"""Codecs by name: short strings to codecs, and files to the codec that reads them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from foveate._registry import Registry
from foveate.codecs._codec import Codec
from foveate.codecs.avif import Avif
from foveate.codecs.hevc import Hevc
from foveate.codecs.jpeg import Jpeg
from foveate.codecs.jpeg2000 import Jpeg2000
from foveate.codecs.jxl import Jxl
from foveate.codecs.webp import WebP
from foveate.images import SUFFIXES, read

if TYPE_CHECKING:
    from torch import Tensor

CodecClass = TypeVar("CodecClass", bound=type[Codec])


def _checked(name: str, cls: Any) -> type[Codec]:
    if not isinstance(cls, type) or not issubclass(cls, Codec):
        raise TypeError(f"codec: expected a subclass of foveate.Codec, got {cls!r}")
    if cls.name != name or set(name) & set(":,= "):
        raise ValueError(f"codec: {cls.__name__}.name is {cls.name!r}, expected {name!r}, without any of ':,= '")
    for suffix in cls.suffixes():
        if not suffix.startswith(".") or suffix != suffix.lower():
            raise ValueError(
                f"codec: {cls.__name__} has the suffix {suffix!r}; expected one such as '.jpg', in lower case"
            )
    return cls


CODECS: Registry[type[Codec]] = Registry("codec", "foveate.codecs", _checked)
"""The classes of codecs by name."""

for _cls in (Jpeg, Jpeg2000, WebP, Avif, Jxl, Hevc):
    CODECS.add(_cls.name, _cls)


def register_codec(cls: CodecClass) -> CodecClass:
    """Add a codec, as a decorator of its class: short strings, files and exports then know it by ``name`` and suffixes.

    For the command line and other processes a package declares it as an entry point as well, named as the codec is::

        [project.entry-points."foveate.codecs"]
        raw = "my_package:Raw"

    Args:
        cls: a subclass of :class:`Codec`, which says what it has to define.

    Returns:
        The class.

    Raises:
        TypeError: if it is not a subclass of Codec.
        ValueError: if another codec has its name.

    Example:
        >>> from foveate import Jpeg, as_codec
        >>> @register_codec
        ... class FastJpeg(Jpeg):
        ...     name = "fast-jpeg"
        >>> as_codec("fast-jpeg:30").quality
        30
    """
    CODECS.add(cls.name, cls)
    return cls


def as_codec(codec: "str | Codec") -> Codec:
    """Return the codec that a short string describes.

    Args:
        codec: ``name``, ``name:quality`` or ``name:quality,knob=value,...``: the names are those of ``foveate codecs``,
            the knobs those of the codec's class. A name alone takes the class's defaults. A codec is returned as it is.

    Returns:
        The codec; ``str()`` of it gives a string that this function reads back to an equal codec.

    Raises:
        TypeError: if it is neither.
        ValueError: if the name, a knob or a value is not one the codec has.

    Example:
        >>> as_codec("jpeg:30,subsampling=4:4:4")
        Jpeg(quality=30, subsampling='4:4:4', progressive=False, tables=None)
        >>> str(as_codec("jpeg"))
        'jpeg:50'
    """
    if isinstance(codec, Codec):
        return codec
    if not isinstance(codec, str):
        raise TypeError(f"codec: expected a string such as 'jpeg:50' or a Codec, got {type(codec).__name__}")
    name, _, settings = codec.partition(":")
    return CODECS[name].parse(settings)


def image_suffixes() -> frozenset[str]:
    """Return the endings of image files that can be read: of usual formats, and of all codecs' bitstreams.

    Example:
        >>> {".jpg", ".png", ".hevc"} <= image_suffixes()
        True
    """
    return SUFFIXES.union(*(cls.suffixes() for cls in CODECS.usable().values()))


def reader_of(suffix: str) -> type[Codec] | None:
    """Return the codec that alone reads files of an ending; None for usual formats, which are told by their content.

    Example:
        >>> reader_of(".hevc").name, reader_of(".jpg")
        ('hevc', None)
    """
    suffix = suffix.lower()
    if not suffix or suffix in SUFFIXES:
        return None
    return next((cls for cls in CODECS.usable().values() if suffix in cls.suffixes()), None)


def read_image(
    data: bytes, suffix: str, *, gray: bool = False, upright: bool = True, formats: Sequence[str] = ()
) -> "Tensor":
    """Read an image file of a usual format, whatever it is called, or one that only a codec of Foveate's reads.

    Args:
        data: what is in the file.
        suffix: the ending of its name, such as ``".jpg"``; where it has a :func:`reader_of` its own, that decodes.
        gray: see :func:`foveate.images.read`.
        upright: see :func:`foveate.images.read`.
        formats: see :func:`foveate.images.read`.

    Returns:
        uint8 (3, H, W), or with ``gray`` (1, H, W) for an image without colors.

    Raises:
        OSError, ValueError, SyntaxError, EOFError: if it is not a readable image; ``foveate.images.UNREADABLE`` has
            them all.

    Example:
        >>> import numpy as np
        >>> from foveate import Jpeg
        >>> read_image(Jpeg().encode(np.zeros((4, 6, 3), np.uint8)), ".jpg").shape
        torch.Size([3, 4, 6])
    """
    cls = reader_of(suffix)
    if cls is None:
        return read(data, gray=gray, upright=upright, formats=formats)
    from foveate.images import from_array

    try:
        image = from_array(cls.parse("").decode(data))
    except Exception as error:  # a decoder may raise anything on damaged data
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return image if gray or image.shape[0] == 3 else image.expand(3, -1, -1)
