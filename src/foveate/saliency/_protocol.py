"""The saliency protocol and the common scale of all maps."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from foveate.identity import describe, identity


class Saliency(ABC):
    """Anything that maps images to saliency maps.

    Called with (B, 3, H, W) images, uint8 or float in [0, 1], it returns (B, 1, h, w) floating point maps in [0, 1] on
    the images' device, detached, with h and w as the method gives them; 1 is where the model looks most. Each map
    depends only on its own image.

    To write your own, subclass this and define ``__call__``; register it with :func:`foveate.register_saliency` to give
    it a name. :func:`as_saliency` makes one from a plain function or callable.

    Example:
        >>> class Brightness(Saliency):
        ...     def __call__(self, images):
        ...         return images.float().mean(1, keepdim=True)
        >>> saliency = Brightness()
        >>> saliency(torch.ones(1, 3, 4, 4)).shape, saliency.uses_labels
        (torch.Size([1, 1, 4, 4]), False)
    """

    @property
    def identity(self) -> str:
        """Everything the maps depend on, as one line of text: by default the class and all attributes.

        See :func:`foveate.identity.identity`.
        """
        return describe(self, vars(self))

    @property
    def uses_labels(self) -> bool:
        """Whether the class to explain was given (it may be the label); evaluations reject such maps."""
        return False

    def to(self, device: str | torch.device) -> Self:
        """Move the models to a device; return this saliency."""
        return self

    @abstractmethod
    def __call__(self, images: Tensor, /) -> Tensor:
        """Return the maps (B, 1, h, w) of images (B, 3, H, W)."""


@runtime_checkable
class _Labeled(Protocol):
    uses_labels: bool


@runtime_checkable
class _Movable(Protocol):
    def to(self, device: Any, /) -> Any: ...


@dataclass(frozen=True, eq=False)
class FunctionSaliency(Saliency):
    """A :class:`Saliency` from a function of images.

    Args:
        function: from images (B, 3, H, W) to maps (B, 1, h, w). If it is an object with a property ``identity`` or
            ``uses_labels``, or a method ``to``, they are used.
    """

    function: Any

    @property
    def identity(self) -> str:
        """The identity of the function.

        Raises:
            IdentityError: if it does not have one.
        """
        return identity(self.function, "saliency")

    @property
    def uses_labels(self) -> bool:
        """Whether the function declares that it uses labels."""
        return isinstance(self.function, _Labeled) and bool(self.function.uses_labels)

    def to(self, device: str | torch.device) -> Self:
        """Move the function to a device, if it can be moved."""
        if isinstance(self.function, _Movable):
            self.function.to(device)
        return self

    def __call__(self, images: Tensor) -> Tensor:
        """Return the function's maps of images."""
        maps: Tensor = self.function(images)
        return maps

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FunctionSaliency) and self.function is other.function

    def __hash__(self) -> int:
        return id(self.function)  # it may not be hashable

    def __repr__(self) -> str:
        return repr(self.function)


def check_maps(maps: Any, count: int) -> Tensor:
    """Return ``maps`` if they are saliency maps of ``count`` images.

    Raises:
        ValueError: unless it is a floating point tensor (count, 1, h, w), h and w at least 1, in [0, 1].

    Example:
        >>> check_maps(torch.full((1, 1, 2, 2), 255.0), 1)
        Traceback (most recent call last):
        ValueError: maps: expected values in [0, 1], got 255 to 255; divide by the maximum, as foveate.saliency...
    """
    if not isinstance(maps, Tensor) or maps.ndim != 4 or maps.shape[:2] != (count, 1) or 0 in maps.shape[2:]:
        shape = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise ValueError(f"maps: expected (B, 1, h, w) for {count} images, got {shape}")
    if not maps.is_floating_point():
        raise ValueError(f"maps: expected floating point in [0, 1], got {maps.dtype}; divide 0..255 by 255")
    if maps.numel():
        low, high = (float(v) for v in torch.aminmax(maps.detach()))
        if not (low >= 0 and high <= 1):  # written so that NaN is rejected too
            raise ValueError(
                f"maps: expected values in [0, 1], got {low:.4g} to {high:.4g}; divide by the maximum, as "
                "foveate.saliency.normalize does"
            )
    return maps


def saliency_maps(saliency: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return the checked maps of a batch, on its device.

    Args:
        saliency: a :class:`Saliency`.
        images: (B, C, H, W), C 3 or 1; grayscale images are converted to RGB.

    Returns:
        (B, 1, h, w) in [0, 1].

    Raises:
        ValueError: if the saliency does not return maps of these images.

    Example:
        >>> saliency_maps(lambda images: images[:, :1], torch.ones(2, 1, 4, 4)).shape
        torch.Size([2, 1, 4, 4])
    """
    rgb = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
    return check_maps(saliency(rgb), len(images)).to(images.device)


NORMALIZATIONS = ("peak", "rank")
"""The ways from raw attributions to maps."""


def normalize(maps: Tensor, by: str = "peak") -> Tensor:
    """Scale raw attributions to maps.

    By ``"peak"`` negative values become 0, and each map is divided by its maximum. By ``"rank"`` each value becomes the
    square of the share of the map's values that are below it (of equal ones, their mean): then a
    :class:`foveate.Prefilter` of strength s touches about the share s of the pixels, whatever the network.

    A map in which nothing stands out (no positive value, or the same everywhere) becomes 1 everywhere, so that the
    whole image is kept.

    Args:
        maps: (B, 1, h, w), any floating dtype.
        by: ``"peak"`` or ``"rank"``.

    Returns:
        (B, 1, h, w) float32 in [0, 1], detached.

    Raises:
        ValueError: if a value is not finite, or there is no such way.

    Example:
        >>> normalize(torch.tensor([[[[-1.0, 2.0, 4.0]]]]), "rank").flatten()
        tensor([0.0000, 0.2500, 1.0000])
        >>> normalize(torch.tensor([[[[-1.0, 2.0, 4.0]]], [[[0.0, 0.0, 0.0]]]])).squeeze().tolist()
        [[0.0, 0.5, 1.0], [1.0, 1.0, 1.0]]
    """
    maps = maps.detach().float()
    if not bool(torch.isfinite(maps).all()):
        raise ValueError("saliency: the model gave values that are not finite; check its weights and its input's scale")
    if check_normalization(by) == "rank":
        return _ranked(maps)
    maps = maps.clamp_min(0)
    peak = maps.amax(dim=(-2, -1), keepdim=True)
    # Dividing by a subnormal peak would overflow, and such a map is meaningless.
    return torch.where(peak > torch.finfo(torch.float32).tiny, maps / peak, torch.ones_like(maps)).clamp_(0, 1)


def check_normalization(normalise: str) -> str:
    """Return the name of a normalization if there is such a one; raise a ValueError otherwise."""
    if normalise not in NORMALIZATIONS:
        raise ValueError(f"normalise: expected {' or '.join(NORMALIZATIONS)}, got {normalise!r}")
    return normalise


def _ranked(maps: Tensor) -> Tensor:
    values = maps.flatten(1).contiguous()
    if values.shape[1] < 2:
        return torch.ones_like(maps)
    in_order = values.sort(1).values
    below, through = (torch.searchsorted(in_order, values, right=right) for right in (False, True))
    ranks = (below + through - 1) / (2 * (values.shape[1] - 1))
    stands_out = in_order[:, -1:] > in_order[:, :1]
    return torch.where(stands_out, ranks.square(), torch.ones_like(ranks)).view_as(maps)
