"""A size to keep to, with any codec."""

import math
import operator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from foveate._checks import check_number
from foveate.codecs._codec import Codec


@dataclass(frozen=True)
class Fit:
    """What a search for a size found.

    Attributes:
        data: the bitstream.
        codec: the codec at the quality that was chosen.
        met: whether ``data`` keeps to the target; if not, it is the codec's coarsest.
    """

    data: bytes
    codec: Codec
    met: bool


@dataclass(frozen=True)
class TargetSize:
    """The finest quality of a codec that keeps to a size, found by bisection on the codec's scale.

    Bytes are taken to grow with quality. They hardly ever fall from one step to the next, and where they do, a step
    next to the finest that fits may be returned; what is returned as met always fits.

    Args:
        bytes: at most so many a picture; or
        bpp: at most so many bits a source pixel.

    Raises:
        ValueError: unless exactly one of the two is given, and is above 0.

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
        # A plain number of its own kind, so that equal targets look alike.
        object.__setattr__(self, name, operator.index(value) if hasattr(value, "__index__") else number)

    def limit(self, pixels: int) -> float:
        """The bytes that a picture of so many source pixels may take."""
        return self.bytes if self.bytes is not None else (self.bpp or 0.0) * pixels / 8

    def fit(
        self,
        codec: Codec,
        image: npt.NDArray[np.uint8],
        saliency: npt.NDArray[np.float32] | None = None,
        pixels: int | None = None,
    ) -> Fit:
        """Encode a picture as finely as the target lets it.

        Args:
            codec: whose settings beside the quality are kept.
            image: (H, W, 3) or (H, W, 1), uint8.
            saliency: see :meth:`Codec.encode`.
            pixels: of the source, where ``image`` was scaled; None takes those of ``image``.

        Returns:
            The bitstream; ``met`` is False where even the coarsest quality takes more.
        """
        limit = self.limit(math.prod(image.shape[:2]) if pixels is None else pixels)

        def at(step: int) -> Fit:
            one = codec.with_quality(codec.scale[step])
            data = one.encode(image, saliency)
            return Fit(data, one, len(data) <= limit)

        best, low, high = at(0), 1, len(codec.scale) - 1
        while best.met and low <= high:
            middle = (low + high) // 2
            found = at(middle)
            if found.met:
                best, low = found, middle + 1
            else:
                high = middle - 1
        return best
