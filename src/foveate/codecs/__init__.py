"""Image codecs: a uint8 image to a bitstream and back, in memory, behind one protocol.

A new codec is a subclass of :class:`Codec` with the decorator :func:`register_codec`; what a package declares under the
entry point ``foveate.codecs`` is known in every process.
"""

from foveate._checks import MAX_PIXELS
from foveate.codecs._codec import Codec, CodecError, TooLargeError
from foveate.codecs._registered import CODECS, as_codec, image_suffixes, read_image, reader_of, register_codec
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
    "image_suffixes",
    "read_image",
    "reader_of",
    "register_codec",
]
