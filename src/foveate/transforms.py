"""Foveate as ``torchvision.transforms.v2`` transforms.

Both transforms take the inputs of ``v2.JPEG``, and floats: PIL images, uint8 or float tensors and ``tv_tensors`` images
and videos (..., 3 or 1, H, W), in any nesting. Boxes, masks, key points and labels pass through unchanged. Each call
draws ``quality`` and ``strength`` once, from torch's random generator. A sample without an image is rejected: pass
NumPy or OpenCV arrays through ``v2.ToImage()`` first. Place the transforms before normalization.

In a DataLoader with workers, give the saliency its model by recipe (``GradCam("resnet18")``): each worker then builds
it once, and no weights are pickled. A model on a GPU is rejected inside a worker. Like all v2 transforms these are
``nn.Module``s, but models are not registered as children: ``parameters()`` and ``train()`` do not reach them. They are
not scriptable.
"""

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

import foveate
from foveate.codecs import Codec
from foveate.compressor import Encoded
from foveate.draws import (
    CompressDraws,
    ControlSpec,
    NumberOrPair,
    PrefilterDraws,
    PrefilterSpec,
    TargetSpec,
    check_channels,
)
from foveate.images import as_tensor, check_tensor, to_array
from foveate.prefilter import Filter, PrefilterBase
from foveate.saliency import SaliencySpec

__all__ = ["Compress", "Prefilter"]

Rate: TypeAlias = "dict[str, int | Tensor]"
_encoded: ContextVar[list[Rate] | None] = ContextVar("foveate_encoded", default=None)


def _is_pure_tensor(inpt: Any) -> bool:
    return isinstance(inpt, Tensor) and not isinstance(inpt, tv_tensors.TVTensor)


class _ImageTransform(v2.Transform):  # type: ignore[misc]  # torchvision is untyped
    """Calls :meth:`apply` with a float or uint8 batch (N, C, H, W) for each image of a sample."""

    _transformed_types = (tv_tensors.Image, tv_tensors.Video, PIL.Image.Image, _is_pure_tensor)

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """Raise a TypeError if there is no image among the leaves of a sample; called by torchvision."""
        candidates = itertools.compress(flat_inputs, self._needs_transform_list(flat_inputs))
        if not any(isinstance(leaf, PIL.Image.Image) or leaf.ndim >= 3 for leaf in candidates):
            kinds = ", ".join(dict.fromkeys(map(_kind, flat_inputs))) or "nothing"
            raise TypeError(
                f"sample: expected a PIL image or a tensor (..., 3 or 1, H, W) in it, got {kinds}; an array (H, W, C) "
                "goes through v2.ToImage() first, OpenCV's in the order RGB"
            )

    def apply(self, images: Tensor, leading: tuple[int, ...], params: dict[str, Any]) -> Tensor:
        raise TypeError(f"{type(self).__name__} transforms nothing: use one of its subclasses")

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Transform one image, video or batch; called by torchvision for each such leaf."""
        if isinstance(inpt, PIL.Image.Image):
            array = to_array(self.apply(as_tensor(inpt, "image")[None], (), params)[0])
            return PIL.Image.fromarray(np.squeeze(array, 2) if array.shape[2] == 1 else array)
        check_channels(inpt.shape[-3] if inpt.ndim >= 3 else 0, "drop it by [..., :3, :, :], or read the file as RGB")
        check_tensor(inpt, "image")
        images = inpt.as_subclass(Tensor)
        leading = tuple(images.shape[:-3])
        out = self.apply(images.reshape(-1, *images.shape[-3:]), leading, params).reshape(images.shape)
        return tv_tensors.wrap(out, like=inpt) if isinstance(inpt, tv_tensors.TVTensor) else out


class Prefilter(_ImageTransform):
    """The pre-filter alone, for pipelines that store the images later.

    Args:
        saliency: a :class:`foveate.Saliency`, a function of images, a model's recipe like ``"resnet18"`` for its
            Grad-CAM, or a mapping: see :func:`foveate.saliency.as_saliency`. Or a whole :class:`foveate.Prefilter`
            or :class:`foveate.PreEdit`, which excludes the settings below.
        strength: in [0, 1], or a pair to draw it from uniformly; None is 0.5, or that of a :class:`foveate.Prefilter`.
        filter: see :class:`foveate.Prefilter`.
        sigma: see :class:`foveate.Prefilter`.

    Raises:
        TypeError: if ``saliency`` is of another type.
        ValueError: if a number is out of range, or the filter does not exist.

    Example:
        >>> import foveate, torch
        >>> from foveate.demo import PREPROCESS
        >>> cam = foveate.GradCam("foveate.demo:scene_net", preprocess=PREPROCESS)
        >>> transform = Prefilter(cam, strength=(0.2, 0.6))
        >>> transform(torch.zeros(3, 64, 64, dtype=torch.uint8)).dtype
        torch.uint8
    """

    def __init__(
        self,
        saliency: SaliencySpec | PrefilterBase,
        *,
        strength: NumberOrPair | None = None,
        filter: str | Filter = "blend",
        sigma: float = 1.5,
    ) -> None:
        super().__init__()
        self.draws = PrefilterDraws.of(saliency, strength=strength, filter=filter, sigma=sigma)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the strength of one call."""
        return self.draws.draw()

    def apply(self, images: Tensor, leading: tuple[int, ...], params: dict[str, Any]) -> Tensor:
        """Filter a batch (N, C, H, W)."""
        return self.draws.apply(images, params)

    def extra_repr(self) -> str:  # noqa: D102
        prefilter = self.draws.prefilter
        if not isinstance(prefilter, foveate.Prefilter):
            return f"{prefilter!r}, strength={self.draws.strength}"
        return f"{prefilter.saliency!r}, strength={self.draws.strength}, filter={prefilter.filter!r}"


class Compress(_ImageTransform):
    """Compress and decode images, as a classifier gets them from storage.

    Args:
        codec: a codec or its short string like ``"jpeg:30"``.
        quality: on the codec's own scale, or a pair to draw it from uniformly, both ends included; None takes that of
            ``codec``.
        prefilter: a :class:`foveate.Prefilter` or :class:`foveate.PreEdit` to use before the codec, or a mapping of
            its arguments (with ``models``, those of a PreEdit); guided by
            ``saliency`` if it has no saliency of its own.
        saliency: makes the maps for ``prefilter``, or for a pre-filter with default settings, and for a codec that
            takes maps itself; see :func:`foveate.saliency.as_saliency`.
        strength: strength of the pre-filter, in [0, 1], or a pair to draw it from uniformly. None takes that of
            ``prefilter``; with only a ``saliency`` 0.5, or 0 if the codec takes maps itself.
        scale: side of the stored image divided by that of the source; decoding resizes back to source size.
        target: a :class:`foveate.TargetSize` or a mapping of its arguments, which then chooses the quality of each
            image.
        control: a :class:`foveate.RateControl` or a mapping of its arguments, which then chooses strength, scale and
            quality of each image. With DataLoader workers, give its witnesses by recipe, on the CPU.
        return_rate: also return the size of the sample, as ``{"bytes": ..., "pixels": ...}`` (source pixels, so that
            ``8 * bytes.sum() / pixels.sum()`` is the bits per pixel of a collated batch). It is added to a dict under
            the key ``"rate"`` and appended to a tuple or list; a single image becomes the pair ``(image, rate)`` and a
            namedtuple the pair ``(sample, rate)``. Later transforms and ``default_collate`` accept these shapes. The
            counts are ints, or int64 tensors of the leading dimensions for a batch or video; the counts of several
            images in one sample are summed.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of range, strength is given without a saliency, or quality, strength or scale
            is combined with a control.

    Example:
        >>> import PIL.Image
        >>> transform = Compress("jpeg", quality=(10, 30), return_rate=True)
        >>> image, rate = transform(PIL.Image.new("RGB", (64, 48)))
        >>> image.size, rate["pixels"]
        ((64, 48), 3072)
    """

    def __init__(
        self,
        codec: str | Codec = "jpeg",
        *,
        quality: NumberOrPair | None = None,
        prefilter: PrefilterSpec | None = None,
        saliency: SaliencySpec | None = None,
        strength: NumberOrPair | None = None,
        scale: float = 1.0,
        target: TargetSpec | None = None,
        control: ControlSpec | None = None,
        return_rate: bool = False,
    ) -> None:
        super().__init__()
        self.draws = CompressDraws.of(
            codec,
            quality=quality,
            prefilter=prefilter,
            saliency=saliency,
            strength=strength,
            scale=scale,
            target=target,
            control=control,
        ).require_maps()
        self.return_rate = return_rate

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the quality and the strength of one call; a control chooses both instead."""
        return self.draws.draw()

    def forward(self, *inputs: Any) -> Any:
        """Transform a sample; see the class for the result with ``return_rate``."""
        if not self.return_rate:
            return super().forward(*inputs)
        with _collected() as rates:
            out = super().forward(*inputs)
        return _with_rate(out, _total(rates))

    def apply(self, images: Tensor, leading: tuple[int, ...], params: dict[str, Any]) -> Tensor:
        """Encode and decode a batch (N, C, H, W)."""
        decoded, encoded = self.draws.apply_counted(images, params)
        rates = _encoded.get()
        if rates is not None:
            rates.append(_rate(encoded, leading))
        return decoded

    def extra_repr(self) -> str:  # noqa: D102
        draws = self.draws
        return (
            f"{draws.compressor!r}, quality={draws.quality}, strength={draws.strength}, return_rate={self.return_rate}"
        )


def _rate(encoded: list[Encoded], leading: tuple[int, ...]) -> Rate:
    size, pixels = [len(e.data) for e in encoded], [e.pixels for e in encoded]
    if not leading:
        return {"bytes": size[0], "pixels": pixels[0]}
    return {
        "bytes": torch.tensor(size, dtype=torch.int64).view(leading),
        "pixels": torch.tensor(pixels, dtype=torch.int64).view(leading),
    }


@contextmanager
def _collected() -> Iterator[list[Rate]]:
    """Collect the rates of one call, separately in each thread."""
    rates: list[Rate] = []
    token = _encoded.set(rates)
    try:
        yield rates
    finally:
        _encoded.reset(token)


def _total(rates: list[Rate]) -> Rate:
    if len({r["bytes"].shape if isinstance(r["bytes"], Tensor) else None for r in rates}) > 1:
        raise ValueError(
            "return_rate: the images of this sample have different leading dimensions; transform them apart"
        )
    return {key: sum((r[key] for r in rates), start=0) for key in ("bytes", "pixels")}


def _with_rate(out: Any, rate: Rate) -> Any:
    if isinstance(out, dict):
        if "rate" in out:
            raise ValueError("return_rate: the sample already has a key 'rate'; rename it")
        out = copy.copy(out)  # an OrderedDict or defaultdict stays one
        out["rate"] = rate
        return out
    if isinstance(out, list):
        return [*out, rate]
    return (*out, rate) if type(out) is tuple else (out, rate)


def _kind(leaf: Any) -> str:
    name = type(leaf).__name__
    return f"{name} {tuple(leaf.shape)} {leaf.dtype}" if isinstance(leaf, Tensor | np.ndarray) else name
