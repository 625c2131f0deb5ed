"""Encoding and decoding in memory through Pillow, for every format it carries."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, __version__, features

from foveate._checks import MAX_PIXELS
from foveate.codecs._codec import CodecError, TooLargeError
from foveate.images import render, strictly


def encode(image: npt.NDArray[np.uint8], format: str, side: int, **settings: Any) -> bytes:
    """Return the bitstream of a picture (H, W, 3 or 1) of at most ``side`` pixels a side."""
    if max(image.shape[:2]) > side:
        raise TooLargeError(f"image: {format} holds at most {side} pixels a side, got {image.shape[:2]}; tile it")
    # From an array, so that no EXIF, ICC profile or comment of a file can travel into the bitstream.
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    stream = io.BytesIO()
    picture.save(stream, format, **settings)
    return stream.getvalue()


def decode(data: bytes, format: str) -> npt.NDArray[np.uint8]:
    """Return the picture (H, W, 3), or (H, W, 1) if the bitstream is grayscale; raise CodecError if it is unsound."""
    try:
        with strictly(), Image.open(io.BytesIO(data), formats=[format]) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise CodecError(f"data: {picture.width}x{picture.height} {format} is over {MAX_PIXELS} pixels")
            picture.load()
            # An alpha channel, which only other encoders write, is left out.
            pixels = np.asarray(
                picture.convert("RGB") if picture.mode in ("LA", "RGBA") else render(picture, gray=True)
            )
    except CodecError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, RuntimeError, Image.DecompressionBombError) as error:
        raise CodecError(f"data: no whole and sound {format} bitstream ({len(data)} bytes): {error}") from error
    return pixels[..., None] if pixels.ndim == 2 else pixels


def library(name: str, feature: str) -> str:
    """Return a library's name and version in this Pillow; raise ImportError if it was built without."""
    if not features.check("jpg" if feature == "libjpeg_turbo" else feature):
        raise ImportError(f"this Pillow was built without {name}; pip install --force-reinstall pillow for one with it")
    return f"{name} {features.version(feature) or ''}".strip() + f" (Pillow {__version__})"
