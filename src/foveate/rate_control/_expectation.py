"""What a calibration expects of a classifier that nobody asked, at a price of the bytes."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.rate_control._keep_model import KeepModel, KeepPrior, Tables

_PRICES = torch.logspace(-3, 1, 200, dtype=torch.float64)
_RESAMPLES = 500


@dataclass(frozen=True)
class Expectation:
    """How many answers classifiers keep that had no say, each of the calibration's left out in turn.

    The images are halved: what is learned from one half is used on the other. With three or more classifiers, the one
    that was left out had no part in the model either.

    Attributes:
        price: of the bytes, see :class:`foveate.RateControl`.
        agreement: the share of kept answers, mean over the classifiers.
        low: lower end of its 95 % interval, by a bootstrap over classifiers and images.
        high: upper end.
        by_classifier: the share for each of them.
    """

    price: float
    agreement: float
    low: float
    high: float
    by_classifier: Mapping[str, float]


class LeftOut:
    """The choices that a calibration would make for each of its classifiers if that one were left out.

    Args:
        tables: of the calibration.
        names: of the classifiers.
        typical: the bits per source pixel that a price is relative to.

    Raises:
        ValueError: if there is only one, or there are fewer than four images.
    """

    def __init__(self, tables: Tables, names: tuple[str, ...], typical: float) -> None:
        if tables.classifiers == 1:
            raise ValueError(
                f"witnesses: what is expected of others is found by leaving classifiers out, and there is only "
                f"{names[0]}; give another, or a price such as 'robust0.3'"
            )
        if len(tables.bits) < 4:
            raise ValueError(
                f"calibration: to halve its images takes four or more, better 200, got {len(tables.bits)}; calibrate "
                "again"
            )
        self._names, self._kept, self._cost = names, tables.kept, tables.bits.exp() / typical
        halves = [torch.arange(len(tables.bits))[start::2] for start in (0, 1)]
        self._probabilities = torch.zeros_like(tables.lead)
        for learned, used in (halves, halves[::-1]):
            everyone = KeepModel.fit(tables.of(learned))
            for k in range(tables.classifiers):
                rest = tables.without(k)
                model = KeepModel.fit(rest.of(learned)) if rest.classifiers > 1 else everyone
                prior = KeepPrior.of(model, rest.of(learned))
                self._probabilities[k, used] = prior.probabilities(rest.of(used))

    def kept(self, price: float) -> Tensor:
        """Return (W, N): whether each classifier keeps its answer at the points chosen without it."""
        points = (self._probabilities - price * self._cost).argmax(2, keepdim=True)
        return self._kept.gather(2, points).squeeze(2)

    def at_price(self, price: float) -> Expectation:
        """Return what is expected at a price."""
        kept = self.kept(price).double()
        generator = torch.Generator().manual_seed(0)
        shares = []
        for _ in range(_RESAMPLES):
            rows, columns = (torch.randint(n, (n,), generator=generator) for n in kept.shape)
            shares.append(kept[rows][:, columns].mean())
        low, high = torch.stack(shares).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        by_classifier = dict(zip(self._names, kept.mean(1).tolist(), strict=True))
        return Expectation(price, float(kept.mean()), low, high, by_classifier)

    def for_agreement(self, agreement: float) -> Expectation:
        """Return the highest price at which this share of answers is expected to be kept.

        Raises:
            ValueError: if even the lowest price does not keep as many.
        """
        shares = torch.stack([self.kept(float(price)).double().mean() for price in _PRICES]).cummin(0).values
        if shares[0] < agreement:
            raise ValueError(
                f"keep: {100 * agreement:g} % is more than the {100 * float(shares[0]):.1f} % that a classifier which "
                "was left out keeps even at the finest points; ask for less, or calibrate with finer qualities"
            )
        last = int((shares >= agreement).nonzero().max())
        return self.at_price(float(_PRICES[last]))
