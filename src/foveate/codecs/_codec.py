"""The base of all codecs: a frozen dataclass of settings that encodes and decodes in memory."""

import operator
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from foveate._checks import MAX_PIXELS


class CodecError(ValueError):
    """A bitstream cannot be decoded: it is truncated, corrupted, of another format, or over ``MAX_PIXELS``."""


class TooLargeError(ValueError):
    """An image has more pixels than the format or Foveate takes."""


def check_image(image: npt.NDArray[np.uint8]) -> None:
    """Raise unless ``image`` is what every codec encodes: uint8, (H, W, 3) or (H, W, 1), H and W at least 1."""
    if not isinstance(image, np.ndarray):
        raise TypeError(f"image: expected a numpy array, got {type(image).__name__}")
    if image.dtype != np.uint8:
        raise TypeError(f"image: expected dtype uint8, got {image.dtype}; scale to 0..255 and round first")
    if image.ndim != 3 or image.shape[2] not in (1, 3) or 0 in image.shape:
        raise ValueError(f"image: expected shape (H, W, 3) or (H, W, 1) with H, W >= 1, got {image.shape}")
    if image.shape[0] * image.shape[1] > MAX_PIXELS:
        raise TooLargeError(
            f"image: {image.shape[0]}x{image.shape[1]} is over the limit of {MAX_PIXELS} pixels; tile it"
        )


def check_integer(name: str, value: Any, low: int, high: int) -> int:
    """Return ``value`` as an int if it is an integer, of NumPy or other libraries too, in [low, high].

    Args:
        name: the argument and the codec, such as ``"quality: JPEG"``.
        value: the value to check.
        low: the lowest allowed.
        high: the highest allowed.

    Raises:
        TypeError: if it is not an integer; booleans are not integers here.
        ValueError: if it is out of range.
    """
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"{name} takes an integer {low} to {high}, got {value!r}")
    if not low <= number <= high:
        raise ValueError(f"{name} takes {low} to {high}, got {number}")
    return number


def check_subsampling(name: str, value: object) -> None:
    """Raise unless ``value`` is a chroma subsampling that codecs share."""
    if value not in ("4:2:0", "4:2:2", "4:4:4"):
        raise ValueError(f"subsampling: {name} takes 4:2:0, 4:2:2 or 4:4:4, got {value!r}")


@dataclass(frozen=True)
class Codec(ABC):
    """A codec at one setting: immutable, hashable, picklable, and without any state between calls.

    Subclasses add their knobs as dataclass fields, each with a default and each a str, int, float or bool unless they
    define how it is written in a short string, and keep three rules: the bitstream carries the image and no metadata,
    the decoded image has the size of the source, and data that cannot be decoded raises :class:`CodecError`.

    Attributes:
        quality: on the codec's native scale; each subclass documents its direction.
        name: the codec's name in short strings and results.
        suffix: the suffix of its files, such as ``".jpg"``.
        media_type: the registered media (MIME) type of its bitstreams.
        grayscale: whether a grayscale image is decoded with one channel; if the format has none, as RGB, which
            :class:`foveate.Compressor` converts back to one channel.
        scale: every quality that a search may try, from coarsest to finest.
        ladder: a few of them for sweeps, from coarse to fine.
    """

    quality: float
    name: ClassVar[str]
    suffix: ClassVar[str]
    media_type: ClassVar[str]
    grayscale: ClassVar[bool] = True
    scale: ClassVar[Sequence[float]]
    ladder: ClassVar[tuple[float, ...]]

    def encode(self, image: npt.NDArray[np.uint8], saliency: npt.NDArray[np.float32] | None = None) -> bytes:
        """Compress an image.

        Args:
            image: (H, W, 3) RGB or (H, W, 1) grayscale, uint8, H and W at least 1.
            saliency: a map (h, w) in [0, 1] over the whole image if :attr:`needs_saliency`; else None.

        Returns:
            The complete bitstream, without EXIF, ICC or other metadata: its length is the rate.

        Raises:
            TypeError: if ``image`` is not a uint8 array.
            ValueError: if its shape is not one of the two, it has more than ``MAX_PIXELS`` pixels, or a longer
                side than the format allows; if a map is missing, not used by this codec, or not a map in [0, 1].
            ImportError: if the codec's library is not installed, with the command that installs it.
        """
        check_image(image)
        if (saliency is not None) != self.needs_saliency:
            raise ValueError(f"saliency: {self} {'needs a map' if saliency is None else 'has no use for a map'}")
        if saliency is not None:
            saliency = np.asarray(saliency, np.float32)
            # Written so that NaN fails it.
            if saliency.ndim != 2 or not saliency.size or not (saliency.min() >= 0 and saliency.max() <= 1):
                raise ValueError(f"saliency: expected a map (h, w) in [0, 1], got shape {saliency.shape}")
        return self._encode(np.ascontiguousarray(image), saliency)

    @abstractmethod
    def _encode(self, image: npt.NDArray[np.uint8], saliency: npt.NDArray[np.float32] | None) -> bytes:
        """Compress a checked, contiguous image (H, W, 3 or 1)."""

    @abstractmethod
    def decode(self, data: bytes) -> npt.NDArray[np.uint8]:
        """Decompress a bitstream.

        Args:
            data: a complete bitstream of this format, from any encoder.

        Returns:
            (H, W, 3) RGB, or (H, W, 1) if the bitstream is grayscale, uint8.

        Raises:
            CodecError: if ``data`` is not a complete and valid bitstream of this format.
            ImportError: if the codec's library is not installed.
        """

    @classmethod
    @abstractmethod
    def library(cls) -> str:
        """Return the name and version of the library that encodes and decodes.

        Raises:
            ImportError: if it is not installed, with the command that installs it.
        """

    @property
    def needs_saliency(self) -> bool:
        """Whether :meth:`encode` uses a saliency map, and so needs one."""
        return False

    @property
    def plain(self) -> "Codec":
        """This codec without use of saliency, to compare it with."""
        return self

    @classmethod
    def suffixes(cls) -> tuple[str, ...]:
        """Return the endings of all files that :meth:`decode` reads, in lower case; :attr:`suffix` is one of them."""
        return (cls.suffix,)

    def qualities(self) -> tuple[float, ...]:
        """Return a few qualities for sweeps, from coarse to fine.

        Example:
            >>> from foveate import Jpeg
            >>> Jpeg().qualities()
            (12, 25, 50, 75)
        """
        return self.ladder

    def coarser(self) -> Self | None:
        """Return this codec at the next coarser quality of its scale; None at its end."""
        step = self.step() - 1
        return self.with_quality(self.scale[step]) if step >= 0 else None

    def finer(self) -> Self | None:
        """Return this codec at the next finer quality of its scale; None at its end.

        Example:
            >>> from foveate import Jpeg
            >>> Jpeg(50).finer().quality, Jpeg(95).finer()
            (51, None)
        """
        step = self.step()
        step += step < len(self.scale) and self.scale[step] == self.quality
        return self.with_quality(self.scale[step]) if step < len(self.scale) else None

    def step(self) -> int:
        """Return the index on the scale of the coarsest quality that is not coarser than this one.

        Example:
            >>> from foveate import Jpeg
            >>> Jpeg(50).step()
            49
        """
        sign = 1 if self.scale[0] < self.scale[-1] else -1
        return bisect_left(self.scale, sign * self.quality, key=lambda quality: sign * quality)

    def with_settings(self, **settings: Any) -> Self:
        """Return this codec with some settings changed."""
        return replace(self, **settings)

    def with_quality(self, quality: float) -> Self:
        """Return this codec at another quality, with the same settings otherwise.

        Example:
            >>> from foveate import Jpeg
            >>> Jpeg(50, progressive=True).with_quality(20)
            Jpeg(quality=20, subsampling='4:2:0', progressive=True, tables=None)
        """
        return self.with_settings(quality=quality)

    def _store(self, **settings: Any) -> None:
        """Store checked settings as plain numbers, so that equal codecs have equal strings and hashes."""
        for name, value in settings.items():
            object.__setattr__(self, name, value)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the codec at the settings of ``"quality,knob=value,..."``; the others take their defaults.

        Raises:
            ValueError: if a knob is unknown or a value does not fit.
        """
        knobs = {f.name: f for f in fields(cls)}
        settings: dict[str, Any] = {}
        for position, part in enumerate(filter(None, text.split(","))):
            key, equals, value = part.partition("=")
            if not equals and position == 0:
                key, value = "quality", key
            if key not in knobs or (not equals and key != "quality"):
                raise ValueError(f"codec: {cls.name} has no knob {part!r}; it has {', '.join(knobs)}")
            kind: Any = type(knobs[key].default)
            try:
                settings[key] = cls._parse_value(key, kind, value)
            except (KeyError, ValueError):
                raise ValueError(f"codec: {cls.name}: {key} takes {cls._takes(key, kind)}, got {value!r}") from None
        return cls(**settings)

    @classmethod
    def _parse_value(cls, key: str, kind: Any, text: str) -> Any:
        """Return the value of a knob from a short string; raise KeyError or ValueError if it is not valid."""
        return {"True": True, "False": False}[text] if kind is bool else kind(text)

    @classmethod
    def _takes(cls, key: str, kind: Any) -> str:
        """Return what :meth:`_parse_value` takes, in words."""
        return str(kind.__name__)

    @classmethod
    def _format_value(cls, value: Any) -> str:
        """Return the value of a knob as a short string writes it."""
        return str(value).removesuffix(".0")

    @property
    def family(self) -> str:
        """The short string without the quality, common to the points of one rate–accuracy curve.

        Example:
            >>> from foveate import Jpeg
            >>> Jpeg(30).family, Jpeg(30, subsampling="4:4:4").family
            ('jpeg', 'jpeg:subsampling=4:4:4')
        """
        knobs = self._knobs()
        return f"{self.name}:{knobs}" if knobs else self.name

    def __str__(self) -> str:
        return f"{self.name}:{','.join(filter(None, [self._format_value(self.quality), self._knobs()]))}"

    def _knobs(self) -> str:
        """Return the settings other than the quality that differ from the defaults."""
        values = ((f.name, getattr(self, f.name), f.default) for f in fields(self) if f.name != "quality")
        return ",".join(f"{name}={self._format_value(value)}" for name, value, default in values if value != default)
