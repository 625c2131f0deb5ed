"""The search for an image's operating point: choosing the next candidate, and the best one seen."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor


@dataclass
class Seen:
    """Observations of one image by point index: log bits per source pixel, and slack if decoded."""

    bits: dict[int, float] = field(default_factory=dict)
    slack: dict[int, float] = field(default_factory=dict)

    def cheapest(self) -> int | None:
        """The point with the fewest bits that met the criteria."""
        kept = [(self.bits[k], k) for k, slack in self.slack.items() if slack >= 0]
        return min(kept)[1] if kept else None


class Search(ABC):
    """Chooses points for an image from its observations; the last point is the finest."""

    @abstractmethod
    def next(self, seen: Seen) -> list[int]:
        """Return the next candidate, or nothing when the search has ended."""

    def best(self, seen: Seen) -> int | None:
        """Return the point to use, or None if no point seen meets the criteria."""
        return seen.cheapest()


def search(seen: Sequence[Seen], searches: Sequence[Search], look: Callable[[list[tuple[int, int]]], None]) -> None:
    """Search for all images in rounds of one candidate each; ``look`` tries the (image, point) pairs it is given."""
    while jobs := [(i, k) for i, evidence in enumerate(seen) for k in searches[i].next(evidence)]:
        look(jobs)


@dataclass
class Exhaustive(Search):
    """Try points in order of increasing bits until one meets the criteria: the optimum once all bits are known."""

    def next(self, seen: Seen) -> list[int]:
        untried = [(bits, k) for k, bits in seen.bits.items() if k not in seen.slack]
        return [min(untried)[1]] if seen.cheapest() is None and untried else []


class Belief:
    """A joint Gaussian of slack and log bits at P points, conditioned on the observations of an image."""

    CLIP = 6.0
    """Slack beyond this says no more: sure is sure."""

    NOISE = 0.05
    """Variance of a slack that no other predicts."""

    RANK = 5
    """Directions in which smooth slacks vary together."""

    def __init__(
        self, mean: Tensor, covariance: Tensor, typical: float | None = None, error: float | None = None
    ) -> None:
        self.mean, self.covariance, self.typical = mean, covariance, typical
        self.points = len(mean) // 2
        exact = torch.full_like(mean, 1e-6)
        if error is not None:
            exact[: self.points] = error
        self._errors, self._noise = exact, self.NOISE if error is None else 0.0

    @classmethod
    def learned(cls, slack: Tensor, bits: Tensor) -> Self:
        """Fit to a calibration, (N, P) each. The covariance is shrunk toward its diagonal by a tenth."""
        seen = torch.cat([slack.double().clamp(-cls.CLIP, cls.CLIP), bits.double()], 1)
        covariance = torch.cov(seen.T)
        least = torch.where(slack >= 0, bits, bits[:, -1:]).amin(1).exp().mean()
        return cls(seen.mean(0), 0.9 * covariance + 0.1 * covariance.diag().diag(), float(least))

    @classmethod
    def smooth(cls, slack: Tensor, bits: Tensor) -> Self:
        """Fit to a calibration, (N, P) each, a slack that varies smoothly over the points, and is observed with error.

        What varies in few directions is common to the points of an image; the rest is taken for the error of each
        observation, with one variance (Tipping and Bishop 1999, "Probabilistic principal component analysis").
        """
        slack = slack.double().clamp(-cls.CLIP, cls.CLIP)
        points = slack.shape[1]
        rank = min(cls.RANK, points - 1)
        values, directions = torch.linalg.eigh(torch.cov(slack.T).view(points, points))
        error = float(values[: points - rank].mean().clamp(min=1e-4))
        top = directions[:, points - rank :]
        common = (top * (values[points - rank :] - error).clamp(min=0)) @ top.T
        seen = torch.cat([slack, bits.double()], 1)
        covariance = torch.cov(seen.T)
        covariance = 0.9 * covariance + 0.1 * covariance.diag().diag()
        covariance[:points, :points] = common
        return cls(seen.mean(0), covariance, error=error)

    def smoothed(self, slack: Tensor) -> Tensor:
        """Return (N, P) what slack observed at every point (N, P) is expected to be without its error."""
        common, mean = self.covariance[: self.points, : self.points], self.mean[: self.points]
        weights = torch.linalg.solve(common + self._errors[: self.points].diag(), common)
        return mean + (slack.clamp(-self.CLIP, self.CLIP) - mean) @ weights

    @classmethod
    def plain(cls, bits: Tensor) -> Self:
        """Build from an image's log bits (P,) alone: slack rises with them, with unknown offset and slope."""
        rise = bits - bits.mean()
        constant = torch.ones_like(rise)
        slack = 4 * constant.outer(constant) + rise.outer(rise) + torch.eye(len(bits), dtype=bits.dtype)
        covariance = torch.block_diag(slack, torch.zeros_like(slack))
        return cls(torch.cat([1.5 * rise, bits]), covariance)

    def clipped(self, slack: Sequence[float]) -> Tensor:
        """Return slack clipped to this belief's range; NaN counts as the minimum."""
        return torch.tensor(slack, dtype=self.mean.dtype).nan_to_num(-self.CLIP).clamp(-self.CLIP, self.CLIP)

    def conditioned(self, seen: Seen) -> tuple[Tensor, Tensor, Tensor]:
        """Return for each point the mean and variance of slack and the mean log bits, given the observations."""
        mean, variance = self.mean, self.covariance.diagonal()
        if seen.slack:
            tried = [*seen.slack]
            at = torch.tensor(tried + [k + self.points for k in tried])
            bits = torch.tensor([seen.bits[k] for k in tried], dtype=mean.dtype)
            values = torch.cat([self.clipped([*seen.slack.values()]), bits])
            across = self.covariance[at]
            weights = torch.linalg.solve(across[:, at] + self._errors[at].diag(), across)
            mean = mean + (values - mean[at]) @ weights
            variance = (variance - (weights * across).sum(0)).clamp(min=0)
        return mean[: self.points], variance[: self.points] + self._noise, mean[self.points :]


@dataclass
class Expected(Search):
    """Search by expected improvement: the probability that a point meets the criteria times the bits it saves.

    Savings are relative to the geometric mean of the image's current bits and typical bits, so a costly image gets more
    candidates than a cheap one.
    """

    belief: Belief
    worth: float
    tries: int

    def next(self, seen: Seen) -> list[int]:
        best, last = seen.cheapest(), self.belief.points - 1
        if len(seen.slack) < self.tries:
            slack, variance, bits = self.belief.conditioned(seen)
            now = math.exp(bits[last] if best is None else seen.bits[best])
            saved = (now - bits.exp()) / math.sqrt(now * (self.belief.typical or now))
            gain = torch.special.ndtr(slack / variance.sqrt()) * saved
            gain[[*seen.slack]] = -math.inf
            if gain.max() > self.worth:
                return [int(gain.argmax())]
        return [last] if best is None and last not in seen.slack else []


@dataclass
class Priced(Search):
    """Search for the greatest probability that a classifier keeps its answer which nobody asked, minus the bits' price.

    Slack is the log-odds of that before they are smoothed, see :class:`foveate.rate_control._keep_model.KeepModel`.
    """

    belief: Belief
    probability: Callable[[Tensor, Tensor], Tensor]
    price: float
    typical: float
    tries: int
    worth: float

    def expected(self, seen: Seen) -> dict[int, float]:
        """Return the probability at each decoded candidate, given all of them."""
        slack, variance, _ = self.belief.conditioned(seen)
        probabilities = self.probability(slack, variance)
        return {k: float(probabilities[k]) for k in seen.slack}

    def _reached(self, seen: Seen) -> dict[int, float]:
        """Return the scores of the decoded candidates."""
        return {k: p - self._cost(seen.bits[k]) for k, p in self.expected(seen).items()}

    def _cost(self, bits: float) -> float:
        return self.price * math.exp(bits) / self.typical

    def best(self, seen: Seen) -> int:
        reached = self._reached(seen)
        return max(reached, key=reached.__getitem__)

    def next(self, seen: Seen) -> list[int]:
        if len(seen.slack) >= self.tries:
            return []
        slack, variance, bits = self.belief.conditioned(seen)
        score = self.probability(slack, variance) - self.price * bits.exp() / self.typical
        if not seen.slack:
            return [int(score.argmax())]
        # What a look would teach: up to how much more probable it may be than was thought.
        spread = self.probability(slack + variance.sqrt(), 0 * variance) - self.probability(slack, 0 * variance) + 1e-9
        ahead = (score - max(self._reached(seen).values())) / spread
        gain = spread * (ahead * torch.special.ndtr(ahead) + _density(ahead))
        gain[[*seen.slack]] = -math.inf
        # A thirtieth: about five candidates on photos, which choose as well as all 27 of a grid, within a percent.
        return [int(gain.argmax())] if gain.max() > self.worth * self.price / 30 else []


def _density(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
