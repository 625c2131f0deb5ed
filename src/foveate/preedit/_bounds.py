"""Limits on how far an edit may move an image where a network looks, and elsewhere."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from foveate.codecs.proxy import Proxy
from foveate.filters import resize

_ROUNDING = 1 / 4
"""The largest squared error of rounding to gray levels."""
_NOTHING = 1e-10
"""A squared error that rounds to none; the root of 0 has no gradient."""


class Bounds:
    """The least PSNR of an edit, in and outside of the salient part of each image.

    The part is soft: a pixel belongs to it by its saliency.

    Args:
        source: (B, C, H, W) float in [0, 1].
        maps: saliency (B, 1, h, w) in [0, 1]; None counts everything as outside.
        inside: least PSNR of the salient part, in dB.
        outside: least PSNR of the rest.
    """

    def __init__(self, source: Tensor, maps: Tensor | None, inside: float, outside: float) -> None:
        self._source = source
        size = (source.shape[-2], source.shape[-1])
        shares = [torch.ones_like(source[:1, :1, :1, :1])]
        if maps is not None:
            saliency = resize(maps.to(source), size).clamp(0, 1)
            shares = [saliency, 1 - saliency]
        self._shares = shares
        limits = [outside] if maps is None else [inside, outside]
        self._limits = [max(_NOTHING, 10 ** (-limit / 10) - _ROUNDING / 255**2) for limit in limits]

    def enforce(self, edited: Tensor) -> Tensor:
        """Return edited images, moved towards their source as far as the limits ask."""
        for _ in range(20):
            factors = self._factors(edited)
            if factors is None:
                return edited
            edited = self._source + (edited - self._source) * self._blend(factors)
            if len(factors) == 1:  # which is exact: the parts of a map overlap, one part does not
                return edited
        factors = self._factors(edited)
        if factors is None:
            return edited
        return self._source + (edited - self._source) * torch.stack(factors).amin(0)

    def project(self, planes: Sequence[Tensor], source: Sequence[Tensor], proxy: Proxy) -> list[Tensor]:
        """Return planes moved towards those of the source, so that the limits hold but for rounding."""
        size = (self._source.shape[-2], self._source.shape[-1])
        factors = self._factors(proxy.images(planes, size, smooth=False))
        if factors is None:
            return list(planes)
        height, width = planes[0].shape[-2:]
        padding = (0, width - size[1], 0, height - size[0])
        blend = F.pad(self._blend(factors).expand(-1, 1, *size), padding, mode="replicate")
        blends = [F.adaptive_avg_pool2d(blend, (plane.shape[-2], plane.shape[-1])) for plane in planes]
        return [before + (after - before) * b for before, after, b in zip(source, planes, blends, strict=True)]

    def _factors(self, edited: Tensor) -> list[Tensor] | None:
        """Return by how much (B, 1, 1, 1) the change of each part must shrink; None if every limit is kept."""
        change = edited - self._source
        factors = []
        for share, limit in zip(self._shares, self._limits, strict=True):
            if len(self._shares) == 1:
                error = torch.linalg.vector_norm(change, dim=(1, 2, 3), keepdim=True) ** 2 / change[0].numel()
            else:
                weight = share.sum((1, 2, 3), keepdim=True).clamp_min(1e-6)
                error = (change.square().mean(1, keepdim=True) * share).sum((1, 2, 3), keepdim=True) / weight
            factors.append((limit / error.clamp_min(1e-12)).sqrt().clamp(max=1.0))
        return None if min(float(factor.detach().min()) for factor in factors) > 1 - 1e-4 else factors

    def _blend(self, factors: Sequence[Tensor]) -> Tensor:
        return torch.stack([share * factor for share, factor in zip(self._shares, factors, strict=True)]).sum(0)
