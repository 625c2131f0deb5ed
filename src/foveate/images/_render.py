"""PIL images of any mode, as they look, in 8 bits a channel."""

import numpy as np
from PIL import Image

from foveate.images._decoding import guarded_decoding

SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
UNSCALED_MODES = ("I", "F")
"""Modes whose samples have no range of their own."""
_OPAQUE_MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
_FULL_RANGE_FORMATS = (None, "PNG", "ICO", "ICNS", "JPEG2000", "IM", "TIFF")
"""Formats whose 16-bit samples run from black at 0 to white; those of FITS and McIDAS are measurements."""
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
"""Tags of TIFF (6.0, section 8)."""


def render(image: Image.Image, *, gray: bool = False) -> Image.Image:
    """Return a PIL image of any mode as it looks, in 8 bits a channel.

    Samples of 16 bits are scaled from the range of their file's format, which is 0 to 65535 in memory, and rounded.
    Transparent pixels are shown on white.

    Args:
        image: in memory, or an opened file, at its current frame.
        gray: return modes 1, L and I;16 as L.

    Returns:
        An image of mode RGB, or L.

    Raises:
        ValueError: if it is not known which samples are black and white: modes I and F, signed samples, measurements.
        OSError, ValueError, SyntaxError, EOFError: if it is a file that cannot be read to its end.

    Example:
        >>> render(Image.new("I;16", (5, 4), 70 * 257)).getpixel((0, 0))
        (70, 70, 70)
    """
    rawmode = _rawmode(image)
    with guarded_decoding():
        image.load()
    if 2 in tiff_tag(image, _SAMPLE_FORMAT):
        raise ValueError("a TIFF of signed samples has no known black level; save it unsigned")
    if image.mode in SIXTEEN_BIT_MODES + UNSCALED_MODES:
        image = _to_eight_bits(image)
    elif _is_transparent(image):
        return _on_white(image, rawmode)
    elif image.mode not in _OPAQUE_MODES:
        raise ValueError(f"an image of the unknown mode {image.mode}; convert it to RGB")
    return image.convert("L" if gray and image.mode in ("1", "L") else "RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale gray samples of more than 8 bits to an image of mode L."""
    if image.mode in SIXTEEN_BIT_MODES:
        has_range = image.format in _FULL_RANGE_FORMATS
    else:
        has_range = (image.mode, image.format) == ("I", "PPM")
    if not has_range:
        origin = "" if image.format is None else f" of {image.format}"
        raise ValueError(f"samples of mode {image.mode}{origin} have no known range; scale them to 8 bits first")
    bits = next(iter(tiff_tag(image, _BITS_PER_SAMPLE)), 16)  # Pillow does not scale the 12-bit samples of a TIFF
    white, samples = 2**bits - 1, np.asarray(image).astype(np.uint32)
    array = ((samples * 255 + white // 2) // white).astype(np.uint8)
    if 0 in tiff_tag(image, _PHOTOMETRIC):  # white is 0; Pillow inverts only up to 8 bits
        array = 255 - array
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        array[samples == transparent] = 255
    return Image.fromarray(array)


def _is_transparent(image: Image.Image) -> bool:
    # Pillow's own has_transparency_data fails on the mode P of an ICNS, which has no palette object.
    palette = image.palette.mode if image.mode == "P" and image.palette is not None else ""
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info or palette.endswith("A")


def _on_white(image: Image.Image, rawmode: str) -> Image.Image:
    """Show an image with transparency on white: the colors under transparent pixels are arbitrary."""
    transparent = image.info.get("transparency")
    if image.mode == "RGB" and (rawmode == "RGB;16B" or (isinstance(transparent, tuple) and max(transparent) > 255)):
        raise ValueError("a transparent color of 16 bits, of which Pillow keeps only 8; save it with an alpha channel")
    image = image.copy()  # Pillow writes alphas into a palette in place
    if rawmode in ("L;2", "L;4") and isinstance(transparent, int):  # Pillow scales the samples, but not this one
        image.info["transparency"] = transparent * (85 if rawmode == "L;2" else 17)
    if image.mode == "La":
        image = image.convert("LA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _rawmode(image: Image.Image) -> str:
    """Return how the samples of a PNG are stored; empty once it is loaded, and for other formats."""
    tile = getattr(image, "tile", None) if image.format == "PNG" else None
    return str(tile[0][3]) if tile else ""


def tiff_tag(image: Image.Image, tag: int) -> tuple[int, ...]:
    """Return the values of a TIFF's tag; an empty tuple if there is no such tag, or the file is not a TIFF."""
    value = getattr(image, "tag_v2", {}).get(tag, ()) if image.format == "TIFF" else ()
    return value if isinstance(value, tuple) else (value,)
