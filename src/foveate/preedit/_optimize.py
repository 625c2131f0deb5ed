"""Editing images by gradient through a differentiable codec."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from foveate.codecs.proxy import Proxy
from foveate.preedit._bounds import Bounds

_FIRST_STEP, _LAST_STEP = 2.5, 0.2  # in gray levels
_BAND = 2**20  # pixels of an image that are coded at a time
_REFRESH = 3
"""Steps for which what a codec itself adds in decoding is used; every step instead saved no more."""


@dataclass(frozen=True)
class View:
    """Where a step looks: numbers in [0, 1], drawn alike for all images.

    Attributes:
        step: its number.
        top: of the crop, from the top (0) to the bottom (1).
        left: of the crop, from the left (0) to the right (1).
    """

    step: int
    top: float
    left: float


Distance: TypeAlias = Callable[[Tensor, Tensor, View], Tensor]
"""From the source, what is decoded and a view to the distance (B,)."""


def optimize(
    images: Tensor,
    proxy: Proxy,
    distance: Distance,
    weights: Tensor,
    bounds: Bounds | None,
    *,
    steps: int,
    seed: int,
) -> Tensor:
    """Edit images so that their bits shrink while what ``distance`` sees stays.

    The planes that the codec codes are optimized with Adam (Kingma and Ba 2015), whose step falls from 2.5 to 0.2 gray
    levels, on bits relative to those of the source plus weight times distance.

    Args:
        images: (B, 3 or 1, H, W) float in [0, 1].
        proxy: the differentiable codec.
        distance: from the source, what is decoded and a view to (B,).
        weights: (B,) of the distance.
        bounds: limits of the change.
        steps: of the optimizer.
        seed: of the views.

    Returns:
        The edited images, like ``images``.
    """
    size = (images.shape[-2], images.shape[-1])
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        source = proxy.planes(images)
        start = _code(proxy, source)[1]
    planes = [plane.clone().requires_grad_(True) for plane in source]
    optimizer = torch.optim.Adam(planes)
    for step in range(steps):
        view = View(step, *torch.rand(2, generator=generator).tolist())
        optimizer.param_groups[0]["lr"] = (_FIRST_STEP - _LAST_STEP) * (1 - step / steps) + _LAST_STEP
        coded, bits = _code(proxy, planes)
        if proxy.codec is None:
            decoded = proxy.images(coded, size)
        else:
            if step % _REFRESH == 0:
                error = proxy.coding_error(planes, size)
            decoded = (proxy.images(planes, size) + error).clamp(0, 1)
        loss = (bits / start).sum() + (weights * distance(images, decoded, view)).sum()
        for plane, gradient in zip(planes, torch.autograd.grad(loss, planes), strict=True):
            plane.grad = gradient
        optimizer.step()
        if bounds is not None:
            with torch.no_grad():
                for plane, allowed in zip(planes, bounds.project(planes, source, proxy), strict=True):
                    plane.copy_(allowed)
    with torch.no_grad():
        edited = proxy.images(planes, size, smooth=False)
        return edited if bounds is None else bounds.enforce(edited)


def _code(proxy: Proxy, planes: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Code planes band by band, so that a large image takes little more memory than its planes."""
    luma = planes[0]
    rows = proxy.multiple[0] * max(1, _BAND // (luma.shape[-1] * len(luma)) // proxy.multiple[0])
    if rows >= luma.shape[-2]:
        return proxy.code(planes)
    bands = zip(*(plane.split(rows * plane.shape[-2] // luma.shape[-2], -2) for plane in planes), strict=True)
    coded = [checkpoint(_band, proxy, *band, use_reentrant=False) for band in bands]
    decoded = [torch.cat(parts, -2) for parts in zip(*(part[:-1] for part in coded), strict=True)]
    return decoded, torch.stack([part[-1] for part in coded]).sum(0)


def _band(proxy: Proxy, *planes: Tensor) -> tuple[Tensor, ...]:
    decoded, bits = proxy.code(planes)
    return *decoded, bits


def crop(images: Tensor, view: View, short_side: int, side: int) -> Tensor:
    """Return the part of images that a network sees in a view, at its input size.

    Args:
        images: (B, C, H, W).
        view: where to look.
        short_side: what the network's preprocessing resizes the short side to.
        side: of the network's input.

    Returns:
        (B, C, side, side).
    """
    height, width = images.shape[-2:]
    length = min(height, width, max(1, round(side * min(height, width) / short_side)))
    top, left = round(view.top * (height - length)), round(view.left * (width - length))
    part = images[..., top : top + length, left : left + length]
    if length == side:
        return part
    resized = F.interpolate(part, (side, side), mode="bilinear", antialias=True)
    return resized.clamp(0, 1)  # rounding may leave the range
