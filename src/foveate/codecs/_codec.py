"""What every codec is: a frozen dataclass of its settings that encodes and decodes in memory."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

MAX_PIXELS = 1 << 26
"""Pictures of more pixels (8192 x 8192) are refused, so that a small hostile bitstream cannot fill the memory."""


class CodecError(ValueError):
    """A bitstream that cannot be decoded: truncated, corrupted, of another format, or over ``MAX_PIXELS``."""


def check_image(image: npt.NDArray[np.uint8]) -> None:
    """Raise unless ``image`` is what every codec encodes: uint8, (H, W, 3) or (H, W, 1), H and W at least 1."""
    if not isinstance(image, np.ndarray):
        raise TypeError(f"image: expected a numpy array, got {type(image).__name__}")
    if image.dtype != np.uint8:
        raise TypeError(f"image: expected dtype uint8, got {image.dtype}; scale to 0..255 and round first")
    if image.ndim != 3 or image.shape[2] not in (1, 3) or 0 in image.shape:
        raise ValueError(f"image: expected shape (H, W, 3) or (H, W, 1) with H, W >= 1, got {image.shape}")
    if image.shape[0] * image.shape[1] > MAX_PIXELS:
        raise ValueError(f"image: {image.shape[0]}x{image.shape[1]} is over the limit of {MAX_PIXELS} pixels; tile it")


def check_integer(name: str, value: object, low: int, high: int) -> None:
    """Raise unless ``value`` is an integer in [low, high]; ``name`` says of which argument of which codec."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} takes an integer {low} to {high}, got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} takes {low} to {high}, got {value}")


def check_subsampling(name: str, value: object) -> None:
    """Raise unless ``value`` is a chroma subsampling that codecs share."""
    if value not in ("4:2:0", "4:2:2", "4:4:4"):
        raise ValueError(f"subsampling: {name} takes 4:2:0, 4:2:2 or 4:4:4, got {value!r}")


@dataclass(frozen=True)
class Codec(ABC):
    """A codec at one setting: immutable, hashable, picklable, and without any state between calls.

    Subclasses add their knobs as dataclass fields, each with a default and each a str, int, float or bool unless it
    cannot be said in a short string, and hold to three rules: the bitstream carries the picture and no metadata,
    the decoded picture has the size of the source, and what cannot be decoded raises :class:`CodecError`.

    Attributes:
        quality: the native quality scale of the codec, finer upwards unless the subclass says otherwise.
        name: the codec's name in short strings and results.
        suffix: the ending of files that hold its bitstreams.
        media_type: the registered media (MIME) type of its bitstreams.
        greyscale: whether a greyscale picture comes back with one channel; where the format has none it comes back as
            RGB, and :class:`foveate.Compressor` takes it back to one.
        ladder: a few qualities for sweeps, from coarse to fine.
    """

    quality: int
    name: ClassVar[str]
    suffix: ClassVar[str]
    media_type: ClassVar[str]
    greyscale: ClassVar[bool] = True
    ladder: ClassVar[tuple[int, ...]]

    def encode(self, image: npt.NDArray[np.uint8]) -> bytes:
        """Compress a picture.

        Args:
            image: (H, W, 3) RGB or (H, W, 1) greyscale, uint8, H and W at least 1.

        Returns:
            The complete bitstream, without EXIF, ICC or other metadata: its length is the rate.

        Raises:
            TypeError: if ``image`` is not a uint8 array.
            ValueError: if its shape is not one of the two, it has more than ``MAX_PIXELS`` pixels, or more a side than
                the format can hold.
        """
        check_image(image)
        return self._encode(np.ascontiguousarray(image))

    @abstractmethod
    def _encode(self, image: npt.NDArray[np.uint8]) -> bytes:
        """Compress a checked, contiguous picture (H, W, 3 or 1)."""

    @abstractmethod
    def decode(self, data: bytes) -> npt.NDArray[np.uint8]:
        """Decompress a bitstream.

        Args:
            data: a complete bitstream of this format, from any encoder.

        Returns:
            (H, W, 3) RGB, or (H, W, 1) where the bitstream is greyscale, uint8.

        Raises:
            CodecError: if ``data`` is not a whole and sound bitstream of this format.
        """

    def with_quality(self, quality: int) -> Self:
        """Return this codec at another quality, all else kept.

        Example:
            >>> from foveate import Jpeg
            >>> Jpeg(50, progressive=True).with_quality(20)
            Jpeg(quality=20, subsampling='4:2:0', progressive=True, tables=None)
        """
        return replace(self, quality=quality)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the codec at the settings of ``"quality,knob=value,..."``; what is not named takes its default.

        Raises:
            ValueError: if a knob is unknown or a value does not fit.
        """
        knobs = {f.name: f for f in fields(cls) if isinstance(f.default, str | bool | int | float)}
        settings: dict[str, str | bool | int | float] = {}
        for position, part in enumerate(filter(None, text.split(","))):
            key, equals, value = part.partition("=")
            if not equals and position == 0:
                key, value = "quality", key
            if key not in knobs or (not equals and key != "quality"):
                raise ValueError(f"codec: {cls.name} has no knob {part!r}; it has {', '.join(knobs)}")
            kind: Any = type(knobs[key].default)
            try:
                settings[key] = {"True": True, "False": False}[value] if kind is bool else kind(value)
            except (KeyError, ValueError):
                raise ValueError(f"codec: {cls.name}: {key} takes {kind.__name__}, got {value!r}") from None
        return cls(**settings)  # type: ignore[arg-type]

    @property
    def family(self) -> str:
        """The short string without the quality: what the points of one rate–accuracy curve share.

        Example:
            >>> from foveate import Jpeg
            >>> Jpeg(30).family, Jpeg(30, subsampling="4:4:4").family
            ('jpeg', 'jpeg:subsampling=4:4:4')
        """
        knobs = self._knobs()
        return f"{self.name}:{knobs}" if knobs else self.name

    def __str__(self) -> str:
        return f"{self.name}:{','.join(filter(None, [str(self.quality), self._knobs()]))}"

    def _knobs(self) -> str:
        """The settings beside the quality that are not the defaults."""
        values = ((f.name, getattr(self, f.name), f.default) for f in fields(self) if f.name != "quality")
        return ",".join(f"{name}={value}" for name, value, default in values if value != default)
