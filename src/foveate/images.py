"""Pictures as users hold them, to the tensors that Foveate works on, and back."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from foveate._checks import MAX_PIXELS

Picture: TypeAlias = "Tensor | npt.NDArray[np.uint8] | Image.Image"
"""A tensor (C, H, W), uint8 or float in [0, 1]; a uint8 array (H, W, C) or (H, W); or a PIL image, RGB or L."""


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
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"{name}: expected dtype uint8 or floating point, got {images.dtype}")
    if images.ndim < 3 or images.shape[-3] not in (1, 3) or 0 in images.shape[-2:]:
        raise ValueError(f"{name}: expected shape (..., 3 or 1, H, W) with H, W >= 1, got {tuple(images.shape)}")
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
            raise ValueError(f"{name}: expected a PIL image of mode RGB or L, got {picture.mode}; use .convert('RGB')")
        picture = np.array(picture)
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8:
            raise TypeError(f"{name}: expected a uint8 array, got {picture.dtype}; pass floats as a tensor (C, H, W)")
        if picture.ndim == 2:
            picture = picture[..., None]
        if picture.ndim != 3:
            raise ValueError(f"{name}: expected an array (H, W, C) or (H, W), got {picture.shape}")
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


UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
"""What :func:`read` raises, all in all, on a file that is no readable picture."""


def read(file: str | Path | bytes, grey: bool = False, upright: bool = True) -> Tensor:
    """Read a picture file as uint8 RGB (3, H, W).

    Args:
        file: its path, or what is in it; any format that Pillow knows.
        grey: return a picture without colours as (1, H, W).
        upright: turn it as EXIF says it is to be seen, as people see it; many loaders of data sets do not.

    Raises:
        OSError, ValueError, SyntaxError, EOFError: if it is no readable picture; ``UNREADABLE`` has them all.
        ValueError: if it has more than ``foveate.codecs.MAX_PIXELS`` pixels.

    Example:
        >>> stream = io.BytesIO()
        >>> Image.new("L", (5, 4)).save(stream, "PNG")
        >>> read(stream.getvalue()).shape, read(stream.getvalue(), grey=True).shape
        (torch.Size([3, 4, 5]), torch.Size([1, 4, 5]))
    """
    try:
        opened = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
    except UnidentifiedImageError as error:  # whose own words have an address of the memory in them
        raise UnidentifiedImageError("no picture of a format that Pillow knows") from error
    with opened as picture:
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(f"{picture.width}x{picture.height} is over the limit of {MAX_PIXELS} pixels")
        shown = ImageOps.exif_transpose(picture) if upright else picture
        if shown.mode in ("RGBA", "LA", "PA") or "transparency" in shown.info:
            # What lies under full transparency is no part of the picture: show it on white.
            shown = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown.convert("RGBA"))
        array = np.asarray(shown.convert("L" if grey and shown.mode in ("1", "L") else "RGB"))
        return from_array(array[..., None] if array.ndim == 2 else array)


def lies_on_its_side(file: bytes) -> bool:
    """Whether EXIF says that a picture file is to be turned before it is seen."""
    with Image.open(io.BytesIO(file)) as picture:
        return picture.getexif().get(0x0112, 1) not in (0, 1)


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
