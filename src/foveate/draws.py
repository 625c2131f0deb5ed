"""Shared by the hosts: their common arguments, and drawing a quality and a strength for each call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from foveate._checks import check_number
from foveate.codecs import Codec, TargetSize
from foveate.compressor import Compressor, Control, Encoded
from foveate.images import to_dtype
from foveate.prefilter import Filter, Prefilter, PrefilterBase
from foveate.saliency import SaliencySpec

__all__ = [
    "CompressDraws",
    "ControlSpec",
    "Draw",
    "NumberOrPair",
    "PrefilterDraws",
    "PrefilterSpec",
    "TargetSpec",
    "as_prefilter",
    "check_channels",
    "draw_uniform",
    "number_or_pair",
    "plain",
    "strength_range",
]

Number: TypeAlias = int | float
NumberOrPair: TypeAlias = float | Sequence[float]
"""A number, or a pair to draw from evenly."""
PrefilterSpec: TypeAlias = PrefilterBase | Mapping[str, Any]
"""A pre-filter, or a mapping of its arguments."""
TargetSpec: TypeAlias = TargetSize | Mapping[str, Any]
"""A size to keep to, or a mapping of its arguments."""
Draw: TypeAlias = dict[str, float | None]
"""What was drawn for one call, by name; JSON-able. None is for what is left as it is."""
ControlSpec: TypeAlias = Control | Mapping[str, Any]
"""A control, or a mapping of the arguments of :class:`foveate.RateControl`."""


def number_or_pair(name: str, value: Any) -> tuple[Number, Number]:
    """Return a number, or an ascending pair of numbers, as a pair of Python numbers.

    Raises:
        ValueError: if ``value`` is neither.

    Example:
        >>> number_or_pair("quality", 30), number_or_pair("quality", np.array([10, 60]))
        ((30, 30), (10, 60))
    """
    numbers = plain(value)
    ends = tuple(numbers) if isinstance(numbers, list | tuple) else (numbers, numbers)
    if len(ends) != 2 or not all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends):
        raise ValueError(f"{name}: expected a number or a pair of numbers, got {value!r}")
    low, high = ends
    if low > high:
        raise ValueError(f"{name}: expected the smaller number first, got {value!r}")
    return low, high


def strength_range(value: Any) -> tuple[float, float]:
    """Return a strength in [0, 1], or an ascending pair of them, as a pair.

    Raises:
        ValueError: if ``value`` is neither.
    """
    low, high = (check_number("strength", end, 0, 1) for end in number_or_pair("strength", value))
    return low, high


def draw_uniform(ends: tuple[Number, Number]) -> float:
    """Draw a number uniformly from a range with torch's generator; equal ends draw nothing and return that number."""
    low, high = ends
    return low if low == high else low + (high - low) * float(torch.rand(()))


def plain(value: Any) -> Any:
    """Convert NumPy and torch numbers, alone or in a list, tuple or dict, to Python's; return all else unchanged.

    Example:
        >>> plain((np.int64(10), np.float32(0.5), "a"))
        (10, 0.5, 'a')
    """
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value] if isinstance(value, list) else tuple(plain(v) for v in value)
    return value.tolist() if isinstance(value, np.generic | np.ndarray | Tensor) else value


def check_channels(channels: int, cure: str, name: str = "image") -> None:
    """Raise a ValueError unless images have 3 or 1 channels, with a hint for an alpha channel.

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


@dataclass(frozen=True)
class PrefilterDraws:
    """A pre-filter and the range from which its strength is drawn.

    Example:
        >>> draws = PrefilterDraws.of(lambda images: images[:, :1], strength=(0.2, 0.4))
        >>> 0.2 <= draws.draw()["strength"] <= 0.4
        True
    """

    prefilter: PrefilterBase
    strength: tuple[float, float]

    @classmethod
    def of(
        cls,
        saliency: SaliencySpec | PrefilterBase,
        *,
        strength: Any = None,
        filter: str | Filter = "blend",
        sigma: float = 1.5,
    ) -> "PrefilterDraws":
        """Build from the arguments of a host's ``Prefilter``.

        Args:
            saliency: see :func:`foveate.saliency.as_saliency`; or a whole :class:`foveate.Prefilter` or
                :class:`foveate.PreEdit`, or a mapping of the latter's arguments.
            strength: in [0, 1], or a pair to draw it from uniformly; None takes that of a whole pre-filter, else 0.5.
            filter: see :class:`foveate.Prefilter`.
            sigma: see :class:`foveate.Prefilter`.

        Raises:
            TypeError: if ``saliency`` is of another type.
            ValueError: if an argument is out of range, or a whole pre-filter has no saliency or is combined with its
                own settings.
        """
        if isinstance(saliency, Mapping) and "models" in saliency:
            saliency = as_prefilter(saliency) or saliency
        prefilter: PrefilterBase
        if not isinstance(saliency, PrefilterBase):
            if saliency is None:
                raise TypeError("saliency: expected a Saliency, a function of images, a recipe or a mapping, got None")
            prefilter = Prefilter(saliency, filter=filter, sigma=sigma)
        elif (filter, sigma) != ("blend", 1.5):
            raise ValueError(
                "filter, sigma: a foveate.Prefilter has its own; give its saliency instead, or change those"
            )
        elif saliency.needs_maps and saliency.saliency is None:
            raise ValueError("saliency: this foveate.Prefilter has none; give it one")
        else:
            prefilter = saliency
        return cls(prefilter, strength_range(prefilter.strength if strength is None else strength))

    def draw(self) -> Draw:
        """Draw the strength of one call."""
        return {"strength": draw_uniform(self.strength)}

    def apply(self, images: Tensor, draw: Draw) -> Tensor:
        """Filter a batch (B, C, H, W) with a draw."""
        return self.prefilter.at(draw["strength"] or 0.0)(images)


@dataclass(frozen=True)
class CompressDraws:
    """A compressor and the ranges from which its quality and strength are drawn; None where nothing is drawn.

    Example:
        >>> draws = CompressDraws.of("jpeg", quality=(10, 20))
        >>> 10 <= draws.draw()["quality"] <= 20
        True
    """

    compressor: Compressor
    quality: tuple[Number, Number] | None
    strength: tuple[float, float] | None

    @classmethod
    def of(
        cls,
        codec: str | Codec = "jpeg",
        *,
        quality: Any = None,
        prefilter: PrefilterSpec | None = None,
        saliency: SaliencySpec | None = None,
        strength: Any = None,
        scale: float = 1.0,
        target: TargetSpec | None = None,
        control: ControlSpec | None = None,
    ) -> "CompressDraws":
        """Build from the arguments of a host's ``Compress``.

        Args:
            codec: a codec or its short string.
            quality: on the codec's own scale, or a pair to draw it from uniformly, both ends included; None takes that
                of ``codec``.
            prefilter: a :class:`foveate.Prefilter` or a mapping of its arguments, guided by ``saliency`` if it has no
                saliency of its own; None makes one from ``saliency`` if ``strength`` is not 0.
            saliency: see :func:`foveate.saliency.as_saliency`; also used by a codec that takes maps itself.
            strength: strength of the pre-filter, in [0, 1], or a pair to draw it from uniformly. None takes that of
                ``prefilter``; with only a saliency 0.5, or 0 if the codec takes maps itself.
            scale: see :class:`foveate.Compressor`.
            target: a :class:`foveate.TargetSize` or a mapping of its arguments, which then chooses the quality.
            control: a :class:`foveate.RateControl` or a mapping of its arguments, which then chooses the quality, the
                strength and the scale.

        Raises:
            TypeError: if an argument is of the wrong kind.
            ValueError: if an argument is out of range, strength is given without a saliency, or quality or strength is
                combined with a control.
        """
        if control is not None and (quality is not None or strength is not None):
            raise ValueError("quality, strength: the control chooses them; give the control qualities= or strengths=")
        compressor = Compressor(
            codec,
            as_prefilter(prefilter),
            scale=scale,
            target=TargetSize(**target) if isinstance(target, Mapping) else target,
            saliency=saliency,
        )
        filters = not compressor.codec.needs_saliency if strength is None else plain(strength) != 0
        if compressor.prefilter is None and saliency is not None and filters:
            compressor = replace(compressor, prefilter=Prefilter(compressor.saliency))
        elif compressor.prefilter is not None and compressor.prefilter.saliency is None and saliency is not None:
            compressor = replace(compressor, prefilter=compressor.prefilter.guided(compressor.saliency))
        if control is not None:
            return cls(replace(compressor, control=_as_control(control)), None, None)
        if compressor.prefilter is None and strength is not None and plain(strength) != 0:
            raise ValueError(f"strength: {strength!r} was given without a prefilter or a saliency to use it")
        ends = number_or_pair("quality", compressor.codec.quality if quality is None else quality)
        for end in ends:
            compressor.at(quality=end)  # the codec knows its own scale
        strengths = None
        if compressor.prefilter is not None:
            strengths = strength_range(compressor.prefilter.strength if strength is None else strength)
        return cls(compressor, ends, strengths)

    @property
    def filters(self) -> bool:
        """Whether a strength above 0 may be drawn."""
        return self.strength is not None and self.strength[1] > 0

    def require_maps(self) -> "CompressDraws":
        """Return this; raise a ValueError if maps are needed and nothing makes them."""
        compressor = self.compressor
        prefilter = compressor.prefilter
        if self.uses_maps and compressor.saliency is None and (prefilter is None or prefilter.saliency is None):
            user = compressor.codec if prefilter is None else "the prefilter"
            raise ValueError(f"saliency: {user} needs maps, and nothing makes them; give a saliency")
        return self

    @property
    def uses_maps(self) -> bool:
        """Whether saliency maps may be needed."""
        compressor = self.compressor
        filters = self.filters and compressor.prefilter is not None and compressor.prefilter.needs_maps
        return filters or (compressor.needs_maps if self.strength is None else compressor.codec.needs_saliency)

    def draw(self) -> Draw:
        """Draw the quality and the strength of one call; a control chooses both instead."""
        if self.quality is None:
            return {}
        low, high = self.quality
        quality: float = low
        if low < high and isinstance(self.compressor.codec.quality, int):
            quality = int(torch.randint(int(low), int(high) + 1, ()).item())
        elif low < high:
            quality = draw_uniform(self.quality)
        return {"quality": quality, "strength": None if self.strength is None else draw_uniform(self.strength)}

    def apply(self, images: Tensor, draw: Draw) -> Tensor:
        """Compress and decode a batch (B, C, H, W) with a draw, keeping its shape, dtype and device."""
        return self.apply_counted(images, draw)[0]

    def apply_counted(self, images: Tensor, draw: Draw) -> tuple[Tensor, list[Encoded]]:
        """Compress and decode a batch, and also return its bitstreams."""
        if not len(images):
            return images, []
        compressor = self.compressor.at(**draw)
        encoded = compressor.encode(images)
        return to_dtype(torch.stack(compressor.decode(encoded)), images.dtype).to(images.device), encoded


def as_prefilter(prefilter: Any) -> PrefilterBase | None:
    """Return a pre-filter, or make one from a mapping of its arguments; None stays None.

    A mapping with ``models`` stands for a :class:`foveate.PreEdit`, any other for a :class:`foveate.Prefilter`.

    Raises:
        TypeError: if ``prefilter`` is of another type.
    """
    if isinstance(prefilter, Mapping):
        if "models" in prefilter:
            from foveate.preedit import PreEdit

            return PreEdit(**prefilter)
        return Prefilter(**prefilter)
    if prefilter is not None and not isinstance(prefilter, PrefilterBase):
        raise TypeError(
            f"prefilter: expected a foveate.Prefilter or PreEdit, a mapping of its arguments or None, got "
            f"{type(prefilter).__name__}; a saliency goes into saliency="
        )
    return prefilter


def _as_control(control: ControlSpec) -> Control:
    if not isinstance(control, Mapping):
        return control
    from foveate.rate_control import RateControl

    return RateControl(**control)
