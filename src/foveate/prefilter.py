"""The pre-filter: keep the image where the classifier looks, smooth it elsewhere."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias, TypeVar

import torch
from torch import Tensor

from foveate._checks import check_number
from foveate._registry import Registry
from foveate.codecs import Codec
from foveate.filters import gaussian_blend, gaussian_blur, gaussian_scale_space, guided_filter, resize
from foveate.identity import identity
from foveate.images import check_tensor, to_dtype, to_float
from foveate.saliency import Saliency, SaliencySpec, as_saliency, check_maps, saliency_maps

__all__ = [
    "FILTERS",
    "REFERENCE",
    "Filter",
    "Prefilter",
    "PrefilterBase",
    "check_strengths",
    "register_filter",
    "strength_map",
]

REFERENCE = 256
"""The short side, in pixels, of the image that ``Prefilter.sigma`` is given for: what classifiers see of a photo."""

Filter: TypeAlias = Callable[[Tensor, Tensor, float], Tensor]
"""From images (B, C, H, W), strengths (B, 1, H, W), both float in [0, 1], and sigma in pixels to images."""
AnyFilter = TypeVar("AnyFilter", bound=Filter)


def strength_map(maps: Tensor, size: tuple[int, int], strength: float | Tensor) -> Tensor:
    r"""Turn saliency maps into the strength of smoothing of each pixel.

    The map :math:`S` is upsampled to the image (bicubic) and becomes :math:`1 - \min(1, S / strength^2)`: a pixel is
    fully smoothed where the map is 0, less as it rises, and not at all from :math:`strength^2` up. Because of the
    square (most of a Grad-CAM map is low), ``strength`` is roughly the share of a photo that is smoothed at all:
    measured with MobileNetV2 on 500 ImageNet photos, 0.3, 0.5, 0.7 and 0.9 affect 30, 51, 72 and 93 % of the pixels. An
    image with a broad map is affected less than one with a small object.

    Args:
        maps: (B, 1, h, w) in [0, 1], 1 where the classifier looks most.
        size: height and width of the images.
        strength: in [0, 1], or a tensor (B,) with one per image; 0 gives 0 everywhere.

    Returns:
        (B, 1, H, W) float32 in [0, 1]: 0 keeps the pixel, 1 smooths it fully.

    Raises:
        ValueError: if the maps are not floating point in [0, 1].

    Example:
        >>> strength_map(torch.tensor([[[[0.0, 0.125, 0.25, 1.0]]]]), (1, 4), strength=0.5).flatten().tolist()
        [1.0, 0.5, 0.0, 0.0]
    """
    check_maps(maps, len(maps))
    if not isinstance(strength, Tensor) and strength == 0:
        return torch.zeros(maps.shape[0], 1, *size, dtype=torch.float32, device=maps.device)
    rows, columns = (_interpolation(n, into, maps.device) for n, into in zip(maps.shape[-2:], size, strict=True))
    with torch.autocast(maps.device.type, enabled=False):
        saliency = rows @ maps.float() @ columns.T
    # Not below the smallest normal number, where the square of a tiny strength would vanish.
    tiny = torch.finfo(torch.float32).tiny
    if not isinstance(strength, Tensor):
        return saliency.div_(-max(strength**2, tiny)).add_(1).clamp_(0, 1)  # in place, to save memory
    strengths = strength.to(saliency).view(-1, 1, 1, 1)
    return (1 - saliency / strengths.square().clamp_min(tiny)).clamp(0, 1) * (strengths > 0)


@lru_cache(16)
def _interpolation(size: int, into: int, device: torch.device) -> Tensor:
    """Return the matrix (into, size) of :func:`resize` along one axis; multiplying by it is three times as fast."""
    with torch.inference_mode(False):  # gradients cannot pass through inference tensors
        return resize(torch.eye(size, dtype=torch.float32, device=device)[None, None], (into, size))[0, 0]


def _blend(images: Tensor, strengths: Tensor, sigma: float) -> Tensor:
    return torch.lerp(images, gaussian_blur(images, sigma), strengths)


def _scale_space(images: Tensor, strengths: Tensor, sigma: float) -> Tensor:
    return gaussian_scale_space(images, strengths * sigma, levels=(sigma / 4, sigma / 2, sigma))


def _guided(images: Tensor, strengths: Tensor, sigma: float) -> Tensor:
    # At full strength, an edge of contrast 0.14 (the square root of 0.02) is half kept.
    return guided_filter(images, images, radius=max(1, round(3 * sigma)), eps=0.02 * strengths.square())


def _checked(name: str, function: Any) -> Filter:
    if not callable(function):
        raise TypeError(f"filter: expected a function of images, strengths and sigma, got {function!r}")
    return function


FILTERS: Registry[Filter] = Registry("filter", "foveate.filters", _checked)
"""Filters by name."""

FILTERS.add("blend", _blend)
FILTERS.add("scale-space", _scale_space)
FILTERS.add("guided", _guided)


def register_filter(name: str) -> Callable[[AnyFilter], AnyFilter]:
    """Register a filter, as a decorator of its function, for ``Prefilter(filter=name)``.

    To make it available on the command line and in other processes, also declare an entry point in your package::

        [project.entry-points."foveate.filters"]
        box = "my_package:box"

    Args:
        name: the name of the filter.

    Returns:
        A decorator of a function of images (B, C, H, W), strengths (B, 1, H, W), both float in [0, 1], and sigma, the
        width of the smoothing at full strength in pixels; it returns images of the same shape. A strength of 0 must
        keep the pixel.

    Raises:
        TypeError: if the name is not a string, or the decorated object is not a function.
        ValueError: if another filter has the name.

    Example:
        >>> @register_filter("darken")
        ... def darken(images, strengths, sigma):
        ...     return images * (1 - strengths)
        >>> Prefilter(filter="darken")(torch.ones(1, 3, 2, 2), maps=torch.zeros(1, 1, 1, 1)).max()
        tensor(0.)
    """

    def add(function: AnyFilter) -> AnyFilter:
        FILTERS.add(name, function)
        return function

    return add


class PrefilterBase(ABC):
    """What changes images before a codec so that they need fewer bytes: immutable, hashable, and with one knob.

    Subclasses are frozen dataclasses with the two attributes among their fields.

    Attributes:
        saliency: makes the maps; None if every call passes maps, or none are used.
        strength: in [0, 1]; 0 returns the input bit for bit.
        after_scaling: whether it works on images as they are stored, so that scaling comes first.
    """

    after_scaling: ClassVar[bool] = False
    saliency: Saliency | None
    strength: float

    @abstractmethod
    def __call__(self, images: Tensor, maps: Tensor | None = None, strengths: Tensor | None = None) -> Tensor:
        """Filter a batch.

        Args:
            images: (B, C, H, W), C 3 or 1, uint8 or float in [0, 1], on any device.
            maps: saliency maps (B, 1, h, w) in [0, 1] to use instead of asking the saliency.
            strengths: (B,) in [0, 1], one per image, to use instead of :attr:`strength`.

        Returns:
            The filtered images, of the same shape, dtype and device; with strength 0, the input itself.
        """

    @property
    @abstractmethod
    def settings(self) -> str:
        """All that the result depends on except the saliency, as one line of text."""

    @property
    def needs_maps(self) -> bool:
        """Whether a call at a strength above 0 uses maps."""
        return True

    def at(self, strength: float) -> Self:
        """Return this pre-filter at another strength.

        Unlike :func:`dataclasses.replace`, it also works in a worker where the filter is not registered.

        Raises:
            ValueError: if the strength is out of range.
        """
        other = copy.copy(self)
        object.__setattr__(other, "strength", check_number("strength", strength, 0, 1))
        return other

    def guided(self, saliency: SaliencySpec | None) -> Self:
        """Return this pre-filter with another saliency, or with none.

        Raises:
            TypeError, ValueError: as :func:`foveate.saliency.as_saliency` does.
        """
        other = copy.copy(self)
        object.__setattr__(other, "saliency", None if saliency is None else as_saliency(saliency))
        return other

    def before(self, codec: Codec) -> Self:
        """Return this pre-filter as it is used before a codec."""
        return self

    def to(self, device: str | torch.device) -> Self:
        """Move the models, except that of the saliency, to a device; recipes are built now."""
        return self


def check_strengths(strengths: Tensor, count: int) -> Tensor:
    """Return strengths if they are (count,) floats in [0, 1].

    Raises:
        TypeError: if they are not a floating point tensor.
        ValueError: if their shape or range does not fit.
    """
    if not isinstance(strengths, Tensor) or not strengths.is_floating_point():
        raise TypeError(f"strengths: expected a floating point tensor, got {getattr(strengths, 'dtype', strengths)!r}")
    if strengths.shape != (count,):
        raise ValueError(f"strengths: expected shape ({count},), one per image, got {tuple(strengths.shape)}")
    if count and not bool(((strengths >= 0) & (strengths <= 1)).all()):  # NaN fails it
        raise ValueError(f"strengths: expected values in [0, 1], got {strengths.tolist()}")
    return strengths


@dataclass(frozen=True)
class Prefilter(PrefilterBase):
    """Smooth images where a saliency map is low, controlled by ``strength``.

    Args:
        saliency: where the classifier looks: a :class:`foveate.GradCam` or any other :class:`foveate.Saliency`, a
            function of images (B, 3, H, W) that returns maps (B, 1, h, w) in [0, 1], a model's recipe like
            ``"resnet18"`` for its Grad-CAM, or a mapping: see :func:`foveate.saliency.as_saliency`. None if every call
            passes maps.
        strength: how much of the image may be smoothed, in [0, 1]: a pixel is smoothed where its saliency is below the
            square of ``strength``, and more the lower it is (see :func:`strength_map` for the curve and the share of a
            photo affected). 0 returns the input bit for bit.
        filter: ``"blend"`` mixes the image with a Gaussian blur of it; ``"scale-space"`` blurs every pixel with a
            Gaussian of its own width; ``"guided"`` also keeps strong edges in the smoothed parts. Or a filter
            registered with :func:`register_filter`, or a function.
        sigma: width of the smoothing at full strength, in pixels of an image whose short side is 256; it scales with
            the image, because classifiers resize their input. 1.5 removes the detail that costs the most bytes; 2 and 3
            saved less at equal answers at JPEG qualities 35 to 75 (MobileNetV2, 500 ImageNet photos, strength 0.5).
        even: spread the same amount of smoothing evenly over each image, as a baseline: every pixel gets the mean of
            the image's strength map.

    Raises:
        TypeError: if ``saliency`` or ``filter`` is of another type.
        ValueError: if a number is out of range or the filter does not exist.

    Example:
        >>> def middle(images):
        ...     maps = torch.zeros(len(images), 1, 3, 3)
        ...     maps[..., 1, 1] = 1
        ...     return maps
        >>> images = torch.rand(2, 3, 64, 96)
        >>> filtered = Prefilter(middle, strength=0.5)(images)
        >>> bool((filtered[..., 32, 48] == images[..., 32, 48]).all())
        True
    """

    saliency: Saliency | None = None
    strength: float = 0.5
    _: KW_ONLY
    filter: str | Filter = "blend"
    sigma: float = 1.5
    even: bool = False
    # Pickled along, so that a worker knows a filter registered only in its parent.
    function: Filter = field(init=False, repr=False, compare=False)

    if TYPE_CHECKING:  # the constructor accepts more types than the fields hold

        def __init__(
            self,
            saliency: SaliencySpec | None = None,
            strength: float = 0.5,
            *,
            filter: str | Filter = "blend",
            sigma: float = 1.5,
            even: bool = False,
        ) -> None: ...

    def __post_init__(self) -> None:
        if isinstance(self.saliency, Prefilter):
            raise TypeError("saliency: expected what makes maps, got a Prefilter; give its saliency")
        saliency = None if self.saliency is None else as_saliency(self.saliency)
        object.__setattr__(self, "saliency", saliency)
        object.__setattr__(self, "strength", check_number("strength", self.strength, 0, 1))
        object.__setattr__(self, "sigma", check_number("sigma", self.sigma, 0, above=True))
        function = FILTERS[self.filter] if isinstance(self.filter, str) else _checked("", self.filter)
        object.__setattr__(self, "function", function)

    @property
    def filter_name(self) -> str:
        """The name of the filter, for results."""
        if isinstance(self.filter, str):
            return self.filter
        return getattr(self.filter, "__name__", type(self.filter).__name__)

    @property
    def settings(self) -> str:
        """All that the result depends on except the saliency, as one line of text."""
        text = f"{self.filter_name} strength={self.strength:g} sigma={self.sigma:g} even={self.even}"
        built_in = self.function.__module__.startswith("foveate.")
        return text if built_in else f"{text} {identity(self.function, 'filter')}"

    def __call__(self, images: Tensor, maps: Tensor | None = None, strengths: Tensor | None = None) -> Tensor:
        """Filter a batch, see :class:`PrefilterBase`.

        Raises:
            TypeError: if the images are not a uint8 or floating point tensor.
            ValueError: if the shape or range of the images or maps does not fit, or there are neither maps nor a
                saliency.
        """
        check_tensor(images)
        if images.ndim != 4:
            raise ValueError(f"images: expected a batch (B, C, H, W), got {tuple(images.shape)}")
        if strengths is not None:
            check_strengths(strengths, len(images))
        if images.shape[0] == 0 or (self.strength == 0 if strengths is None else not strengths.any()):
            return images
        if maps is None:
            if self.saliency is None:
                raise ValueError("maps: this Prefilter has no saliency; give it one, or give maps to the call")
            maps = saliency_maps(self.saliency, images)
        else:
            maps = check_maps(maps, len(images)).to(images.device)
        return self.smooth(images, self.strengths(maps, _size(images), strengths))

    def strengths(self, maps: Tensor, size: tuple[int, int], strength: float | Tensor | None = None) -> Tensor:
        """Return the strength of each pixel: :func:`strength_map`, or its mean if ``even``.

        Args:
            maps: saliency maps (B, 1, h, w) in [0, 1].
            size: height and width of the images.
            strength: in [0, 1], or a tensor (B,) with one per image; None takes that of this pre-filter.

        Returns:
            (B, 1, H, W) float32 in [0, 1].
        """
        strengths = strength_map(maps, size, self.strength if strength is None else strength)
        return strengths.mean((-2, -1), keepdim=True).expand_as(strengths) if self.even else strengths

    def smooth(self, images: Tensor, strengths: Tensor) -> Tensor:
        """Filter a batch with given strengths.

        Args:
            images: as for a call of the pre-filter.
            strengths: (B, 1, H, W) in [0, 1], as from :func:`strength_map`; for floating point images, gradients reach
                both it and the images.

        Returns:
            The filtered images, of the same shape, dtype and device.
        """
        sigma = self.sigma * min(_size(images)) / REFERENCE
        with torch.autocast(images.device.type, enabled=False):  # filters need full precision
            return self._smoothed(images, strengths, sigma)

    def _smoothed(self, images: Tensor, strengths: Tensor, sigma: float) -> Tensor:
        if self.function is _blend and images.dtype == torch.uint8 and images.device.type == "cpu":
            return gaussian_blend(images, strengths, sigma)
        x = to_float(images)
        x = x if x.dtype == torch.float64 else x.float()
        filtered = self.function(x, strengths.to(x.dtype), sigma)
        if not isinstance(filtered, Tensor) or filtered.shape != images.shape:
            shape = tuple(filtered.shape) if isinstance(filtered, Tensor) else type(filtered).__name__
            raise ValueError(f"filter: {self.filter_name} is to return images {tuple(images.shape)}, got {shape}")
        return to_dtype(filtered.clamp(0, 1), images.dtype)


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]
