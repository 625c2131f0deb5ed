"""The work on the images of one search: encoding them at points, and what was chosen."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from foveate._threads import parallel_map
from foveate.compressor import Compressor, Encoded
from foveate.rate_control._calibration import OperatingPoint
from foveate.sweep import Sweep


@dataclass(frozen=True)
class Controlled(Encoded):
    """One compressed image, and what the choice of its operating point rests on.

    ``met`` is False where even the finest point did not keep the answer: then this is the finest point.

    Attributes:
        clean: each witness's probability of its own answer on the clean image.
        final: its probability of that same class on the decoded one.
        tried: candidates decoded and shown to the witnesses.
        encodes: candidates encoded.
    """

    clean: tuple[float, ...] = ()
    final: tuple[float, ...] = ()
    tried: int = 0
    encodes: int = 0


@dataclass(frozen=True)
class Spent:
    """What choosing cost, summed over images; saliency maps are one more pass each, where a pre-filter is tried."""

    images: int
    encodes: int
    decodes: int
    forwards: int


def spent(encoded: Iterable[Encoded]) -> Spent:
    """Return what was spent on images that a :class:`RateControl` encoded, forwards on the clean ones included."""
    controlled = [image for image in encoded if isinstance(image, Controlled)]
    return Spent(
        images=len(controlled),
        encodes=sum(image.encodes for image in controlled),
        decodes=sum(image.tried for image in controlled),
        forwards=sum((image.tried + 1) * len(image.clean) for image in controlled),
    )


class Bench:
    """Images, and everything that is made of them once for all candidates: maps, filtered images, compressors."""

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
        """Encode images at points, given by their numbers."""
        for i, k in jobs:
            self._compressors[k].prepare(self._sweep, [i])
        return parallel_map(lambda job: self._compressors[job[1]].encode_at(self._sweep, [job[0]])[0], jobs)
