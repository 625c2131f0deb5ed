"""What a classifier does to an image before it looks at it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn

from foveate._checks import check_count
from foveate.identity import describe, identity, refuse_subclass
from foveate.images import check_tensor, to_array, to_float

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""The mean of ImageNet's images in [0, 1], by channel."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Their standard deviation."""
INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
"""Those that a :class:`Preprocess` takes."""


@dataclass(frozen=True)
class Preprocess:
    """A classifier's preprocessing: resize the shorter side, crop the center, normalize.

    Args:
        resize: the shorter side in pixels after resizing, the aspect ratio kept; or (height, width), to which images
            are squashed; None does not resize.
        crop: the side of the square cut from the center; None keeps the whole image.
        mean: one number a channel, in units of [0, 1] images.
        std: one number a channel, positive.
        interpolation: ``"bilinear"`` or ``"bicubic"``, antialiased, as torchvision's pretrained weights say; or
            ``"nearest"``.

    Raises:
        TypeError: if a side is not a whole number.
        ValueError: if a side is below 1, or another argument is not as above.

    Example:
        >>> Preprocess(resize=64, crop=56)(torch.zeros(1, 3, 100, 150, dtype=torch.uint8)).shape
        torch.Size([1, 3, 56, 56])
    """

    resize: int | tuple[int, int] | None = None
    crop: int | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if isinstance(self.resize, Sequence) and not isinstance(self.resize, str):
            if len(self.resize) != 2:
                raise ValueError(f"resize: expected the shorter side, or height and width, got {self.resize}")
            object.__setattr__(self, "resize", tuple(check_count("resize", side) for side in self.resize))
        elif self.resize is not None:
            object.__setattr__(self, "resize", check_count("resize", self.resize))
        if self.crop is not None:
            object.__setattr__(self, "crop", check_count("crop", self.crop))
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean, std: expected three numbers each, std positive, got {self.mean} and {self.std}")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation: expected {' or '.join(INTERPOLATIONS)}, got {self.interpolation!r}")

    def __call__(self, images: Tensor) -> Tensor:
        """Return (B, 3, h, w) floats for the network from (B, 3, H, W), uint8 or float in [0, 1].

        Resizing and cropping are torchvision's, so uint8 images give what its own preprocessing gives. Half precision
        is computed and returned in float32; float64 stays.
        """
        check_tensor(images)
        if images.dtype in (torch.float16, torch.bfloat16):
            images = images.float()
        if self.resize is not None or self.crop is not None:
            from torchvision.transforms.v2 import InterpolationMode
            from torchvision.transforms.v2 import functional as F

            if self.resize is not None:
                sides = [self.resize] if isinstance(self.resize, int) else [*self.resize]
                images = F.resize(images, sides, InterpolationMode(self.interpolation), antialias=True)
            if self.crop is not None:
                images = F.center_crop(images, [self.crop])
        x = to_float(images)
        mean, std = (
            torch.tensor(values, dtype=x.dtype, device=x.device).view(-1, 1, 1) for values in (self.mean, self.std)
        )
        return (x - mean) / std

    def batch(self, images: Sequence[Tensor]) -> Tensor:
        """Return (N, 3, h, w) floats for the network from N images (3, H, W) of any sizes.

        Raises:
            ValueError: if they differ in size after preprocessing.
        """
        views = [self(image[None]) for image in images]
        if len({view.shape for view in views}) > 1:
            raise ValueError("images: they differ in size after preprocessing; give the Preprocess a crop")
        return torch.cat(views)

    @property
    def short_side(self) -> int | None:
        """The shorter side after resizing; None if images are not resized."""
        return self.resize if self.resize is None or isinstance(self.resize, int) else min(self.resize)

    @property
    def fixes_size(self) -> bool:
        """Whether images of all sizes come out in one."""
        return self.crop is not None or isinstance(self.resize, tuple)

    def without_crop(self) -> "Preprocess":
        """Return the same preprocessing without the crop, for maps that cover the whole image."""
        return replace(self, crop=None)

    def without_geometry(self) -> "Preprocess":
        """Return the normalization alone, for images that are cut and scaled elsewhere."""
        return replace(self, resize=None, crop=None)

    def __str__(self) -> str:
        """Say it in words."""
        sides = self.resize if self.resize is None or isinstance(self.resize, int) else "×".join(map(str, self.resize))
        parts = [] if sides is None else [f"resize {sides} ({self.interpolation})"]
        parts += [] if self.crop is None else [f"crop {self.crop}"]
        if (self.mean, self.std) == (IMAGENET_MEAN, IMAGENET_STD):
            return ", ".join([*parts, "ImageNet's mean and std"])
        numbers = (" ".join(f"{number:.3g}" for number in values) for values in (self.mean, self.std))
        return ", ".join([*parts, "mean {}, std {}".format(*numbers)])


@dataclass(frozen=True)
class PictureTransform(Preprocess):
    """The preprocessing of a function from a picture to a tensor, of which nothing else is known.

    It judges, and is a witness. What must know which part of an image the network sees, maps and edits, refuses it.

    Args:
        function: takes a ``PIL.Image`` in RGB and returns a float tensor (3, h, w).

    Raises:
        TypeError: if ``function`` is not callable.

    Example:
        >>> from torchvision.transforms.v2.functional import to_dtype, to_image
        >>> PictureTransform(function=lambda picture: to_dtype(to_image(picture.resize((9, 9))), scale=True))(
        ...     torch.zeros(2, 3, 20, 30)
        ... ).shape
        torch.Size([2, 3, 9, 9])
    """

    function: Callable[[Image.Image], Tensor] = field(default=cast("Any", None), kw_only=True)

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"function: expected one from a picture to a tensor, got {type(self.function).__name__}")

    def __call__(self, images: Tensor) -> Tensor:
        """Return (B, 3, h, w) floats for the network from (B, 3, H, W), uint8 or float in [0, 1].

        Raises:
            ValueError: if the function fails, returns something else, or tensors of different sizes.
        """
        check_tensor(images)
        views = [self._view(image) for image in images]
        if len({view.shape for view in views}) > 1:
            raise ValueError(f"preprocess: {self} gives tensors of different sizes for images of one")
        return torch.stack(views).to(images.device)

    def _view(self, image: Tensor) -> Tensor:
        pixels = image if image.dtype == torch.uint8 else (to_float(image).clamp(0, 1) * 255).round().to(torch.uint8)
        picture = Image.fromarray(to_array(pixels))
        try:
            view = self.function(picture)
        except Exception as error:  # whatever the user's code raises, the message should say whose it was
            raise ValueError(f"preprocess: {self} failed: {type(error).__name__}: {error}") from error
        if not isinstance(view, Tensor) or view.ndim != 3 or not view.is_floating_point():
            got = f"{tuple(view.shape)} of {view.dtype}" if isinstance(view, Tensor) else type(view).__name__
            raise ValueError(f"preprocess: {self} is to return a float tensor (3, h, w), got {got}")
        return view

    @property
    def identity(self) -> str:
        """The function as one line of text; of torchvision's transforms, their classes and settings."""
        refuse_subclass(self, PictureTransform)
        return describe(self, {"function": _identity_of_step(self.function)})

    def without_crop(self) -> "Preprocess":
        """Return what raises when it is called, as what the function crops is not known."""
        return _Unplaced(function=self.function)

    def without_geometry(self) -> "Preprocess":
        """Raise, as what the function does beside is not known.

        Raises:
            ValueError: naming the cure.
        """
        raise ValueError(
            f"preprocess: what part of an image {self} shows to the network is not known, which maps and edits need; "
            "give a foveate.models.Preprocess, or a Compose of torchvision's Resize, CenterCrop, ToTensor and Normalize"
        )

    def __str__(self) -> str:
        """Name the function."""
        return getattr(self.function, "__qualname__", type(self.function).__qualname__)


@dataclass(frozen=True)
class _Unplaced(PictureTransform):
    """Stands where maps would need the whole image in view: a command that makes none need not refuse the model."""

    def __call__(self, images: Tensor) -> Tensor:
        return self.without_geometry()(images)


def _identity_of_step(step: object) -> str:
    """Return the identity of a transform; torchvision's older ones are known by their settings."""
    if isinstance(step, nn.Module) or not type(step).__module__.startswith("torchvision."):
        return identity(step)
    settings = vars(step)
    if "transforms" in settings:
        settings = settings | {"transforms": [_identity_of_step(part) for part in settings["transforms"]]}
    return describe(step, settings)
