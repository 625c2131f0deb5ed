"""A target size, for any codec."""

import math
import operator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foveate._checks import check_number
from foveate.codecs._codec import Codec

__all__ = ["Fit", "TargetSize"]


@dataclass(frozen=True)
class Fit:
    """The result of a search for a target size.

    Attributes:
        data: the bitstream.
        codec: the codec at the chosen quality.
        met: whether ``data`` is within the target; if not, it has the codec's coarsest quality.
    """

    data: bytes
    codec: Codec
    met: bool


@dataclass(frozen=True)
class TargetSize:
    """Choose the finest quality of a codec within a target size, by bisection on the codec's scale.

    Bytes are assumed to grow with quality. They rarely fall from one step to the next, and where they do, a step next
    to the finest that fits may be chosen; a result that says ``met`` always fits.

    Args:
        bytes: the most bytes an image may take; or
        bpp: the most bits per source pixel.

    Raises:
        ValueError: unless exactly one of the two is given, and it is above 0.

    Example:
        >>> import numpy as np
        >>> from foveate import Jpeg
        >>> fit = TargetSize(bytes=1000).fit(Jpeg(), np.zeros((64, 64, 3), np.uint8))
        >>> fit.codec.quality, len(fit.data) <= 1000, fit.met
        (95, True, True)
    """

    bytes: int | None = None
    bpp: float | None = None

    def __post_init__(self) -> None:
        if (self.bytes is None) == (self.bpp is None):
            raise ValueError(f"bytes, bpp: expected exactly one of the two, got {self.bytes!r} and {self.bpp!r}")
        name = "bpp" if self.bytes is None else "bytes"
        value = getattr(self, name)
        number = check_number(name, value, 0, above=True)
        # A plain int or float, so that equal targets have equal texts.
        object.__setattr__(self, name, operator.index(value) if hasattr(value, "__index__") else number)

    def limit(self, pixels: int) -> float:
        """Return the most bytes that an image of so many source pixels may take."""
        return self.bytes if self.bytes is not None else (self.bpp or 0.0) * pixels / 8

    def fit(
        self,
        codec: Codec,
        image: npt.NDArray[np.uint8],
        saliency: npt.NDArray[np.float32] | None = None,
        pixels: int | None = None,
    ) -> Fit:
        """Encode an image as finely as the target allows.

        Args:
            codec: its settings other than the quality are kept.
            image: (H, W, 3) or (H, W, 1), uint8.
            saliency: see :meth:`Codec.encode`.
            pixels: of the source, if ``image`` was scaled; None takes those of ``image``.

        Returns:
            The bitstream; ``met`` is False if even the coarsest quality takes more.
        """
        limit = self.limit(math.prod(image.shape[:2]) if pixels is None else pixels)

        def fit_at(step: int) -> Fit:
            candidate = codec.with_quality(codec.scale[step])
            data = candidate.encode(image, saliency)
            return Fit(data, candidate, len(data) <= limit)

        best, low, high = fit_at(0), 1, len(codec.scale) - 1
        while best.met and low <= high:
            middle = (low + high) // 2
            fit = fit_at(middle)
            if fit.met:
                best, low = fit, middle + 1
            else:
                high = middle - 1
        return best
