"""Image codecs: a uint8 image to a bitstream and back, in memory, behind one protocol.

A new codec joins by one class, a subclass of :class:`Codec` in a file of its own, and one line in ``CODECS``.
"""

from foveate._checks import MAX_PIXELS
from foveate.codecs._codec import Codec, CodecError, TooLargeError
from foveate.codecs.avif import Avif
from foveate.codecs.hevc import Hevc
from foveate.codecs.jpeg import Jpeg
from foveate.codecs.jpeg2000 import Jpeg2000
from foveate.codecs.jxl import Jxl
from foveate.codecs.target import Fit, TargetSize
from foveate.codecs.webp import WebP

__all__ = [
    "CODECS",
    "MAX_PIXELS",
    "Avif",
    "Codec",
    "CodecError",
    "Fit",
    "Hevc",
    "Jpeg",
    "Jpeg2000",
    "Jxl",
    "TargetSize",
    "TooLargeError",
    "WebP",
    "as_codec",
]

CODECS: dict[str, type[Codec]] = {cls.name: cls for cls in (Jpeg, Jpeg2000, WebP, Avif, Jxl, Hevc)}


def as_codec(text: "str | Codec") -> Codec:
    """Return the codec that a short string describes.

    Args:
        text: ``name``, ``name:quality`` or ``name:quality,knob=value,...``: the names are those of ``CODECS``, the
            knobs those of the codec's class. A name alone takes the class's defaults. A codec is returned as it is.

    Returns:
        The codec; ``str()`` of it gives a string that this function reads back to an equal codec.

    Raises:
        ValueError: if the name, a knob or a value is not one the codec has.

    Example:
        >>> as_codec("jpeg:30,subsampling=4:4:4")
        Jpeg(quality=30, subsampling='4:4:4', progressive=False, tables=None)
        >>> str(as_codec("jpeg"))
        'jpeg:50'
    """
    if isinstance(text, Codec):
        return text
    if not isinstance(text, str):
        raise TypeError(f"codec: expected a string such as 'jpeg:50' or a Codec, got {type(text).__name__}")
    name, _, rest = text.partition(":")
    if name not in CODECS:
        raise ValueError(f"codec: there is no {name!r} (in {text!r}); choose one of {', '.join(CODECS)}")
    return CODECS[name].parse(rest)
