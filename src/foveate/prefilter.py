"""The pre-filter: keep the picture where the classifier looks, smooth it elsewhere."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from foveate._checks import check_number
from foveate.filters import gaussian_blend, gaussian_blur, gaussian_scale_space, guided_filter, resize
from foveate.images import check_tensor, to_dtype, to_float
from foveate.saliency import Maps, as_saliency, check_maps

REFERENCE = 256
"""The short side, in pixels, of the picture that ``Prefilter.sigma`` is given for: what classifiers see of a photo."""


def strength_map(maps: Tensor, size: tuple[int, int], strength: float | Tensor) -> Tensor:
    r"""Turn saliency maps into how much each pixel is smoothed.

    The map :math:`S` is upsampled smoothly (bicubic) to the picture and :math:`1 - \min(1, S / strength^2)` taken: a
    pixel is smoothed in full where the map is 0, less as it rises, and not at all from :math:`strength^2` on. Squared,
    since most of a Grad-CAM map is low, ``strength`` is about the share of a photo that is touched at all: measured
    with MobileNetV2 on 500 ImageNet photos, 0.3, 0.5, 0.7 and 0.9 touch 30, 51, 72 and 93 % of the pixels. A picture
    whose map is broad is touched less than one with a small object.

    Args:
        maps: (B, 1, h, w) in [0, 1], 1 where the classifier looks most.
        size: height and width of the pictures.
        strength: in [0, 1], or (B,) of them, one a picture; 0 gives 0 everywhere.

    Returns:
        (B, 1, H, W) float32 in [0, 1]: 0 keeps the pixel, 1 smooths it in full.

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
        return saliency.div_(-max(strength**2, tiny)).add_(1).clamp_(0, 1)  # in place: there is much of it
    each = strength.to(saliency).view(-1, 1, 1, 1)
    return (1 - saliency / each.square().clamp_min(tiny)).clamp(0, 1) * (each > 0)


@lru_cache(16)
def _interpolation(size: int, into: int, device: torch.device) -> Tensor:
    """The matrix (into, size) of :func:`resize` along one axis: a product with it is three times as fast."""
    with torch.inference_mode(False):  # whose tensors no later gradient may pass
        return resize(torch.eye(size, dtype=torch.float32, device=device)[None, None], (into, size))[0, 0]


def _blend(images: Tensor, strengths: Tensor, sigma: float) -> Tensor:
    return torch.lerp(images, gaussian_blur(images, sigma), strengths)


def _scale_space(images: Tensor, strengths: Tensor, sigma: float) -> Tensor:
    return gaussian_scale_space(images, strengths * sigma, levels=(sigma / 4, sigma / 2, sigma))


def _guided(images: Tensor, strengths: Tensor, sigma: float) -> Tensor:
    # An edge of contrast 0.14, the root of 0.02, is half kept at full strength.
    return guided_filter(images, images, radius=max(1, round(3 * sigma)), eps=0.02 * strengths.square())


FILTERS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "blend": _blend,
    "scale-space": _scale_space,
    "guided": _guided,
}
"""Filters by name: (images, strengths (B, 1, H, W), both in [0, 1], sigma in pixels) -> images. New ones join here."""


@dataclass(frozen=True)
class Prefilter:
    """Smooth pictures where a saliency map is low, as much as ``strength`` allows.

    Args:
        saliency: where the classifier looks: a :class:`foveate.GradCam`, any other :class:`foveate.Saliency`, or a
            function of images (B, 3, H, W) that returns maps (B, 1, h, w) in [0, 1].
        strength: how much of the picture may be smoothed, in [0, 1]: a pixel is smoothed where its saliency is below
            the square of ``strength``, the more the lower (:func:`strength_map` is the curve, and says what share of a
            photo that is). 0 returns the input bit for bit.
        filter: ``"blend"`` mixes the picture with a Gaussian blur of it; ``"scale-space"`` blurs every pixel with a
            Gaussian of its own width; ``"guided"`` keeps strong edges in the smoothed parts too.
        sigma: width of the smoothing at full strength, in pixels of a picture whose short side is 256; it grows with
            the picture, as the classifier that resizes it sees it. 1.5 removes the detail that costs most bytes; 2 and
            3 saved less at equal answers at JPEG qualities 35 to 75 (MobileNetV2, 500 ImageNet photos, strength 0.5).
        even: spread the same amount of smoothing evenly over each picture, as a control: every pixel is smoothed by
            the mean of the picture's strength map.

    Raises:
        TypeError: if ``saliency`` is not callable.
        ValueError: if a number is out of range or there is no such filter.

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

    saliency: Maps
    strength: float = 0.5
    filter: str = "blend"
    sigma: float = 1.5
    even: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "saliency", as_saliency(self.saliency))
        object.__setattr__(self, "strength", check_number("strength", self.strength, 0, 1))
        object.__setattr__(self, "sigma", check_number("sigma", self.sigma, 0, above=True))
        if self.filter not in FILTERS:
            raise ValueError(f"filter: expected {' or '.join(FILTERS)}, got {self.filter!r}")

    def __call__(self, images: Tensor, maps: Tensor | None = None) -> Tensor:
        """Filter a batch.

        Args:
            images: (B, C, H, W), C 3 or 1, uint8 or float in [0, 1], on any device.
            maps: saliency maps (B, 1, h, w) in [0, 1] to use instead of asking the saliency.

        Returns:
            The filtered images, of the same shape, dtype and device. With strength 0 the input itself.

        Raises:
            TypeError: if the images are no uint8 or floating point tensor.
            ValueError: if the shape or range of the images or the maps does not fit.
        """
        check_tensor(images)
        if images.ndim != 4:
            raise ValueError(f"images: expected a batch (B, C, H, W), got {tuple(images.shape)}")
        if self.strength == 0 or images.shape[0] == 0:
            return images
        maps = self.maps(images) if maps is None else check_maps(maps, len(images)).to(images.device)
        strengths = strength_map(maps, _size(images), self.strength)
        if self.even:
            strengths = strengths.mean((-2, -1), keepdim=True).expand_as(strengths)
        return self.smooth(images, strengths)

    def smooth(self, images: Tensor, strengths: Tensor) -> Tensor:
        """Filter a batch as a strength map says.

        Args:
            images: as for a call of the pre-filter.
            strengths: (B, 1, H, W) in [0, 1], as of :func:`strength_map`; gradients reach it, as they reach the images,
                where the images are in floating point.

        Returns:
            The filtered images, of the same shape, dtype and device.
        """
        sigma = self.sigma * min(_size(images)) / REFERENCE
        with torch.autocast(images.device.type, enabled=False):  # filters are no place for half precision
            return self._smoothed(images, strengths, sigma)

    def _smoothed(self, images: Tensor, strengths: Tensor, sigma: float) -> Tensor:
        if self.filter == "blend" and images.dtype == torch.uint8 and images.device.type == "cpu":
            return gaussian_blend(images, strengths, sigma)
        x = to_float(images)
        x = x if x.dtype == torch.float64 else x.float()
        out = FILTERS[self.filter](x, strengths.to(x.dtype), sigma)
        return to_dtype(out.clamp(0, 1), images.dtype)

    def maps(self, images: Tensor) -> Tensor:
        """Return the saliency maps (B, 1, h, w) of (B, C, H, W) images; grayscale is shown to the model as RGB."""
        rgb = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        return check_maps(self.saliency(rgb), len(images)).to(images.device)


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]
