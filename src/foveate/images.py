"""Pictures as users hold them, to the tensors that Foveate works on, and back."""

import hashlib
import io
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFile, UnidentifiedImageError
from torch import Tensor

from foveate._checks import MAX_PIXELS

Picture: TypeAlias = "Tensor | npt.NDArray[np.uint8] | Image.Image"
"""A tensor (C, H, W), uint8 or float in [0, 1]; a uint8 array (H, W, C) or (H, W); or a PIL image, RGB or L."""


_DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_tensor(images: Tensor, name: str = "images") -> None:
    """Raise unless ``images`` is (..., 3 or 1, H, W) with H, W >= 1, uint8 in 0..255 or float in [0, 1].

    Raises:
        TypeError: if it is no tensor, or of another dtype.
        ValueError: if its shape or its values do not fit.

    Example:
        >>> check_tensor(torch.full((3, 4, 4), 2.0))
        Traceback (most recent call last):
        ValueError: images: expected values in [0, 1], got 2 to 2; undo any normalisation, and divide 0..255 by 255
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(images).__name__}")
    if images.layout != torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got one of layout {images.layout}; use .to_dense()")
    if images.dtype not in _DTYPES:
        raise TypeError(
            f"{name}: expected dtype uint8, or floating point of 16 bits or more, got {images.dtype}; scale "
            "to 0..255 and use .to(torch.uint8), or to [0, 1] and use .float()"
        )
    if images.ndim < 3 or images.shape[-3] not in (1, 3) or 0 in images.shape[-2:]:
        alpha = {2: "LA", 4: "RGBA"}.get(images.shape[-3]) if images.ndim >= 3 else None
        cure = "" if alpha is None else f"; if that is {alpha}, leave out the alpha channel: [..., :-1, :, :]"
        raise ValueError(f"{name}: expected shape (..., 3 or 1, H, W) with H, W >= 1, got {tuple(images.shape)}{cure}")
    if images.is_floating_point() and images.numel():
        low, high = (float(v) for v in torch.aminmax(images.detach()))
        if not (low >= 0 and high <= 1):  # written so that NaN is refused too
            raise ValueError(
                f"{name}: expected values in [0, 1], got {low:.4g} to {high:.4g}; undo any normalisation, and divide "
                "0..255 by 255"
            )


def to_float(images: Tensor) -> Tensor:
    """Return uint8 images as float32 in [0, 1]; float images are returned as they are."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def to_uint8(images: Tensor) -> Tensor:
    """Return float images in [0, 1] rounded to uint8, clamped; uint8 images are returned as they are."""
    if images.dtype == torch.uint8:
        return images
    # By way of int16, which is several times as fast as from float to uint8.
    return images.float().mul(255).round_().clamp_(0, 255).to(torch.int16).to(torch.uint8)


def like(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Return images, uint8 or float in [0, 1], in ``dtype``, itself uint8 or floating point."""
    return to_uint8(images) if dtype == torch.uint8 else to_float(images).to(dtype)


def as_batch(images: "Tensor | Sequence[Picture]") -> list[Tensor]:
    """Return one (C, H, W) tensor a picture, for a batch (B, C, H, W) or a sequence of pictures of any kinds.

    Raises:
        TypeError: if something in it is no picture.
        ValueError: if a shape, a mode or a value range does not fit.

    Example:
        >>> [tuple(t.shape) for t in as_batch([Image.new("L", (5, 4)), np.zeros((2, 3, 3), np.uint8)])]
        [(1, 4, 5), (3, 2, 3)]
    """
    if isinstance(images, Tensor):
        if images.ndim != 4:
            raise ValueError(
                f"images: expected a batch (B, C, H, W), got {tuple(images.shape)}; one picture is [picture]"
            )
        check_tensor(images)
        return list(images)
    if isinstance(images, str | bytes | np.ndarray | Image.Image) or not isinstance(images, Sequence):
        raise TypeError(f"images: expected a batch (B, C, H, W) or a list of pictures, got {type(images).__name__}")
    return [as_tensor(picture, f"images[{k}]") for k, picture in enumerate(images)]


def as_tensor(picture: Picture, name: str = "picture") -> Tensor:
    """Return one picture as a (C, H, W) tensor, C 3 or 1; a tensor is checked and returned as it is."""
    if isinstance(picture, Image.Image):
        if picture.mode not in ("RGB", "L"):
            cure = (
                "what its samples are in 0..255 is for you to say: scale them, and pass a uint8 array"
                if picture.mode in _NO_RANGE
                else "use foveate.images.render(picture)"
                if picture.mode in _SIXTEEN_BITS
                else "use .convert('RGB'), or foveate.images.render(picture), which shows what is transparent on white"
            )
            raise ValueError(f"{name}: expected a PIL image of mode RGB or L, got {picture.mode}; {cure}")
        with strictly():  # it may be a file that is not read yet
            picture = np.array(picture)
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8:
            raise TypeError(f"{name}: expected a uint8 array, got {picture.dtype}; pass floats as a tensor (C, H, W)")
        if picture.ndim == 2:
            picture = picture[..., None]
        if picture.ndim != 3:
            raise ValueError(f"{name}: expected an array (H, W, C) or (H, W), got {picture.shape}")
        if picture.shape[2] not in (1, 3):
            alpha = {2: "LA", 4: "RGBA"}.get(picture.shape[2])
            cure = "" if alpha is None else f"; if that is {alpha}, leave out the alpha channel: [..., :-1]"
            raise ValueError(f"{name}: expected an array (H, W, 3 or 1) or (H, W), got {picture.shape}{cure}")
        picture = from_array(picture)
    if not isinstance(picture, Tensor):
        raise TypeError(f"{name}: expected a tensor, a numpy array or a PIL image, got {type(picture).__name__}")
    if picture.ndim != 3:
        raise ValueError(f"{name}: expected a tensor (C, H, W), got {tuple(picture.shape)}")
    check_tensor(picture, name)
    return picture


def to_array(image: Tensor) -> npt.NDArray[np.uint8]:
    """Return a (C, H, W) tensor, uint8 or float in [0, 1], as a uint8 array (H, W, C)."""
    channels = to_uint8(image.detach()).cpu().unbind(0)
    array: npt.NDArray[np.uint8] = torch.stack(channels, -1).numpy()  # faster than a copy of the permuted tensor
    return array


def from_array(array: npt.NDArray[np.uint8]) -> Tensor:
    """Return a uint8 array (H, W, C) as a contiguous uint8 tensor (C, H, W) of its own memory."""
    # A copy: the tensor must neither share the caller's memory nor complain that it is read-only.
    return torch.from_numpy(array.transpose(2, 0, 1).copy(order="C"))


def same_size(pictures: Sequence[Tensor]) -> list[list[int]]:
    """Return the places of pictures that agree in shape, kind and device, so that they can be stacked."""
    groups: dict[Any, list[int]] = {}
    for i, picture in enumerate(pictures):
        groups.setdefault((picture.shape, picture.dtype, picture.device), []).append(i)
    return [*groups.values()]


_strict_lock = threading.Lock()
_strict_uses = 0
_lenient: Any = False


@contextmanager
def strictly() -> Iterator[None]:
    """Let Pillow refuse a file that breaks off, whatever ``ImageFile.LOAD_TRUNCATED_IMAGES`` says.

    That is one switch for the whole process, which training scripts like to leave on: it is off while any thread is in
    this block, for other threads too, and then as it was.
    """
    global _strict_uses, _lenient
    with _strict_lock:
        _strict_uses += 1
        if ImageFile.LOAD_TRUNCATED_IMAGES:
            _lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        yield
    finally:
        with _strict_lock:
            _strict_uses = max(0, _strict_uses - 1)  # 0 already where a fork came in between
            if _strict_uses == 0:
                _restore()


def _restore() -> None:
    global _lenient
    if _lenient:
        ImageFile.LOAD_TRUNCATED_IMAGES, _lenient = _lenient, False


def _after_fork() -> None:
    """In a forked process no other thread is left to leave the block, or to give the lock back."""
    global _strict_lock, _strict_uses
    _strict_lock, _strict_uses = threading.Lock(), 0
    _restore()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_NO_RANGE = ("I", "F")
_OPAQUE = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
_FULL_RANGE = (None, "PNG", "ICO", "ICNS", "JPEG2000", "IM", "TIFF")
"""Where 16-bit samples run from black at 0; those of FITS and McIDAS are measurements."""
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
"""Tags of TIFF (6.0, section 8)."""
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


def render(picture: Image.Image, grey: bool = False) -> Image.Image:
    """Return a PIL image of any mode as it is seen, in 8 bits a channel.

    Samples of 16 bits are scaled from the range of their file's format, which is 0 to 65535 in memory, and rounded.
    What is transparent is shown on white.

    Args:
        picture: in memory, or a file that was opened, at its present frame.
        grey: return modes 1, L and I;16 as L.

    Returns:
        An image of mode RGB, or L.

    Raises:
        ValueError: if it is not known which samples are black and white: modes I and F, signed samples, measurements.
        OSError, SyntaxError, EOFError: if it is a file that cannot be read to its end.

    Example:
        >>> render(Image.new("I;16", (5, 4), 70 * 257)).getpixel((0, 0))
        (70, 70, 70)
    """
    rawmode = _rawmode(picture)
    with strictly():
        picture.load()
    if 2 in _tags(picture, _SAMPLE_FORMAT):
        raise ValueError("a TIFF of signed samples, of which it is not known what is black; save it unsigned")
    if picture.mode in _SIXTEEN_BITS + _NO_RANGE:
        picture = _eight_bits(picture)
    elif _transparent(picture):
        return _on_white(picture, rawmode)
    elif picture.mode not in _OPAQUE:
        raise ValueError(f"a picture of mode {picture.mode}, which is not known; convert it to RGB")
    return picture.convert("L" if grey and picture.mode in ("1", "L") else "RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Scale grey samples of more than 8 bits to an image of mode L."""
    format = picture.format
    if not (format in _FULL_RANGE if picture.mode in _SIXTEEN_BITS else (picture.mode, format) == ("I", "PPM")):
        of = "" if format is None else f" of {format}"
        raise ValueError(f"samples of mode {picture.mode}{of}, whose range is not known; scale them to 8 bits first")
    bits = next(iter(_tags(picture, _BITS)), 16)  # 12 of a TIFF come as they are
    white, samples = 2**bits - 1, np.asarray(picture).astype(np.uint32)
    array = ((samples * 255 + white // 2) // white).astype(np.uint8)
    if 0 in _tags(picture, _PHOTOMETRIC):  # white is 0, which Pillow sees to up to 8 bits
        array = 255 - array
    key = picture.info.get("transparency")
    if isinstance(key, int):
        array[samples == key] = 255
    return Image.fromarray(array)


def _transparent(picture: Image.Image) -> bool:
    # Pillow's own has_transparency_data fails on the P of an ICNS, which has no palette object.
    palette = picture.palette.mode if picture.mode == "P" and picture.palette is not None else ""
    return picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info or palette.endswith("A")


def _on_white(picture: Image.Image, rawmode: str) -> Image.Image:
    """Show a picture with transparency on white: what lies under it is no part of the picture."""
    key = picture.info.get("transparency")
    if picture.mode == "RGB" and (rawmode == "RGB;16B" or (isinstance(key, tuple) and max(key) > 255)):
        raise ValueError("a transparent colour of 16 bits, of which Pillow keeps 8; save it with an alpha channel")
    picture = picture.copy()  # a palette is given its alphas in place
    if rawmode in ("L;2", "L;4") and isinstance(key, int):  # Pillow scales the samples, and not the key
        picture.info["transparency"] = key * (85 if rawmode == "L;2" else 17)
    if picture.mode == "La":
        picture = picture.convert("LA")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")


def _rawmode(picture: Image.Image) -> str:
    """How the samples lie in a PNG; empty once it is loaded, and for other formats."""
    tile = getattr(picture, "tile", None) if picture.format == "PNG" else None
    return str(tile[0][3]) if tile else ""


def _tags(picture: Image.Image, tag: int) -> tuple[int, ...]:
    """The values of a TIFF's tag; none where there is no such tag, or the file is no TIFF."""
    value = getattr(picture, "tag_v2", {}).get(tag, ()) if picture.format == "TIFF" else ()
    return value if isinstance(value, tuple) else (value,)


UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
"""What :func:`read` raises, all in all, on a file that is no readable picture."""


def read(file: str | Path | bytes, grey: bool = False, upright: bool = True) -> Tensor:
    """Read a picture file as uint8 RGB (3, H, W), as :func:`render` shows it; of several frames or pages the first.

    Args:
        file: its path, or what is in it; any format that Pillow knows.
        grey: return a picture without colours as (1, H, W).
        upright: turn it as EXIF says it is to be seen, as people see it; many loaders of data sets do not.

    Raises:
        OSError, ValueError, SyntaxError, EOFError: if it is no readable picture; ``UNREADABLE`` has them all.
        ValueError: if it has more than ``foveate.codecs.MAX_PIXELS`` pixels, or samples that :func:`render` refuses.

    Example:
        >>> stream = io.BytesIO()
        >>> Image.new("L", (5, 4)).save(stream, "PNG")
        >>> read(stream.getvalue()).shape, read(stream.getvalue(), grey=True).shape
        (torch.Size([3, 4, 5]), torch.Size([1, 4, 5]))
    """
    with _opened(file) as picture:
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(f"{picture.width}x{picture.height} is over the limit of {MAX_PIXELS} pixels")
        shown = render(picture, grey)
        # Asked after loading: Pillow turns a TIFF by itself.
        turn = _UPRIGHT.get(picture.getexif().get(_ORIENTATION, 1)) if upright else None
        array = np.asarray(shown if turn is None else shown.transpose(turn))
        return from_array(array[..., None] if array.ndim == 2 else array)


def lies_on_its_side(file: bytes) -> bool:
    """Whether EXIF says that a picture file is to be turned before it is seen."""
    with _opened(file) as picture:
        return picture.getexif().get(_ORIENTATION, 1) not in (0, 1)


def frames(file: bytes) -> int:
    """Return how many frames or pages a picture file has, of which :func:`read` takes the first.

    Raises:
        OSError, ValueError, SyntaxError, EOFError: if they cannot be counted; ``UNREADABLE`` has them all.
    """
    with _opened(file) as picture:
        # Those of Photoshop are the layers of one picture.
        return 1 if picture.format == "PSD" else int(getattr(picture, "n_frames", 1))


@contextmanager
def _opened(file: str | Path | bytes) -> Iterator[Image.Image]:
    with strictly():
        try:
            opened = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
        except UnidentifiedImageError as error:  # whose own words have an address of the memory in them
            raise UnidentifiedImageError("no picture of a format that Pillow knows") from error
        with opened as picture:
            yield picture


def picture_hash(pixels: Tensor) -> str:
    """Return 32 hexadecimal digits that tell one picture (C, H, W) from another, by its pixels as uint8 (SHA-256).

    Example:
        >>> black = torch.zeros(3, 2, 2)
        >>> picture_hash(black) == picture_hash(black.byte()), picture_hash(black) == picture_hash(black.view(3, 4, 1))
        (True, False)
    """
    digest = hashlib.sha256(str(tuple(pixels.shape)).encode())
    digest.update(to_uint8(pixels.detach()).cpu().contiguous().numpy().data)
    return digest.hexdigest()[:32]
