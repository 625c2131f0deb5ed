"""What a classifier does to an image before it looks at it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foveate._checks import check_count
from foveate.images import check_tensor, to_float

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""The mean of ImageNet's images in [0, 1], by channel."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Their standard deviation."""


@dataclass(frozen=True)
class Preprocess:
    """A classifier's preprocessing: resize the shorter side, crop the center, normalize.

    Args:
        resize: the shorter side in pixels after resizing, the aspect ratio kept; None does not resize.
        crop: the side of the square cut from the center; None keeps the whole image.
        mean: one number a channel, in units of [0, 1] images.
        std: one number a channel, positive.
        interpolation: ``"bilinear"`` or ``"bicubic"``, antialiased, as torchvision's pretrained weights say.

    Example:
        >>> Preprocess(resize=64, crop=56)(torch.zeros(1, 3, 100, 150, dtype=torch.uint8)).shape
        torch.Size([1, 3, 56, 56])
    """

    resize: int | None = None
    crop: int | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        for name in ("resize", "crop"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, check_count(name, getattr(self, name)))
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean, std: expected three numbers each, std positive, got {self.mean} and {self.std}")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"interpolation: expected 'bilinear' or 'bicubic', got {self.interpolation!r}")

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
                images = F.resize(images, [self.resize], InterpolationMode(self.interpolation), antialias=True)
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

    def without_crop(self) -> "Preprocess":
        """Return the same preprocessing without the crop, for maps that cover the whole image."""
        return replace(self, crop=None)
