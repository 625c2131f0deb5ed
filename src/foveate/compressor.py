"""Pre-filter, store and fetch: pictures to bitstreams of a standard codec and back to their own size."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from foveate._checks import check_number
from foveate._threads import parallel_map
from foveate.codecs import Codec, Fit, TargetSize, as_codec
from foveate.filters import resize
from foveate.identity import identity, refuse_subclass
from foveate.images import ImageLike, as_batch, from_array, to_array, to_dtype, to_float
from foveate.prefilter import Prefilter
from foveate.saliency import Maps, Saliency, as_saliency, check_maps


@dataclass(frozen=True)
class Encoded:
    """One compressed picture: any standard decoder reads ``data``.

    Attributes:
        data: the complete bitstream.
        size: height and width of the source picture in pixels; that of the stored one is smaller where it was scaled.
        codec: the codec that wrote it, at the quality it was written with.
        strength: of the pre-filter; 0 without one.
        scale: stored side over source side.
        channels: of the source picture, 3 or 1.
        met: False where a :class:`TargetSize` was given and even the coarsest quality takes more, or a
            :class:`RateControl` and even the finest point does not keep the answer.

    Example:
        >>> import torch
        >>> encoded = Compressor("jpeg:50").encode(torch.rand(1, 3, 40, 50))[0]
        >>> encoded.bpp == 8 * len(encoded.data) / (40 * 50)
        True
    """

    data: bytes
    size: tuple[int, int]
    codec: Codec
    strength: float = 0.0
    scale: float = 1.0
    channels: int = 3
    met: bool = True

    @property
    def pixels(self) -> int:
        """Pixels of the source picture, whatever size is stored."""
        return self.size[0] * self.size[1]

    @property
    def bpp(self) -> float:
        """Bits a pixel of the source picture."""
        return 8 * len(self.data) / self.pixels

    @property
    def settings(self) -> dict[str, Any]:
        """What it was made with, JSON-able."""
        return {"codec": str(self.codec), "strength": self.strength, "scale": self.scale}


class Control(Protocol):
    """Chooses the operating point of each picture, as :class:`foveate.RateControl` does."""

    @property
    def identity(self) -> str:
        """What its choices depend on, as one line of text; see :func:`foveate.identity.identity`."""

    @property
    def keeps(self) -> str:
        """What it keeps to, as a short text for results."""

    @property
    def family(self) -> str:
        """What the controls whose points make one curve share."""

    def to(self, device: str | torch.device) -> Self:
        """Move its models to a device; return this control."""

    def check(self, compressor: "Compressor") -> None:
        """Raise a ValueError if it cannot choose for this compressor."""

    def encode(
        self, compressor: "Compressor", pictures: Sequence[Tensor], maps: Sequence[Tensor] | None = None
    ) -> Sequence[Encoded]:
        """Return one bitstream a picture (C, H, W), in order; ``maps`` are (1, h, w), one a picture, where given."""


_OF_CONTROL = ("check", "encode", "identity", "keeps", "family", "to")


class Compressor:
    """A codec, with a pre-filter before it where one is given.

    Args:
        codec: a codec or its short string, such as ``"jpeg:30"``.
        prefilter: None stores the picture as it is.
        scale: in (0, 1]: the sides of the stored picture over those of the source. The decoder's side gets the picture
            back at source size, and the rate stays per source pixel. Scaling comes after the filter.
        target: a :class:`TargetSize` that chooses the codec's quality for each picture; None keeps that of ``codec``.
        saliency: makes the maps of a codec that takes them itself (``"hevc:32,roi=8"``); None takes the pre-filter's.
        control: a :class:`foveate.RateControl` that chooses strength, scale and quality for each picture; None keeps
            those given here. Not together with ``target`` or a ``scale``.

    Pictures are encoded and decoded on as many threads as torch may use (``torch.get_num_threads()``; one in a worker
    of a DataLoader).

    Raises:
        TypeError: if ``prefilter``, ``target``, ``saliency`` or ``control`` is of another kind.
        ValueError: if the codec's string or the scale does not fit, nothing makes the maps that the codec needs, or
            two arguments both choose the quality or the scale.

    Example:
        >>> import torch
        >>> compressor = Compressor("jpeg:30", scale=0.5)
        >>> encoded = compressor.encode(torch.rand(2, 3, 33, 48))
        >>> [tuple(picture.shape) for picture in compressor.decode(encoded)]
        [(3, 33, 48), (3, 33, 48)]
    """

    def __init__(
        self,
        codec: str | Codec = "jpeg",
        prefilter: Prefilter | None = None,
        scale: float = 1.0,
        target: TargetSize | None = None,
        saliency: Maps | None = None,
        control: Control | None = None,
    ) -> None:
        self.codec = as_codec(codec)
        if prefilter is not None and not isinstance(prefilter, Prefilter):
            raise TypeError(f"prefilter: expected a foveate.Prefilter or None, got {type(prefilter).__name__}")
        self.prefilter = prefilter
        self.scale = check_number("scale", scale, 0, 1, above=True)
        if target is not None and not isinstance(target, TargetSize):
            raise TypeError(f"target: expected a foveate.TargetSize or None, got {type(target).__name__}")
        self.target = target
        maps = prefilter.saliency if saliency is None and prefilter is not None else saliency
        self.saliency: Saliency | None = None if maps is None else as_saliency(maps)
        if self.codec.needs_saliency and self.saliency is None:
            raise ValueError(f"saliency: {self.codec} needs maps; give this Compressor a saliency")
        self.control = control
        if control is not None:
            lacking = [part for part in _OF_CONTROL if not hasattr(type(control), part)]
            if lacking:
                raise TypeError(
                    f"control: expected a foveate.RateControl or None, got {type(control).__name__}, which has no "
                    f"{', '.join(lacking)}"
                )
            if target is not None:
                raise ValueError("target, control: each chooses the quality; give one of the two")
            if scale != 1:
                raise ValueError(f"scale: the control chooses it, got {scale!r}; give the control scales={scale!r}")
            control.check(self)

    def at(self, quality: float | None = None, strength: float | None = None) -> Self:
        """Return this compressor at another operating point; what is None stays.

        Raises:
            ValueError: if a strength is given and there is no pre-filter, or a value is out of range.
        """
        other = type(self)(self.codec, self.prefilter, self.scale, self.target, self.saliency, self.control)
        if quality is not None:
            other.codec = self.codec.with_quality(quality)
        if strength is not None:
            if self.prefilter is None:
                raise ValueError("strength: this Compressor has no prefilter; give it one")
            other.prefilter = replace(self.prefilter, strength=strength)
        return other

    def to(self, device: str | torch.device) -> Self:
        """Move the models of the saliency and the control, built now where they are recipes, to a device.

        Pictures may stay where they are; codecs work on the CPU.
        """
        if self.used_saliency is not None:
            self.used_saliency.to(device)
        if self.control is not None:
            self.control.to(device)
        return self

    def encode(self, images: Tensor | Sequence[ImageLike], maps: Tensor | None = None) -> list[Encoded]:
        """Compress pictures.

        Args:
            images: a batch (B, C, H, W), or a sequence of pictures of any sizes: tensors (C, H, W), uint8 arrays
                (H, W, C) or PIL images. C is 3 or 1; tensors are uint8 or float in [0, 1], and floats are rounded to
                uint8 for the codec. A batch is filtered as one, a sequence picture by picture.
            maps: saliency maps (B, 1, h, w) in [0, 1], one a picture, to use instead of asking the pre-filter's
                saliency.

        Returns:
            One bitstream a picture, in order.

        Raises:
            TypeError, ValueError: if something is not a picture, or the pre-filter or the codec refuses it.
        """
        pictures = as_batch(images)
        if maps is not None:
            check_maps(maps, len(pictures))
        if self.control is not None:
            return list(self.control.encode(self, pictures, None if maps is None else list(maps)))
        groups = [images] if isinstance(images, Tensor) else [picture[None] for picture in pictures]
        given: list[Tensor | None] = [None] * len(groups)
        if maps is not None:
            given = [maps] if isinstance(images, Tensor) else [m[None] for m in maps]
        filtered: list[Tensor] = []
        kept: list[Tensor | None] = []
        for group, own in zip(groups, given, strict=True):
            chosen = self.maps(group) if own is None else own
            filtered += self.prefilter(group, chosen) if self.prefilter is not None and self.filters else group
            kept += [None] * len(group) if chosen is None else list(chosen)
        return self.store(filtered, kept)

    @property
    def identity(self) -> str:
        """What the bytes depend on, other libraries than the codec's aside, as one line of text."""
        refuse_subclass(self, Compressor)
        parts = [str(self.codec), self.codec.library(), f"scale={self.scale:g}"]
        if not type(self.codec).__module__.startswith("foveate."):
            parts.append(identity(self.codec, "codec"))  # whose short string does not tell its code
        if self.target is not None:
            parts.append(identity(self.target))
        prefilter = self.prefilter
        if prefilter is not None and (self.filters or self.control is not None):
            how = f"strength={prefilter.strength:g} sigma={prefilter.sigma:g} even={prefilter.even}"
            parts.append(f"{prefilter.filter} {how}")
        if self.control is not None:
            parts.append(identity(self.control, "control"))
        if self.used_saliency is not None:
            parts.append(identity(self.used_saliency, "saliency"))
        return " ".join(parts)

    @property
    def used_saliency(self) -> Saliency | None:
        """What makes the maps; None where neither the pre-filter nor the codec asks for any."""
        if self.prefilter is not None and (self.filters or self.control is not None):
            return as_saliency(self.prefilter.saliency)
        return self.saliency if self.codec.needs_saliency else None

    @property
    def filters(self) -> bool:
        """Whether the pre-filter changes anything."""
        return self.prefilter is not None and self.prefilter.strength > 0

    def maps(self, images: Tensor) -> Tensor | None:
        """Return the saliency maps (B, 1, h, w) of a batch, or None where neither the pre-filter nor the codec asks."""
        if self.prefilter is not None and self.filters:
            return self.prefilter.maps(images)
        if self.saliency is not None and self.codec.needs_saliency:
            return Prefilter(self.saliency).maps(images)
        return None

    def store(self, pictures: Tensor | Sequence[Tensor], maps: Sequence[Tensor | None] | None = None) -> list[Encoded]:
        """Scale and encode pictures that went through the pre-filter already; :meth:`encode` does both.

        Args:
            pictures: (B, C, H, W), or tensors (C, H, W) of any sizes, uint8 or float in [0, 1].
            maps: saliency maps (1, h, w), one a picture, for a codec that needs them.

        Returns:
            One bitstream a picture, in order, marked with this compressor's strength.

        Raises:
            ValueError: if this compressor has a control, which has to see the pictures before the pre-filter, or there
                is not one map a picture.
        """
        if self.control is not None:
            raise ValueError("store: the control chooses from the unfiltered pictures; use encode")
        given = [None] * len(pictures) if maps is None else maps
        if len(given) != len(pictures):
            raise ValueError(f"maps: expected one a picture, {len(pictures)}, got {len(given)}")
        return parallel_map(lambda pair: self._store(*pair), zip(pictures, given, strict=True))

    def decode(self, encoded: Sequence[Encoded], as_stored: bool = False) -> list[Tensor]:
        """Decompress pictures to their source sizes.

        Args:
            encoded: what :meth:`encode` returned, of this or another compressor.
            as_stored: leave them in the size they are stored in, as a plain reader of the file gets them.

        Returns:
            One uint8 tensor (C, H, W) on the CPU a bitstream, in order.

        Raises:
            CodecError: if a bitstream is damaged.
        """
        return parallel_map(partial(_fetch, as_stored=as_stored), encoded)

    def _store(self, picture: Tensor, saliency: Tensor | None) -> Encoded:
        height, width = picture.shape[-2:]
        if self.scale < 1:
            size = max(1, round(height * self.scale)), max(1, round(width * self.scale))
            picture = resize(to_float(picture)[None], size)[0]
        array = to_array(picture)
        given = (
            saliency[0].detach().cpu().float().numpy() if saliency is not None and self.codec.needs_saliency else None
        )
        if self.target is None:
            fit = Fit(self.codec.encode(array, given), self.codec, True)
        else:
            fit = self.target.fit(self.codec, array, given, height * width)
        strength = 0.0 if self.prefilter is None else self.prefilter.strength
        return Encoded(fit.data, (height, width), fit.codec, strength, self.scale, picture.shape[0], fit.met)

    def __repr__(self) -> str:
        target = "" if self.target is None else f", {self.target!r}"
        control = "" if self.control is None else f", {self.control!r}"
        return f"Compressor({str(self.codec)!r}, {self.prefilter!r}, scale={self.scale:g}{target}{control})"


def _fetch(encoded: Encoded, as_stored: bool) -> Tensor:
    picture = from_array(encoded.codec.decode(encoded.data))
    if picture.shape[0] > encoded.channels:  # a grayscale picture in a format without grayscale
        picture = to_dtype(to_float(picture).mean(0, keepdim=True), torch.uint8)
    if as_stored or tuple(picture.shape[-2:]) == encoded.size:
        return picture
    return to_dtype(resize(to_float(picture)[None], encoded.size)[0], torch.uint8)
