"""Images as users hold them: to the tensors that Foveate works on and back, and from files.

What has to do with tensors is imported with its first use, so that codecs can be chosen and checked without torch.
"""

from typing import TYPE_CHECKING, Any

from foveate.images._decoding import UNREADABLE, strict_decoding
from foveate.images._formats import FORMATS, SUFFIXES, check_formats
from foveate.images._limits import MAX_BYTES
from foveate.images._reading import count_frames, format_of, is_rotated, read, read_bytes
from foveate.images._render import render

if TYPE_CHECKING:
    from foveate.images._tensors import (
        ImageLike,
        as_batch,
        as_tensor,
        check_tensor,
        from_array,
        group_by_shape,
        image_hash,
        to_array,
        to_dtype,
        to_float,
        to_uint8,
    )

__all__ = [
    "FORMATS",
    "MAX_BYTES",
    "SUFFIXES",
    "UNREADABLE",
    "ImageLike",
    "as_batch",
    "as_tensor",
    "check_formats",
    "check_tensor",
    "count_frames",
    "format_of",
    "from_array",
    "group_by_shape",
    "image_hash",
    "is_rotated",
    "read",
    "read_bytes",
    "render",
    "strict_decoding",
    "to_array",
    "to_dtype",
    "to_float",
    "to_uint8",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from foveate.images import _tensors

    return getattr(_tensors, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
