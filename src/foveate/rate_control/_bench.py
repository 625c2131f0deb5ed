"""Encoding the images of one search at operating points, and the result of the search."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from foveate._threads import parallel_map
from foveate.compressor import Compressor, Encoded
from foveate.rate_control._calibration import OperatingPoint
from foveate.sweep import Sweep


@dataclass(frozen=True, repr=False)
class Controlled(Encoded):
    """A compressed image and the evidence for its operating point.

    If even the finest point does not keep the answer, the image is encoded at that point and ``met`` is False.

    Attributes:
        clean: each witness's probability of its own answer on the clean image.
        final: each witness's probability of that class on the decoded image.
        expected: for ``keep="robust"``, the probability that a classifier that is not a witness keeps its answer; else
            None.
        tried: number of candidates decoded and shown to the witnesses.
        encodes: number of candidates encoded.
    """

    clean: tuple[float, ...] = ()
    final: tuple[float, ...] = ()
    expected: float | None = None
    tried: int = 0
    encodes: int = 0


@dataclass(frozen=True)
class Spent:
    """The cost of a search, summed over images. Saliency maps, if needed, take one more pass per image."""

    images: int
    encodes: int
    decodes: int
    forwards: int


def spent(encoded: Iterable[Encoded]) -> Spent:
    """Return the cost of images encoded by a :class:`RateControl`, including the passes on clean images."""
    controlled = [image for image in encoded if isinstance(image, Controlled)]
    return Spent(
        images=len(controlled),
        encodes=sum(image.encodes for image in controlled),
        decodes=sum(image.tried for image in controlled),
        forwards=sum((image.tried + 1) * len(image.clean) for image in controlled),
    )


class Bench:
    """Images with everything computed once for all candidates: maps, filtered images and compressors."""

    def __init__(
        self,
        compressor: Compressor,
        points: tuple[OperatingPoint, ...],
        images: Sequence[Tensor],
        maps: Sequence[Tensor] | None,
    ) -> None:
        self.points, self.images = points, list(images)
        self.plain = replace(compressor, scale=1.0, target=None, control=None)
        self._compressors = [self._at(point) for point in points]
        self._sweep = Sweep(self.images, maps, batched=True)

    def _at(self, point: OperatingPoint) -> Compressor:
        strength = None if self.plain.prefilter is None else point.strength
        return replace(self.plain.at(point.quality, strength), scale=point.scale)

    def encode(self, jobs: Sequence[tuple[int, int]]) -> list[Encoded]:
        """Encode (image, point) pairs, given as indices."""
        for i, k in jobs:
            self._compressors[k].prepare(self._sweep, [i])
        return parallel_map(lambda job: self._compressors[job[1]].encode_at(self._sweep, [job[0]])[0], jobs)
