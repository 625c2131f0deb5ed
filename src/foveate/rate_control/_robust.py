"""``keep="robust"`` on a grid: what its search needs to know, from a calibration."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from foveate.rate_control._calibration import Calibration, OperatingPoint
from foveate.rate_control._criteria import Keep
from foveate.rate_control._evidence import Evidence, Reading
from foveate.rate_control._expectation import Expectation, LeftOut
from foveate.rate_control._keep_model import Tables
from foveate.rate_control._search import Priced

_TRIES = 8
"""Candidates decoded at most: more change nothing, as the model knows what to expect of neighbors."""


@dataclass(frozen=True)
class Robust:
    """How the probability is read, the price, and what it is relative to.

    Attributes:
        reading: of the probability that an answer is kept.
        price: of the bits.
        typical: the bits per source pixel that the price is relative to: those usual at the finest point.
    """

    reading: Reading
    price: float
    typical: float

    def search(self, tries: int, worth: float) -> Priced:
        """Return the search for an image's point; see :class:`foveate.RateControl` for the arguments."""
        belief, probability = self.reading.belief, self.reading.probability
        return Priced(belief, probability, self.price, self.typical, min(tries, _TRIES), worth)

    def other_distances(self, images: Sequence[Tensor]) -> Sequence[Tensor] | None:
        """Return for each image the distances (D, P) of a calibration image that its pixels draw; None for its own."""
        distances = self.reading.distances
        if distances is None:
            return None
        return [distances[zlib.crc32(image.cpu().numpy().tobytes()) % len(distances)] for image in images]


class RobustGrid:
    """What a calibration says of some points before some of its classifiers.

    Args:
        calibration: of these classifiers and others.
        names: of the classifiers.
        points: the grid, all in the calibration.
    """

    def __init__(self, calibration: Calibration, names: Sequence[str], points: Sequence[OperatingPoint]) -> None:
        self._names, self._model = tuple(names), calibration.model
        rows = [calibration.witnesses.index(name) for name in names]
        self._calibrated: Tables = calibration.tables().at([calibration.points.index(p) for p in points])
        self._asked = self._calibrated.before(rows)
        self._typical = float(self._asked.bits[:, -1].exp().mean())

    def expectation(self, keep: Keep) -> Expectation:
        """Return what is expected of a classifier that was left out, for a criterion with a price or a share."""
        left_out = LeftOut(self._asked, self._names, self._typical)
        if keep.agreement is not None:
            return left_out.for_agreement(keep.agreement)
        assert keep.price is not None  # RateControl checks it
        return left_out.at_price(keep.price)

    def priced(self, keep: Keep, evidence: Evidence) -> Robust:
        """Return what the search needs, for a criterion with a price or a share; a control has the same price."""
        price = self.expectation(keep).price if keep.price is None else keep.price
        return Robust(Reading.of(evidence, self._model, self._calibrated, self._asked), price, self._typical)
