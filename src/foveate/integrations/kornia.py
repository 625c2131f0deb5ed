"""Foveate as Kornia augmentations: per sample, on the batch's device, and differentiable.

They are ``IntensityAugmentationBase2D``s: they take float images (B, 3 or 1, H, W) in [0, 1], draw for each sample
    whether (``p``) and how they apply, and inside ``AugmentationSequential`` leave masks, boxes and key points alone.
    Place them before normalization. Values up to 0.1 outside [0, 1], which resampling can produce, are clamped. A
    saliency's model is not registered as a child: ``parameters()`` and ``train()`` do not reach it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from kornia.augmentation import IntensityAugmentationBase2D
from kornia.augmentation import random_generator as rg
from kornia.enhance import jpeg_codec_differentiable
from torch import Tensor, nn

import foveate
from foveate._checks import check_number
from foveate.codecs import Jpeg as JpegCodec
from foveate.compressor import Compressor
from foveate.draws import NumberOrPair, PrefilterDraws, check_channels, number_or_pair
from foveate.filters import resize
from foveate.images import check_tensor
from foveate.prefilter import Filter, PrefilterBase
from foveate.saliency import SaliencySpec, saliency_maps

__all__ = ["Jpeg", "Prefilter", "StrengthCurve"]


class StrengthCurve(nn.Module):
    r"""The strength of smoothing at a pixel with saliency :math:`S`, with three learnable parameters.

    It is :math:`a \cdot \max(0, 1 - S / t)^g`, with the amount :math:`a` in (0, 1), the threshold :math:`t` in (0, 1)
    and the exponent :math:`g > 0`. It starts at ``foveate.prefilter.strength_map``: :math:`a` near 1,
    :math:`t = strength^2`, :math:`g = 1`.

    Args:
        strength: initial strength of the curve, in (0, 1).
        amount: initial amount, in (0, 1).

    Example:
        >>> curve = StrengthCurve(0.5)
        >>> [round(v, 2) for v in curve(torch.tensor([0.0, 0.125, 0.25, 1.0])).tolist()]
        [0.98, 0.49, 0.0, 0.0]
    """

    def __init__(self, strength: float = 0.5, amount: float = 0.98) -> None:
        super().__init__()
        threshold = check_number("strength", strength, 0, 0.999, above=True) ** 2
        start = check_number("amount", amount, 0, 0.999, above=True)
        self._amount, self._threshold = (nn.Parameter(torch.logit(torch.tensor(v))) for v in (start, threshold))
        self._exponent = nn.Parameter(torch.zeros(()))

    @property
    def amount(self) -> Tensor:
        """The strength where the saliency is 0."""
        return self._amount.sigmoid()

    @property
    def threshold(self) -> Tensor:
        """The saliency from which nothing is smoothed."""
        return self._threshold.sigmoid()

    @property
    def exponent(self) -> Tensor:
        """How fast the strength falls: 1 is linear."""
        return self._exponent.exp()

    def forward(self, saliency: Tensor) -> Tensor:
        """Return strengths in [0, 1] for saliencies in [0, 1], of any shape."""
        below = 1 - saliency / self.threshold
        # Avoid powers of 0: their gradient in the exponent is not finite.
        return torch.where(below > 0, self.amount * below.clamp_min(1e-6) ** self.exponent, torch.zeros_like(below))


class _PerSample(IntensityAugmentationBase2D):  # type: ignore[misc]  # untyped here
    """Runs :meth:`_change` on the samples chosen by ``p``, each with its own draw."""

    # The saliency's hooks and the codecs' threads cannot be traced.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def apply_transform(
        self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any], transform: Tensor | None = None
    ) -> Tensor:
        """Change the chosen samples of a batch (B, C, H, W); called by Kornia."""
        chosen = torch.atleast_1d(params["batch_prob"].to(input.device) > 0.5)
        if not bool(chosen.any()):
            return input
        images = input[chosen]
        low, high = (float(v) for v in torch.aminmax(images.detach()))
        if low >= -0.1 and high <= 1.1:
            images = images.clamp(0, 1)
        cure = "put kornia.color.RgbaToRgb() before it, or drop the channel by input[:, :3]"
        check_channels(images.shape[1], cure, "input")
        check_tensor(images, "input")
        draws = {k: v.to(input.device)[chosen] for k, v in params.items() if k in ("strength", "quality")}
        out = self._change(images, draws).to(input.dtype)
        return input.index_put((chosen,), out) if len(out) < len(input) else out

    def _change(self, images: Tensor, draws: dict[str, Tensor]) -> Tensor:
        raise TypeError(f"{type(self).__name__} changes nothing: use one of its subclasses")


class Prefilter(_PerSample):
    """The pre-filter as an augmentation; gradients reach the images and the curve, not the saliency's model.

    Args:
        saliency: a :class:`foveate.Saliency`, a function of images, a model's recipe like ``"resnet18"`` for its
            Grad-CAM, or a mapping: see :func:`foveate.saliency.as_saliency`. Or a whole :class:`foveate.Prefilter`
            or :class:`foveate.PreEdit` (through which no gradients pass),
            which excludes its settings here.
        strength: in [0, 1], or a pair to draw it from uniformly for each sample; None is 0.5, or that of a
            :class:`foveate.Prefilter`.
        filter: see :class:`foveate.Prefilter`.
        sigma: see :class:`foveate.Prefilter`.
        curve: from the upsampled saliency (B, 1, H, W) to the strength of every pixel, in [0, 1], instead of
            ``strength``. A :class:`StrengthCurve` or any module; its parameters become this module's.
        p: probability of applying the augmentation, for each sample.
        same_on_batch: whether all samples share one draw.
        keepdim: whether (C, H, W) comes back as (C, H, W), not (1, C, H, W).

    Raises:
        TypeError, ValueError: if an argument is invalid.

    Example:
        >>> augment = Prefilter("foveate.demo:scene_net", strength=(0.2, 0.6))
        >>> augment(torch.rand(2, 3, 64, 96)).shape
        torch.Size([2, 3, 64, 96])
    """

    def __init__(
        self,
        saliency: SaliencySpec | PrefilterBase,
        *,
        strength: NumberOrPair | None = None,
        filter: str | Filter = "blend",
        sigma: float = 1.5,
        curve: Callable[[Tensor], Tensor] | None = None,
        p: float = 1.0,
        same_on_batch: bool = False,
        keepdim: bool = False,
    ) -> None:
        super().__init__(p=p, same_on_batch=same_on_batch, keepdim=keepdim)
        draws = PrefilterDraws.of(saliency, strength=strength, filter=filter, sigma=sigma)
        self.prefilter, (low, high) = draws.prefilter, draws.strength
        self._param_generator = rg.PlainUniformGenerator((torch.tensor((low, high)), "strength", None, None))
        prefilter = self.prefilter
        self.flags: dict[str, Any] = {"strength": (low, high)}
        if isinstance(prefilter, foveate.Prefilter):
            self.flags |= {"filter": prefilter.filter_name, "sigma": prefilter.sigma}
        elif curve is not None:
            raise ValueError(f"curve: a {type(prefilter).__name__} has one strength for each image; leave curve out")
        self.curve = curve

    def _change(self, images: Tensor, draws: dict[str, Tensor]) -> Tensor:
        if not isinstance(self.prefilter, foveate.Prefilter):
            return self.prefilter(images, strengths=draws["strength"])
        saliency, size = self.prefilter.saliency, (images.shape[-2], images.shape[-1])
        assert saliency is not None  # checked in PrefilterDraws.of
        maps = saliency_maps(saliency, images.detach())
        if self.curve is None:
            strengths = self.prefilter.strengths(maps, size, draws["strength"])
        else:
            strengths = self.curve(resize(maps, size).clamp(0, 1))
        return self.prefilter.smooth(images, strengths)


class Jpeg(_PerSample):
    """JPEG with gradients, by ``kornia.enhance.jpeg_codec_differentiable`` (Reich et al., WACV 2024).

    This is a proxy: close to real JPEG, and without bytes. With ``straight_through`` the image comes from the real
        codec and only the gradient from the proxy. The proxy codes grayscale as gray RGB.

    Args:
        quality: an integer from 1 to 95, or a pair to draw it from uniformly for each sample, both ends included.
        straight_through: whether the values come from :class:`foveate.Jpeg` with its default settings, which codes on
            the CPU.
        p: probability of applying the augmentation, for each sample.
        same_on_batch: whether all samples share one draw.
        keepdim: whether (C, H, W) comes back as (C, H, W), not (1, C, H, W).

    Raises:
        TypeError, ValueError: if an argument is invalid.

    Example:
        >>> images = torch.rand(2, 3, 32, 48, requires_grad=True)
        >>> decoded = Jpeg(quality=(20, 60), straight_through=True)(images)
        >>> decoded.sum().backward()
        >>> images.grad.shape
        torch.Size([2, 3, 32, 48])
    """

    def __init__(
        self,
        quality: int | Sequence[int] = 50,
        *,
        straight_through: bool = False,
        p: float = 1.0,
        same_on_batch: bool = False,
        keepdim: bool = False,
    ) -> None:
        super().__init__(p=p, same_on_batch=same_on_batch, keepdim=keepdim)
        low, high = number_or_pair("quality", quality)
        for end in (low, high):
            JpegCodec(end)  # type: ignore[arg-type]  # raises if the quality is invalid
        # Rounding to nearest makes every quality in the range equally likely.
        around = torch.tensor((low - 0.499, high + 0.499)) if low < high else torch.tensor((low, high)).float()
        self._param_generator = rg.PlainUniformGenerator((around, "quality", None, None))
        self.flags = {"quality": (low, high), "straight_through": straight_through}
        self.straight_through = straight_through

    def _change(self, images: Tensor, draws: dict[str, Tensor]) -> Tensor:
        quality = draws["quality"].round()
        # float32 throughout: quantization needs full precision.
        with torch.autocast(images.device.type, enabled=False):
            proxy = jpeg_codec_differentiable(images.float().expand(-1, 3, -1, -1), quality.float())
        proxy = proxy.mean(1, keepdim=True) if images.shape[1] == 1 else proxy
        if not self.straight_through:
            return proxy
        return proxy + (self._real(images.detach(), quality) - proxy).detach()

    def _real(self, images: Tensor, quality: Tensor) -> Tensor:
        decoded = torch.empty_like(images, dtype=torch.float32)
        for step in quality.unique().tolist():
            chosen = quality == step
            compressor = Compressor(JpegCodec(int(step)))
            coded = torch.stack(compressor.decode(compressor.encode(images[chosen])))
            decoded[chosen] = coded.to(images.device).float() / 255
        return decoded
