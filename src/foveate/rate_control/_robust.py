"""``keep="robust"`` on a grid: what its search needs to know, from a calibration."""

from collections.abc import Sequence
from dataclasses import dataclass

from foveate.rate_control._calibration import Calibration, OperatingPoint
from foveate.rate_control._criteria import Keep
from foveate.rate_control._expectation import Expectation, LeftOut
from foveate.rate_control._keep_model import KeepPrior, Tables
from foveate.rate_control._search import Priced

_TRIES = 8
"""Candidates decoded at most: more change nothing, as the model knows what to expect of neighbors."""


@dataclass(frozen=True)
class Robust:
    """The prior of a search, the price, and what it is relative to.

    Attributes:
        prior: what is known of an image before it is decoded.
        price: of the bits.
        typical: the bits per source pixel that the price is relative to: those usual at the finest point.
    """

    prior: KeepPrior
    price: float
    typical: float

    def search(self, tries: int, worth: float) -> Priced:
        """Return the search for an image's point; see :class:`foveate.RateControl` for the arguments."""
        probability = self.prior.model.probability
        return Priced(self.prior.belief, probability, self.price, self.typical, min(tries, _TRIES), worth)


class RobustGrid:
    """What a calibration says of some points before some of its classifiers.

    Args:
        calibration: of these classifiers and others.
        names: of the classifiers.
        points: the grid, all in the calibration.
    """

    def __init__(self, calibration: Calibration, names: Sequence[str], points: Sequence[OperatingPoint]) -> None:
        self._names = tuple(names)
        rows = [calibration.witnesses.index(name) for name in names]
        self._tables: Tables = calibration.tables().before(rows).at([calibration.points.index(p) for p in points])
        self._typical = float(self._tables.bits[:, -1].exp().mean())
        self._prior = KeepPrior.of(calibration.model, self._tables)

    def expectation(self, keep: Keep) -> Expectation:
        """Return what is expected of a classifier that was left out, for a criterion with a price or a share."""
        left_out = LeftOut(self._tables, self._names, self._typical)
        if keep.agreement is not None:
            return left_out.for_agreement(keep.agreement)
        assert keep.price is not None  # RateControl checks it
        return left_out.at_price(keep.price)

    def priced(self, keep: Keep) -> Robust:
        """Return what the search needs, for a criterion with a price or a share."""
        price = self.expectation(keep).price if keep.price is None else keep.price
        return Robust(self._prior, price, self._typical)
