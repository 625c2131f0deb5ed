"""The work on the pictures of one search: encoding them at points, and what was found."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foveate._threads import parallel_map
from foveate.compressor import Compressor, Encoded
from foveate.images import group_by_shape
from foveate.rate_control._calibration import OperatingPoint


@dataclass(frozen=True)
class Controlled(Encoded):
    """One compressed picture, and what the choice of its operating point rests on.

    ``met`` is False where even the finest point did not keep the answer: then this is the finest point.

    Attributes:
        clean: each witness's probability of its own answer on the clean picture.
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
    """What choosing cost, summed over pictures; saliency maps are one more pass each, where a pre-filter is tried."""

    pictures: int
    encodes: int
    decodes: int
    forwards: int


def spent(encoded: Iterable[Encoded]) -> Spent:
    """Return what was spent on pictures that a :class:`RateControl` encoded, forwards on the clean ones included."""
    ones = [one for one in encoded if isinstance(one, Controlled)]
    return Spent(
        len(ones),
        sum(one.encodes for one in ones),
        sum(one.tried for one in ones),
        sum((one.tried + 1) * len(one.clean) for one in ones),
    )


class Bench:
    """Pictures, and everything that is made of them once for all candidates: maps, filtered pictures, compressors."""

    def __init__(
        self,
        compressor: Compressor,
        points: tuple[OperatingPoint, ...],
        pictures: Sequence[Tensor],
        maps: Sequence[Tensor] | None,
    ) -> None:
        self.points, self.pictures = points, list(pictures)
        self.plain = Compressor(compressor.codec, compressor.prefilter, saliency=compressor.saliency)
        self._compressors = [self._at(point) for point in points]
        filters = any(one.filters for one in self._compressors)
        needed = filters or compressor.codec.needs_saliency
        self._maps: list[Tensor | None] = [None] * len(pictures)
        if needed and maps is not None:
            self._maps = list(maps)
        elif needed:
            mapper = next((one for one in self._compressors if one.filters), self.plain)
            for places in group_by_shape(self.pictures):
                with torch.autocast("cpu", enabled=False):  # which refuses to stack float16
                    stacked = torch.stack([self.pictures[i] for i in places])
                found = mapper.maps(stacked)
                assert found is not None
                for i, one in zip(places, found, strict=True):
                    self._maps[i] = one
        self._filtered: dict[tuple[int, float], Tensor] = {}

    def _at(self, point: OperatingPoint) -> Compressor:
        plain = self.plain
        prefilter = None if plain.prefilter is None else replace(plain.prefilter, strength=point.strength)
        return Compressor(plain.codec.with_quality(point.quality), prefilter, point.scale, saliency=plain.saliency)

    def store(self, jobs: Sequence[tuple[int, int]]) -> list[Encoded]:
        """Encode pictures at points, given by their numbers."""
        for i, k in jobs:
            self._filter(i, k)
        return parallel_map(lambda job: self._store(*job), jobs)

    def _filter(self, i: int, k: int) -> Tensor:
        compressor, strength = self._compressors[k], self.points[k].strength
        if not compressor.filters:
            return self.pictures[i]
        if (i, strength) not in self._filtered:
            saliency = self._maps[i]
            assert saliency is not None  # made for every picture where a strength above 0 is on the grid
            assert compressor.prefilter is not None
            self._filtered[i, strength] = compressor.prefilter(self.pictures[i][None], saliency[None])[0]
        return self._filtered[i, strength]

    def _store(self, i: int, k: int) -> Encoded:
        return self._compressors[k].store([self._filter(i, k)], [self._maps[i]])[0]
