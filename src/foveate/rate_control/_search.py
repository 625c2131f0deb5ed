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

    def __init__(self, mean: Tensor, covariance: Tensor, typical: float | None = None) -> None:
        self.mean, self.covariance, self.typical = mean, covariance, typical
        self.points = len(mean) // 2

    @classmethod
    def learned(cls, slack: Tensor, bits: Tensor) -> Self:
        """Fit to a calibration, (N, P) each. The covariance is shrunk toward its diagonal by a tenth."""
        seen = torch.cat([slack.double().clamp(-cls.CLIP, cls.CLIP), bits.double()], 1)
        covariance = torch.cov(seen.T)
        least = torch.where(slack >= 0, bits, bits[:, -1:]).amin(1).exp().mean()
        return cls(seen.mean(0), 0.9 * covariance + 0.1 * covariance.diag().diag(), float(least))

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
            jitter = 1e-6 * torch.eye(len(at), dtype=mean.dtype)
            weights = torch.linalg.solve(across[:, at] + jitter, across)
            mean = mean + (values - mean[at]) @ weights
            variance = (variance - (weights * across).sum(0)).clamp(min=0)
        return mean[: self.points], variance[: self.points] + self.NOISE, mean[self.points :]


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
    """Search by the probability that an unknown classifier keeps its answer, minus the price of the bits.

    Its slack is modeled as half the witness's and half the typical slack at the point, with a normal error of 1.5: a
    witness shows in part how hard an image is, but its luck at one point does not carry over.
    """

    belief: Belief
    price: float
    tries: int
    worth: float

    SHARED = 0.5
    ERROR = 1.5

    def _score(self, slack: Tensor, variance: Tensor, bits: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and spread of the score at every point, given the mean and variance of slack."""
        usual = self.belief.mean[: self.belief.points]
        ours = self.SHARED**2 * variance
        z = (self.SHARED * slack + (1 - self.SHARED) * usual) / (self.ERROR**2 + ours).sqrt()
        cost = self.price * bits.exp() / (self.belief.typical or 1)
        return torch.special.ndtr(z) - cost, _density(z) * ours.sqrt() / self.ERROR

    def _reached(self, seen: Seen) -> dict[int, float]:
        """Return the scores of the decoded candidates."""
        slack, bits = torch.zeros(2, self.belief.points, dtype=self.belief.mean.dtype)
        tried = [*seen.slack]
        slack[tried] = self.belief.clipped([*seen.slack.values()])
        bits[tried] = torch.tensor([seen.bits[k] for k in tried], dtype=bits.dtype)
        score, _ = self._score(slack, torch.zeros_like(slack), bits)
        return {k: float(score[k]) for k in tried}

    def best(self, seen: Seen) -> int | None:
        reached = self._reached(seen)
        return max(reached, key=reached.__getitem__) if reached else None

    def next(self, seen: Seen) -> list[int]:
        if len(seen.slack) >= self.tries:
            return []
        score, spread = self._score(*self.belief.conditioned(seen))
        if not seen.slack:
            return [int(score.argmax())]
        ahead = (score - max(self._reached(seen).values())) / spread
        gain = spread * (ahead * torch.special.ndtr(ahead) + _density(ahead))
        gain[[*seen.slack]] = -math.inf
        # A third: about six candidates on photos, where the finest point takes four times the chosen bytes.
        return [int(gain.argmax())] if gain.max() > self.worth * self.price / 3 else []


def _density(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
