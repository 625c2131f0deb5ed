"""Images as tensors, NumPy arrays and PIL images: checks and conversions."""

import hashlib
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from foveate.images._decoding import guarded_decoding
from foveate.images._render import SIXTEEN_BIT_MODES, UNSCALED_MODES

ImageLike: TypeAlias = "Tensor | npt.NDArray[np.uint8] | Image.Image"
"""A tensor (C, H, W), uint8 or float in [0, 1]; a uint8 array (H, W, C) or (H, W); or a PIL image, RGB or L."""

_DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WITH_ALPHA = {2: "LA", 4: "RGBA"}


def check_tensor(images: Tensor, name: str = "images") -> None:
    """Raise unless ``images`` is (..., 3 or 1, H, W) with H, W >= 1, uint8 in 0..255 or float in [0, 1].

    Raises:
        TypeError: if it is not a tensor, or is of another dtype.
        ValueError: if its shape or its values do not fit.

    Example:
        >>> check_tensor(torch.full((3, 4, 4), 2.0))
        Traceback (most recent call last):
        ValueError: images: expected values in [0, 1], got 2 to 2; undo any normalization, and divide 0..255 by 255
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
        cure = _drop_alpha(images.shape[-3], "[..., :-1, :, :]") if images.ndim >= 3 else ""
        raise ValueError(f"{name}: expected shape (..., 3 or 1, H, W) with H, W >= 1, got {tuple(images.shape)}{cure}")
    if images.is_floating_point() and images.numel():
        low, high = (float(value) for value in torch.aminmax(images.detach()))
        if not (low >= 0 and high <= 1):  # written so that NaN is refused too
            raise ValueError(
                f"{name}: expected values in [0, 1], got {low:.4g} to {high:.4g}; undo any normalization, and divide "
                "0..255 by 255"
            )


def _drop_alpha(channels: int, index: str) -> str:
    """Return how to drop the alpha channel, for an error message; empty for numbers of channels without one."""
    mode = _WITH_ALPHA.get(channels)
    return "" if mode is None else f"; if that is {mode}, leave out the alpha channel: {index}"


def to_float(images: Tensor) -> Tensor:
    """Return uint8 images as float32 in [0, 1]; float images are returned as they are."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def to_uint8(images: Tensor) -> Tensor:
    """Return float images in [0, 1] rounded to uint8, clamped; uint8 images are returned as they are."""
    if images.dtype == torch.uint8:
        return images
    # Through int16, which is several times as fast as straight from float to uint8.
    return images.float().mul(255).round_().clamp_(0, 255).to(torch.int16).to(torch.uint8)


def to_dtype(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Return images, uint8 or float in [0, 1], in ``dtype``, itself uint8 or floating point, scaled to its range."""
    return to_uint8(images) if dtype == torch.uint8 else to_float(images).to(dtype)


def as_batch(images: "Tensor | Sequence[ImageLike]") -> list[Tensor]:
    """Return one (C, H, W) tensor an image, for a batch (B, C, H, W) or a sequence of images of any kinds.

    Raises:
        TypeError: if an item is not an image.
        ValueError: if a shape, a mode or a value range does not fit.

    Example:
        >>> [tuple(t.shape) for t in as_batch([Image.new("L", (5, 4)), np.zeros((2, 3, 3), np.uint8)])]
        [(1, 4, 5), (3, 2, 3)]
    """
    if isinstance(images, Tensor):
        if images.ndim != 4:
            raise ValueError(
                f"images: expected a batch (B, C, H, W), got {tuple(images.shape)}; for one image pass [image]"
            )
        check_tensor(images)
        return list(images)
    if isinstance(images, str | bytes | np.ndarray | Image.Image) or not isinstance(images, Sequence):
        raise TypeError(f"images: expected a batch (B, C, H, W) or a list of images, got {type(images).__name__}")
    return [as_tensor(image, f"images[{k}]") for k, image in enumerate(images)]


def as_tensor(image: ImageLike, name: str = "image") -> Tensor:
    """Return one image as a (C, H, W) tensor, C 3 or 1; a tensor is checked and returned as it is.

    Raises:
        TypeError: if it is not an image, or of another dtype.
        ValueError: if its shape, its mode or its values do not fit.

    Example:
        >>> as_tensor(Image.new("RGB", (5, 4))).shape
        torch.Size([3, 4, 5])
    """
    if isinstance(image, Image.Image):
        image = _pil_to_array(image, name)
    if isinstance(image, np.ndarray):
        image = _array_to_tensor(image, name)
    if not isinstance(image, Tensor):
        raise TypeError(f"{name}: expected a tensor, a numpy array or a PIL image, got {type(image).__name__}")
    if image.ndim != 3:
        raise ValueError(f"{name}: expected a tensor (C, H, W), got {tuple(image.shape)}")
    check_tensor(image, name)
    return image


def _pil_to_array(image: Image.Image, name: str) -> npt.NDArray[np.uint8]:
    if image.mode not in ("RGB", "L"):
        if image.mode in UNSCALED_MODES:
            cure = "its samples have no known range: scale them to 0..255, and pass a uint8 array"
        elif image.mode in SIXTEEN_BIT_MODES:
            cure = "use foveate.images.render(image)"
        else:
            cure = "use .convert('RGB'), or foveate.images.render(image), which shows transparent pixels on white"
        raise ValueError(f"{name}: expected a PIL image of mode RGB or L, got {image.mode}; {cure}")
    with guarded_decoding():  # it may be a file that is not read yet
        image.load()
    return np.array(image)


def _array_to_tensor(array: npt.NDArray[Any], name: str) -> Tensor:
    if array.dtype != np.uint8:
        raise TypeError(f"{name}: expected a uint8 array, got {array.dtype}; pass floats as a tensor (C, H, W)")
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3:
        raise ValueError(f"{name}: expected an array (H, W, C) or (H, W), got {array.shape}")
    if array.shape[2] not in (1, 3):
        cure = _drop_alpha(array.shape[2], "[..., :-1]")
        raise ValueError(f"{name}: expected an array (H, W, 3 or 1) or (H, W), got {array.shape}{cure}")
    return from_array(array)


def to_array(image: Tensor) -> npt.NDArray[np.uint8]:
    """Return a (C, H, W) tensor, uint8 or float in [0, 1], as a uint8 array (H, W, C)."""
    channels = to_uint8(image.detach()).cpu().unbind(0)
    array: npt.NDArray[np.uint8] = torch.stack(channels, -1).numpy()  # faster than a copy of the permuted tensor
    return array


def from_array(array: npt.NDArray[np.uint8]) -> Tensor:
    """Return a uint8 array (H, W, C) as a contiguous uint8 tensor (C, H, W) with memory of its own."""
    # A copy: the tensor must neither share the caller's memory nor warn that it is read-only.
    return torch.from_numpy(array.transpose(2, 0, 1).copy(order="C"))


def group_by_shape(images: Sequence[Tensor]) -> list[list[int]]:
    """Return the indices of images that have shape, dtype and device in common, so that they can be stacked.

    Example:
        >>> group_by_shape([torch.zeros(3, 4, 4), torch.zeros(3, 5, 5), torch.zeros(3, 4, 4)])
        [[0, 2], [1]]
    """
    groups: dict[Any, list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault((image.shape, image.dtype, image.device), []).append(index)
    return [*groups.values()]


def image_hash(image: Tensor) -> str:
    """Return 32 hexadecimal digits that identify an image (C, H, W) by its pixels as uint8 (SHA-256).

    Example:
        >>> black = torch.zeros(3, 2, 2)
        >>> image_hash(black) == image_hash(black.byte()), image_hash(black) == image_hash(black.view(3, 4, 1))
        (True, False)
    """
    digest = hashlib.sha256(str(tuple(image.shape)).encode())
    digest.update(to_uint8(image.detach()).cpu().contiguous().numpy().data)
    return digest.hexdigest()[:32]
