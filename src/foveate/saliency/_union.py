"""The maps of several saliencies in one, for networks that are none of theirs."""

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from foveate.saliency._protocol import Saliency, normalize, saliency_maps
from foveate.saliency._spec import SaliencySpec, as_saliency, register_saliency


@register_saliency
class Union(Saliency):
    """What several saliencies look at: the maximum or the mean of their maps.

    Maps of fewer cells are interpolated (bilinear) to the finest grid.

    Args:
        saliencies: at least one, each in any form that :func:`foveate.saliency.as_saliency` takes, such as a model's
            recipe for its Grad-CAM.
        combine: ``"max"`` or ``"mean"``.

    Raises:
        TypeError: if ``saliencies`` is not a sequence of saliencies.
        ValueError: if it is empty, or there is no such way to combine them.

    Example:
        >>> left, right = (lambda images, side=side: torch.eye(2)[side].view(1, 1, 1, 2) for side in (0, 1))
        >>> Union([left, right])(torch.zeros(1, 3, 8, 8)).flatten()
        tensor([1., 1.])
    """

    def __init__(self, saliencies: Sequence[SaliencySpec], combine: str = "max") -> None:
        if isinstance(saliencies, str) or not isinstance(saliencies, Sequence):
            raise TypeError(f"saliencies: expected a list of saliencies, got {saliencies!r}")
        if not saliencies:
            raise ValueError("saliencies: expected at least one")
        if combine not in ("max", "mean"):
            raise ValueError(f"combine: expected 'max' or 'mean', got {combine!r}")
        self.saliencies = tuple(as_saliency(saliency) for saliency in saliencies)
        self.combine = combine

    @property
    def uses_labels(self) -> bool:
        """Whether any of them uses labels."""
        return any(saliency.uses_labels for saliency in self.saliencies)

    def to(self, device: str | torch.device) -> Self:
        """Move the models to a device."""
        for saliency in self.saliencies:
            saliency.to(device)
        return self

    def __call__(self, images: Tensor) -> Tensor:
        """Return the combined maps (B, 1, h, w) of images (B, 3, H, W); see :class:`foveate.Saliency`.

        The mean is divided by its maximum, so that every map has a 1.
        """
        maps = [saliency_maps(saliency, images).float() for saliency in self.saliencies]
        size = tuple(max(sides) for sides in zip(*(m.shape[-2:] for m in maps), strict=True))
        stack = torch.stack([F.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps])
        return stack.amax(0) if self.combine == "max" else normalize(stack.mean(0))

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return (self.saliencies, self.combine) == (other.saliencies, other.combine)

    def __hash__(self) -> int:
        return hash((type(self), self.saliencies, self.combine))

    def __repr__(self) -> str:
        return f"Union([{', '.join(map(repr, self.saliencies))}], {self.combine!r})"
