"""What every saliency is, and the one scale that all maps are on."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from foveate.models import name_of


@runtime_checkable
class Saliency(Protocol):
    """Anything that maps images to saliency maps.

    Called with (B, 3, H, W) images, uint8 or float in [0, 1], it returns (B, 1, h, w) float32 maps in [0, 1] on the
    images' device, detached, h and w as the method gives them; 1 is where the network looks most. Each map depends on
    its own image only.
    """

    def __call__(self, images: Tensor, /) -> Tensor: ...


def identity_of(saliency: Saliency) -> str:
    """Return what maps depend on, as one line: a saliency's own ``identity``; one without is known by its name alone.

    Example:
        >>> identity_of(normalise)
        'foveate.saliency._protocol.normalise'
    """
    return str(getattr(saliency, "identity", None) or name_of(saliency))


def normalise(maps: Tensor) -> Tensor:
    """Scale raw attributions to maps: negative values to 0, then each map divided by its own maximum.

    A map in which nothing stands out (no positive value, or the same everywhere) becomes 1 everywhere: keep it all.

    Args:
        maps: (B, 1, h, w), any floating dtype.

    Returns:
        (B, 1, h, w) float32 in [0, 1], detached.

    Raises:
        ValueError: if a value is not finite.

    Example:
        >>> normalise(torch.tensor([[[[-1.0, 2.0, 4.0]]], [[[0.0, 0.0, 0.0]]]])).squeeze().tolist()
        [[0.0, 0.5, 1.0], [1.0, 1.0, 1.0]]
    """
    maps = maps.detach().float()
    if not bool(torch.isfinite(maps).all()):
        raise ValueError("saliency: the model gave values that are not finite; check its weights and its input's scale")
    maps = maps.clamp_min(0)
    peak = maps.amax(dim=(-2, -1), keepdim=True)
    # Dividing by a subnormal peak would overflow; such a map says nothing.
    return torch.where(peak > torch.finfo(torch.float32).tiny, maps / peak, torch.ones_like(maps)).clamp_(0, 1)
