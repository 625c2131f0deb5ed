"""The compressor: images to bitstreams of a standard codec, and back to images of source size."""

import base64
import html
import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch
from PIL import Image
from torch import Tensor

from foveate._checks import check_number
from foveate._threads import parallel_map
from foveate.codecs import Codec, Fit, Jpeg, TargetSize, as_codec
from foveate.filters import resize
from foveate.identity import identity, refuse_subclass
from foveate.images import ImageLike, as_batch, from_array, to_array, to_dtype, to_float
from foveate.prefilter import PrefilterBase
from foveate.saliency import Saliency, SaliencySpec, as_saliency, check_maps
from foveate.sweep import Sweep, downscaled

__all__ = ["Compressor", "Control", "Encoded"]

_SHOWN = 512
"""The longest side of a decoded image in a notebook, in pixels."""


@dataclass(frozen=True)
class Encoded:
    """A compressed image; any standard decoder reads ``data``.

    Attributes:
        data: the complete bitstream.
        size: height and width of the source image in pixels; a scaled image is stored smaller.
        codec: the codec that wrote it, with the quality used.
        strength: strength of the pre-filter; 0 without one.
        scale: stored side over source side.
        channels: channels of the source image, 3 or 1.
        met: False if even the coarsest quality exceeds the :class:`TargetSize`, or even the finest point does not meet
            the criteria of the :class:`RateControl`.

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
        """Number of pixels of the source image, whatever size is stored."""
        return self.size[0] * self.size[1]

    @property
    def bpp(self) -> float:
        """Bits per pixel of the source image."""
        return 8 * len(self.data) / self.pixels

    @property
    def settings(self) -> dict[str, Any]:
        """The settings it was made with, JSON-able."""
        return {"codec": str(self.codec), "strength": self.strength, "scale": self.scale}

    def __repr__(self) -> str:
        height, width = self.size
        parts = [f"{len(self.data):,} bytes of {self.codec}", f"{height}×{width}", f"{self.bpp:.3f} bpp"]
        parts += [f"strength {self.strength:g}"] * (self.strength > 0) + [f"scale {self.scale:g}"] * (self.scale < 1)
        return f"{type(self).__name__}({', '.join(parts + ['not met'] * (not self.met))})"

    def _repr_html_(self) -> str:
        """What it says, above the decoded image as it is stored, for a notebook."""
        pixels = self.codec.decode(self.data)
        image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
        image.thumbnail((_SHOWN, _SHOWN))
        png = io.BytesIO()
        image.save(png, "PNG")
        shown = base64.b64encode(png.getvalue()).decode()
        return f"<p>{html.escape(repr(self))}</p><img alt='decoded' src='data:image/png;base64,{shown}'>"


class Control(ABC):
    """Chooses the operating point of each image, as :class:`foveate.RateControl` does."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """Everything its choices depend on, as one line of text; see :func:`foveate.identity.identity`."""

    @property
    @abstractmethod
    def keeps(self) -> str:
        """The criteria it meets, as a short text for results."""

    @property
    @abstractmethod
    def family(self) -> str:
        """A name shared by controls whose points form one curve."""

    @abstractmethod
    def to(self, device: str | torch.device) -> Self:
        """Move the models to a device; return this control."""

    @abstractmethod
    def check(self, compressor: "Compressor") -> None:
        """Raise a ValueError if it cannot choose for this compressor."""

    @abstractmethod
    def encode(
        self, compressor: "Compressor", images: Sequence[Tensor], maps: Sequence[Tensor] | None = None
    ) -> Sequence[Encoded]:
        """Return one bitstream per image (C, H, W), in order; ``maps`` are (1, h, w), one per image, or None."""


@dataclass(frozen=True)
class Compressor:
    """A codec, with an optional pre-filter before it.

    Args:
        codec: a codec or its short string like ``"jpeg:30"``.
        prefilter: None stores the image as it is.
        scale: side of the stored image divided by that of the source, in (0, 1]. Decoding resizes back to source size,
            and rates are per source pixel. Scaling comes after a :class:`foveate.Prefilter`, and before a
            :class:`foveate.PreEdit`.
        target: a :class:`TargetSize` that chooses the codec's quality for each image; None keeps that of ``codec``.
        saliency: makes the maps for a codec that uses them itself (``"hevc:32,roi=8"``), in any form that
            :func:`foveate.saliency.as_saliency` accepts; None takes the pre-filter's.
        control: a :class:`foveate.RateControl` that chooses strength, scale and quality for each image; None keeps
            those given here. It cannot be combined with ``target`` or ``scale``.

    Images are encoded and decoded on as many threads as torch may use (``torch.get_num_threads()``; one in a DataLoader
    worker).

    Raises:
        TypeError: if ``prefilter``, ``target``, ``saliency`` or ``control`` is of another type.
        ValueError: if the codec's string or the scale is invalid, or two arguments choose the quality or the scale.

    Example:
        >>> import torch
        >>> compressor = Compressor("jpeg:30", scale=0.5)
        >>> encoded = compressor.encode(torch.rand(2, 3, 33, 48))
        >>> [tuple(image.shape) for image in compressor.decode(encoded)]
        [(3, 33, 48), (3, 33, 48)]
        >>> compressor == Compressor("jpeg:30", scale=0.5)
        True
    """

    codec: Codec = Jpeg()  # noqa: RUF009  (frozen)
    prefilter: PrefilterBase | None = None
    _: KW_ONLY
    scale: float = 1.0
    target: TargetSize | None = None
    saliency: Saliency | None = None
    control: Control | None = None

    if TYPE_CHECKING:  # the constructor accepts more types than the fields hold

        def __init__(
            self,
            codec: str | Codec = "jpeg",
            prefilter: PrefilterBase | None = None,
            *,
            scale: float = 1.0,
            target: TargetSize | None = None,
            saliency: SaliencySpec | None = None,
            control: Control | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        self._set("codec", as_codec(self.codec))
        self._set("scale", check_number("scale", self.scale, 0, 1, above=True))
        for name, kind in (("prefilter", PrefilterBase), ("target", TargetSize), ("control", Control)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                expected = "RateControl" if kind is Control else kind.__name__.removesuffix("Base")
                raise TypeError(f"{name}: expected a foveate.{expected} or None, got {type(value).__name__}")
        if self.saliency is not None:
            self._set("saliency", as_saliency(self.saliency))
        if self.control is None:
            return
        if self.target is not None:
            raise ValueError("target, control: each chooses the quality; give one of the two")
        if self.scale != 1:
            raise ValueError(
                f"scale: the control chooses it, got {self.scale!r}; give the control scales={self.scale!r}"
            )
        self.control.check(self)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def at(self, quality: float | None = None, strength: float | None = None) -> "Compressor":
        """Return this compressor at another operating point; None keeps a value.

        Raises:
            ValueError: if a strength is given without a pre-filter, or a value is out of range.
        """
        if strength is not None and self.prefilter is None:
            raise ValueError("strength: this Compressor has no prefilter; give it one")
        codec = self.codec if quality is None else self.codec.with_quality(quality)
        if strength is None or self.prefilter is None:
            return replace(self, codec=codec)
        return replace(self, codec=codec, prefilter=self.prefilter.at(strength))

    def to(self, device: str | torch.device) -> Self:
        """Move the models of the saliency and the control to a device; recipes are built now.

        Images can stay where they are; codecs work on the CPU.
        """
        if self.used_saliency is not None:
            self.used_saliency.to(device)
        if self.prefilter is not None:
            self.prefilter.to(device)
        if self.control is not None:
            self.control.to(device)
        return self

    def encode(self, images: Tensor | Sequence[ImageLike] | Sweep, maps: Tensor | None = None) -> list[Encoded]:
        """Compress images.

        Args:
            images: a batch (B, C, H, W), or a sequence of images of any sizes: tensors (C, H, W), uint8 arrays
                (H, W, C) or PIL images. C is 3 or 1; tensors are uint8 or float in [0, 1], and floats are rounded to
                uint8 for the codec. A batch is filtered at once, a sequence image by image. To run images through
                several compressors, pass a :class:`Sweep`, which keeps their maps and filtered images.
            maps: saliency maps (B, 1, h, w) in [0, 1], one per image, to use instead of the saliency's. A sweep has its
                own.

        Returns:
            One bitstream per image, in order.

        Raises:
            TypeError, ValueError: if an item is not an image, the pre-filter or the codec rejects it, or there is no
                saliency to make the maps they need.
        """
        sweep = self._sweep(images, maps)
        if self.control is not None:
            uses_them = self.needs_maps if not sweep.has_own_maps else self._may_filter or self.needs_maps
            maps_from_outside = sweep.maps(self.used_saliency) if sweep.has_maps and uses_them else None
            return list(self.control.encode(self, sweep.images, maps_from_outside))
        return self.encode_at(sweep, range(len(sweep)))

    def encode_one(self, image: ImageLike, map: Tensor | None = None) -> Encoded:  # noqa: A002  (as maps= of encode)
        """Compress one image.

        Args:
            image: a tensor (C, H, W), a uint8 array (H, W, C) or a PIL image; see :meth:`encode`.
            map: its saliency map (1, h, w) in [0, 1], to use instead of the saliency's.

        Raises:
            TypeError, ValueError: as :meth:`encode` does.

        Example:
            >>> import numpy as np
            >>> Compressor("webp:50").encode_one(np.zeros((32, 48, 3), np.uint8)).size
            (32, 48)
        """
        return self.encode([image], None if map is None else map[None])[0]

    def encode_at(self, sweep: Sweep, indices: Sequence[int]) -> list[Encoded]:
        """Compress some of the images of a sweep.

        Args:
            sweep: the images.
            indices: indices of the images in the sweep.

        Returns:
            One bitstream per index, in order.

        Raises:
            ValueError: as :meth:`encode`, or if this compressor has a control, which must see all images at once.
        """
        if self.control is not None:
            raise ValueError("encode_at: the control chooses from all images of a call; use encode")
        self.prepare(sweep, indices)
        images = [self.filtered(sweep, k) for k in indices]
        maps: list[Tensor] | list[None] = [None] * len(images)
        if self.codec.needs_saliency and images:
            every = sweep.maps(self.used_saliency)
            maps = [every[k] for k in indices]
        sizes = [(sweep.images[k].shape[-2], sweep.images[k].shape[-1]) for k in indices]
        return parallel_map(lambda job: self._store(*job), zip(images, maps, sizes, strict=True))

    def filtered(self, sweep: Sweep, index: int) -> Tensor:
        """Return an image (C, H, W) of a sweep as the pre-filter leaves it; if it works after scaling, that is smaller.

        Without a pre-filter, or with a control, which chooses its strength, that is the image itself.
        """
        if self.prefilter is None or self.control is not None:
            return sweep.images[index]
        return sweep.filtered(self.prefilter.before(self.codec), index, self.scale)

    def prepare(self, sweep: Sweep, indices: Sequence[int]) -> None:
        """Make the maps and filtered images that :meth:`encode_at` needs, so that threads can call it concurrently."""
        for k in indices:
            self.filtered(sweep, k)
        if self.codec.needs_saliency and indices:
            sweep.maps(self.used_saliency)

    @property
    def identity(self) -> str:
        """Everything the bytes depend on, except libraries other than the codec's, as one line of text."""
        refuse_subclass(self, Compressor)
        parts = [str(self.codec), self.codec.library(), f"scale={self.scale:g}"]
        if not type(self.codec).__module__.startswith("foveate."):
            parts.append(identity(self.codec, "codec"))  # its short string does not cover its code
        if self.target is not None:
            parts.append(identity(self.target))
        prefilter = self.prefilter
        if prefilter is not None and self._may_filter:
            parts.append(prefilter.settings)
        if self.control is not None:
            parts.append(identity(self.control, "control"))
        if self.used_saliency is not None:
            parts.append(identity(self.used_saliency, "saliency"))
        return " ".join(parts)

    @property
    def used_saliency(self) -> Saliency | None:
        """The saliency that makes the maps; None if neither the pre-filter nor the codec needs any."""
        prefilter = self.prefilter
        if prefilter is not None and self._filter_needs_maps:
            return prefilter.saliency
        if not self.codec.needs_saliency:
            return None
        return prefilter.saliency if self.saliency is None and prefilter is not None else self.saliency

    @property
    def filters(self) -> bool:
        """Whether the pre-filter changes anything."""
        return self.prefilter is not None and self.prefilter.strength > 0

    @property
    def needs_maps(self) -> bool:
        """Whether saliency maps are needed: by the pre-filter, which a control may turn on, or by the codec."""
        return self._filter_needs_maps or self.codec.needs_saliency

    @property
    def _filter_needs_maps(self) -> bool:
        return self._may_filter and self.prefilter is not None and self.prefilter.needs_maps

    @property
    def _may_filter(self) -> bool:
        return self.filters or (self.prefilter is not None and self.control is not None)

    def decode(self, encoded: Sequence[Encoded], as_stored: bool = False) -> list[Tensor]:
        """Decompress images to their source sizes.

        Args:
            encoded: the result of :meth:`encode`, of this or another compressor.
            as_stored: keep the stored size, as a plain reader of the file gets it.

        Returns:
            One uint8 tensor (C, H, W) on the CPU per bitstream, in order.

        Raises:
            CodecError: if a bitstream is damaged.
        """
        return parallel_map(partial(_fetch, as_stored=as_stored), encoded)

    def _sweep(self, images: Tensor | Sequence[ImageLike] | Sweep, maps: Tensor | None) -> Sweep:
        if isinstance(images, Sweep):
            if maps is not None:
                raise ValueError("maps: a Sweep has its own; give them to it")
            return images
        tensors = as_batch(images)
        if maps is not None:
            check_maps(maps, len(tensors))
        return Sweep(images if isinstance(images, Tensor) else tensors, maps)

    def _store(self, image: Tensor, saliency: Tensor | None, size: tuple[int, int]) -> Encoded:
        height, width = size
        if (image.shape[-2], image.shape[-1]) == size:  # else a pre-filter got it scaled
            image = downscaled(image[None], self.scale)[0]
        array = to_array(image)
        saliency_array = None if saliency is None else saliency[0].detach().cpu().float().numpy()
        if self.target is None:
            fit = Fit(self.codec.encode(array, saliency_array), self.codec, True)
        else:
            fit = self.target.fit(self.codec, array, saliency_array, height * width)
        strength = 0.0 if self.prefilter is None else self.prefilter.strength
        return Encoded(fit.data, (height, width), fit.codec, strength, self.scale, image.shape[0], fit.met)

    def __repr__(self) -> str:
        parts = [repr(str(self.codec))]
        if self.prefilter is not None:
            parts.append(f"prefilter={self.prefilter!r}")
        if self.scale != 1:
            parts.append(f"scale={self.scale:g}")
        for name in ("target", "saliency", "control"):
            if getattr(self, name) is not None:
                parts.append(f"{name}={getattr(self, name)!r}")
        return f"Compressor({', '.join(parts)})"


def _fetch(encoded: Encoded, as_stored: bool) -> Tensor:
    image = from_array(encoded.codec.decode(encoded.data))
    if image.shape[0] > encoded.channels:  # a grayscale image in a format without grayscale
        image = to_dtype(to_float(image).mean(0, keepdim=True), torch.uint8)
    if as_stored or tuple(image.shape[-2:]) == encoded.size:
        return image
    return to_dtype(resize(to_float(image)[None], encoded.size)[0], torch.uint8)
