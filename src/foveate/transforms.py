"""Foveate in a ``torchvision.transforms.v2`` chain.

Both transforms take whatever ``v2.JPEG`` takes, and floats: PIL images, uint8 or float tensors and ``tv_tensors``
images and videos (..., 3 or 1, H, W), in any nesting. Boxes, masks, key points and labels pass untouched, and one draw
of ``quality`` and ``strength`` from torch's random generator serves a call. A sample without a picture is refused: an
array of NumPy or OpenCV goes through ``v2.ToImage()`` first. Place them before normalization.

In a DataLoader with workers, give the saliency its model by recipe (``GradCam("resnet18")``): each worker then builds
it once, and none receives weights by pickle. A model on a GPU is refused inside a worker. These are ``nn.Module``s, as
v2's transforms are, but a model is never a child of one: ``parameters()`` and ``train()`` do not reach it. They are not
scriptable.
"""

import copy
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
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
from foveate._checks import check_number
from foveate.codecs import Codec
from foveate.compressor import Compressor, Encoded
from foveate.images import as_tensor, check_tensor, to_array, to_dtype

__all__ = ["Compress", "Prefilter"]

Rate: TypeAlias = "dict[str, int | Tensor]"
_encoded: ContextVar[list[Rate] | None] = ContextVar("foveate_encoded", default=None)


def _is_pure_tensor(inpt: Any) -> bool:
    return isinstance(inpt, Tensor) and not isinstance(inpt, tv_tensors.TVTensor)


class _ImageTransform(v2.Transform):  # type: ignore[misc]  # torchvision is untyped
    """Calls :meth:`apply` with a float or uint8 batch (N, C, H, W) for each image of a sample, and no other leaf."""

    _transformed_types = (tv_tensors.Image, tv_tensors.Video, PIL.Image.Image, _is_pure_tensor)

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """Raise a TypeError if there is no picture among the leaves of a sample; called by torchvision."""
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
        """Transform one image, video or batch; called by torchvision for each leaf that is one."""
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
    """The pre-filter alone: to be followed by whatever stores the pictures.

    Args:
        prefilter: the :class:`foveate.Prefilter`.
        strength: in [0, 1], or a pair to draw it from evenly; None takes that of ``prefilter``.

    Raises:
        TypeError: if ``prefilter`` is not a Prefilter.
        ValueError: if the strength is outside [0, 1].

    Example:
        >>> import foveate, torch
        >>> from foveate.demo import PREPROCESS
        >>> cam = foveate.GradCam("foveate.demo:scene_net", preprocess=PREPROCESS)
        >>> transform = Prefilter(foveate.Prefilter(cam), strength=(0.2, 0.6))
        >>> transform(torch.zeros(3, 64, 64, dtype=torch.uint8)).dtype
        torch.uint8
    """

    def __init__(self, prefilter: "foveate.Prefilter", strength: float | Sequence[float] | None = None) -> None:
        super().__init__()
        if not isinstance(prefilter, foveate.Prefilter):
            raise TypeError(f"prefilter: expected a foveate.Prefilter, got {type(prefilter).__name__}")
        self.prefilter = prefilter
        self.strength = _range("strength", prefilter.strength if strength is None else strength, 0.0, 1.0)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the strength of one call."""
        return {"strength": _uniform(self.strength)}

    def apply(self, images: Tensor, leading: tuple[int, ...], params: dict[str, Any]) -> Tensor:
        """Filter a batch (N, C, H, W)."""
        return dataclasses.replace(self.prefilter, strength=params["strength"])(images)

    def extra_repr(self) -> str:  # noqa: D102
        return f"{self.prefilter!r}, strength={self.strength}"


class Compress(_ImageTransform):
    """Compress and decode: what the classifier gets when the picture was stored.

    Args:
        codec: a codec or its short string, such as ``"jpeg:30"``.
        quality: on the codec's own scale, or a pair to draw it from evenly, both ends included; None takes that of
            ``codec``.
        prefilter: a :class:`foveate.Prefilter` to use before the codec, or None.
        strength: of the pre-filter, in [0, 1], or a pair to draw it from evenly; None takes that of ``prefilter``.
        scale: sides of the stored picture over those of the source; it comes back at source size.
        return_rate: also return what the sample cost, as ``{"bytes": ..., "pixels": ...}`` (pixels of the source, so
            that ``8 * bytes.sum() / pixels.sum()`` are the bits per pixel of a collated batch): a dict sample, of
            whatever type, gains it under the key ``"rate"``; to a tuple or list it is appended; a single image makes
            the pair ``(image, rate)``, and a namedtuple, which has no room for one more, the pair ``(sample, rate)``.
            The transforms that follow and ``default_collate`` take these shapes as they are. The counts are ints, and
            for a batch or video int64 tensors of its leading dimensions; those of several images in one sample are
            summed.
        target: a :class:`foveate.TargetSize`, which then chooses the quality of each picture.
        saliency: makes the maps of a codec that takes them itself; None takes the pre-filter's.
        control: a :class:`foveate.RateControl`, which then chooses strength, scale and quality of each picture: its
            witnesses by recipe for a DataLoader with workers, and on the CPU there.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of range, strength is given without a pre-filter, or quality, strength or
            scale together with a control.

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
        quality: float | Sequence[float] | None = None,
        prefilter: "foveate.Prefilter | None" = None,
        strength: float | Sequence[float] | None = None,
        scale: float = 1.0,
        return_rate: bool = False,
        target: "foveate.TargetSize | None" = None,
        saliency: "foveate.Saliency | None" = None,
        control: "foveate.RateControl | None" = None,
    ) -> None:
        super().__init__()
        self.compressor = Compressor(codec, prefilter, scale, target, saliency, control)
        if control is not None and (quality is not None or strength is not None):
            raise ValueError("quality, strength: the control chooses them; give the control qualities= or strengths=")
        if prefilter is None and strength is not None:
            raise ValueError(f"strength: {strength!r} was given without a prefilter to use it")
        chosen = self.compressor.codec.quality if quality is None else plain(quality)
        ends = tuple(chosen) if isinstance(chosen, Sequence) and not isinstance(chosen, str) else (chosen, chosen)
        if len(ends) != 2 or not all(isinstance(end, int | float) for end in ends) or ends[0] > ends[1]:
            raise ValueError(f"quality: expected a number or a rising pair, got {quality!r}")
        for end in ends:
            self.compressor.at(quality=end)  # the codec knows its own scale
        self.quality = ends
        self.strength = (
            None
            if prefilter is None
            else _range("strength", prefilter.strength if strength is None else strength, 0.0, 1.0)
        )
        self.return_rate = return_rate

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the quality and the strength of one call; with a control there is nothing to draw."""
        if self.compressor.control is not None:
            return {}
        low, high = self.quality
        if isinstance(self.compressor.codec.quality, int):
            quality: float = low if low == high else int(torch.randint(int(low), int(high) + 1, ()).item())
        else:
            quality = _uniform((low, high))
        return {"quality": quality, "strength": None if self.strength is None else _uniform(self.strength)}

    def forward(self, *inputs: Any) -> Any:
        """Transform a sample; see the class for what is returned with ``return_rate``."""
        if not self.return_rate:
            return super().forward(*inputs)
        with _collected() as rates:
            out = super().forward(*inputs)
        return _with_rate(out, _total(rates))

    def apply(self, images: Tensor, leading: tuple[int, ...], params: dict[str, Any]) -> Tensor:
        """Encode and decode a batch (N, C, H, W)."""
        compressor = self.compressor.at(**params)
        encoded = compressor.encode(images) if len(images) else []
        rates = _encoded.get()
        if rates is not None:
            rates.append(_rate(encoded, leading))
        if not encoded:
            return images
        return to_dtype(torch.stack(compressor.decode(encoded)), images.dtype).to(images.device)

    def extra_repr(self) -> str:  # noqa: D102
        return f"{self.compressor!r}, quality={self.quality}, strength={self.strength}, return_rate={self.return_rate}"


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
    """Collect the rates of one call, apart from those of any other thread's."""
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


def check_channels(channels: int, cure: str, name: str = "image") -> None:
    """Raise a ValueError that names the alpha channel if images seem to have one.

    Example:
        >>> check_channels(4, "drop it")
        Traceback (most recent call last):
        ValueError: image: expected 3 or 1 channels, got 4; if that is RGBA, it has an alpha channel: drop it
    """
    if channels in (2, 4):
        mode, cure = ("LA", "drop it, and keep the first") if channels == 2 else ("RGBA", cure)
        raise ValueError(
            f"{name}: expected 3 or 1 channels, got {channels}; if that is {mode}, it has an alpha channel: {cure}"
        )


def plain(value: Any) -> Any:
    """Return numbers of NumPy or torch, alone or in a list or tuple, as Python's; all else as it is.

    Example:
        >>> plain((np.int64(10), np.float32(0.5), "a"))
        (10, 0.5, 'a')
    """
    if isinstance(value, list | tuple):
        return [plain(v) for v in value] if isinstance(value, list) else tuple(plain(v) for v in value)
    return value.tolist() if isinstance(value, np.generic | np.ndarray | Tensor) else value


def _range(name: str, value: Any, low: float, high: float) -> tuple[float, float]:
    """A number, or a rising pair of them, as a pair."""
    numbers = plain(value)
    ends = tuple(numbers) if isinstance(numbers, Sequence) and not isinstance(numbers, str) else (numbers, numbers)
    if len(ends) != 2:
        raise ValueError(f"{name}: expected a number or a pair of numbers, got {value!r}")
    first, last = (check_number(name, end, low, high) for end in ends)
    if first > last:
        raise ValueError(f"{name}: expected the smaller number first, got {value!r}")
    return first, last


def _uniform(ends: tuple[float, float]) -> float:
    low, high = ends
    return low if low == high else low + (high - low) * float(torch.rand(()))
