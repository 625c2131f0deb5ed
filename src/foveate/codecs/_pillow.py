"""Encoding and decoding in memory with Pillow, for every format it supports."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, __version__, features

from foveate._checks import MAX_PIXELS
from foveate.codecs._codec import CodecError, TooLargeError
from foveate.images import render, strict_decoding


def encode(image: npt.NDArray[np.uint8], format: str, max_side: int, **settings: Any) -> bytes:
    """Return the bitstream of an image (H, W, 3 or 1).

    Raises:
        TooLargeError: if a side is longer than ``max_side`` pixels.
    """
    if max(image.shape[:2]) > max_side:
        raise TooLargeError(f"image: {format} holds at most {max_side} pixels a side, got {image.shape[:2]}; tile it")
    # From an array, so that no EXIF, ICC profile or comment of a file can get into the bitstream.
    pil_image = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    stream = io.BytesIO()
    pil_image.save(stream, format, **settings)
    return stream.getvalue()


def decode(data: bytes, format: str) -> npt.NDArray[np.uint8]:
    """Return the image (H, W, 3), or (H, W, 1) if the bitstream is grayscale.

    Raises:
        CodecError: if the bitstream is not complete and valid.
    """
    try:
        with strict_decoding(), Image.open(io.BytesIO(data), formats=[format]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise CodecError(f"data: {image.width}x{image.height} {format} is over {MAX_PIXELS} pixels")
            image.load()
            # An alpha channel, which only other encoders write, is dropped.
            pixels = np.asarray(image.convert("RGB") if image.mode in ("LA", "RGBA") else render(image, gray=True))
    except CodecError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, RuntimeError, Image.DecompressionBombError) as error:
        raise CodecError(f"data: not a complete and valid {format} bitstream ({len(data)} bytes): {error}") from error
    return pixels[..., None] if pixels.ndim == 2 else pixels


def library(name: str, feature: str) -> str:
    """Return the name and version of a library in this Pillow.

    Raises:
        ImportError: if Pillow was built without it.
    """
    if not features.check("jpg" if feature == "libjpeg_turbo" else feature):
        raise ImportError(
            f"this Pillow was built without {name}; pip install --force-reinstall pillow to get one with it"
        )
    return f"{name} {features.version(feature) or ''}".strip() + f" (Pillow {__version__})"
