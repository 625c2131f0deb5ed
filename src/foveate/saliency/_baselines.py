"""Baselines: maps with the values of a classifier's own, but in other places. Saliency must beat them to count."""

from abc import abstractmethod
from typing import Self

import torch
from torch import Tensor

from foveate.saliency._protocol import Saliency
from foveate.saliency._spec import SaliencySpec, as_saliency


class Baseline(Saliency):
    """A baseline made from the maps of another saliency.

    Args:
        saliency: the saliency whose maps are rearranged.

    Raises:
        TypeError: if ``saliency`` is not callable.
    """

    def __init__(self, saliency: SaliencySpec) -> None:
        self.saliency = as_saliency(saliency)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the baseline's maps (B, 1, h, w) of images (B, 3, H, W); see :class:`foveate.Saliency`."""
        return self.derive(self.saliency(images))

    def to(self, device: str | torch.device) -> Self:
        """Move ``saliency`` to a device."""
        self.saliency.to(device)
        return self

    @property
    def uses_labels(self) -> bool:
        """Whether ``saliency`` uses labels."""
        return self.saliency.uses_labels

    @abstractmethod
    def derive(self, maps: Tensor) -> Tensor:
        """Return the baseline's maps from those of ``saliency``, both (B, 1, h, w)."""

    def __eq__(self, other: object) -> bool:
        return self.saliency == other.saliency if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), self.saliency))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.saliency!r})"


class Center(Baseline):
    """A center-weighted map: the values of each image's own map, sorted to fall from the center outward.

    It allows exactly the same smoothing as the original map; only the places do not depend on the image. Because
    photographers center their subject, it is a strong baseline (Tatler, "The central fixation bias in scene viewing",
    Journal of Vision 2007).

    Example:
        >>> corner = lambda images: torch.tensor([[[[1.0, 0.5, 0.2], [0.4, 0.3, 0.1], [0.0, 0.0, 0.0]]]])
        >>> Center(corner)(torch.zeros(1, 3, 9, 9))[0, 0, 1]
        tensor([0.4000, 1.0000, 0.3000])
    """

    def derive(self, maps: Tensor) -> Tensor:
        """Return the maps (B, 1, h, w) with their values sorted by distance from the center."""
        height, width = maps.shape[-2:]
        y, x = (
            torch.linspace(1 / n - 1, 1 - 1 / n, n, dtype=torch.float32, device=maps.device) for n in (height, width)
        )
        # Rounded, so that positions at equal distance stay in reading order on every machine.
        distance = (y[:, None].square() + x.square()).mul(1e4).round().flatten()
        order = distance.argsort(stable=True)
        values = maps.flatten(1).sort(dim=1, descending=True).values
        return torch.empty_like(values).scatter_(1, order.expand_as(values), values).view_as(maps)


class Shuffled(Baseline):
    """A map taken from another image: each image of a batch gets the map of the next, and the last that of the first.

    Raises:
        ValueError: when called with fewer than two images.

    Example:
        >>> mean = lambda images: images.mean((1, 2, 3)).view(-1, 1, 1, 1)
        >>> Shuffled(mean)(torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 3, 4, 4)).flatten()
        tensor([0.5000, 1.0000, 0.0000])
    """

    def derive(self, maps: Tensor) -> Tensor:
        """Return the maps (B, 1, h, w) shifted by one image; B must be at least 2."""
        if len(maps) < 2:
            raise ValueError(f"images: a map from another image takes a batch of at least 2, got {len(maps)}")
        return maps.roll(-1, 0)
