"""The probability that a classifier which nobody asked keeps its answer, learned from witness to witness."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from foveate.rate_control._search import Belief

_NEAREST = 1e-4
"""The smallest distance whose logarithm is taken."""


@dataclass(frozen=True)
class Answers:
    """What witnesses say of S decoded images.

    Attributes:
        FEATURES: the number of features before the distances.
        closeness: (W, S) minus the logarithm of KL(clean || decoded), for each of W classifiers.
        lead: (W, S) logit of the clean answer minus the best other, in nats.
        clean: (W, S) the same of the clean image.
        distances: (D, S) from the source, for each of D fidelity witnesses.
    """

    FEATURES: ClassVar[int] = 7

    closeness: Tensor
    lead: Tensor
    clean: Tensor
    distances: Tensor

    def features(self, usual: Tensor, extra: Tensor) -> Tensor:
        """Return (S, F) for a logistic regression: means over the classifiers, so that any number of them may be asked.

        Args:
            usual: (S,) log-odds that an answer is kept at the image's point, as usual.
            extra: (S,) logarithm of the bits over those usual at the point: how complex the image is.
        """
        clean = self.clean.clamp(max=12)
        columns = [
            usual,
            extra,
            self.closeness.mean(0),
            (self.lead > 0).double().mean(0),
            self.lead.clamp(-6, 10).mean(0),
            clean.mean(0),
            clean.clamp(min=0.1).log().mean(0),
        ]
        columns += self.distances.clamp(min=_NEAREST).log().unbind(0)
        return torch.stack(columns, 1).nan_to_num(0.0)


@dataclass(frozen=True)
class Tables:
    """What a calibration measured: N images at P points, before W classifiers and D fidelity witnesses.

    Attributes:
        bits: (N, P) logarithm of the bits per source pixel.
        closeness: (W, N, P), see :class:`Answers`.
        lead: (W, N, P).
        clean: (W, N).
        distances: (D, N, P).
    """

    bits: Tensor
    closeness: Tensor
    lead: Tensor
    clean: Tensor
    distances: Tensor

    @property
    def kept(self) -> Tensor:
        """(W, N, P) whether each classifier keeps its answer."""
        return self.lead > 0

    @property
    def classifiers(self) -> int:
        """The number of classifiers."""
        return len(self.lead)

    def before(self, classifiers: Sequence[int]) -> "Tables":
        """Return what was measured before some of the classifiers."""
        rows = torch.tensor(classifiers, dtype=torch.long)
        return Tables(self.bits, self.closeness[rows], self.lead[rows], self.clean[rows], self.distances)

    def without(self, classifier: int) -> "Tables":
        """Return what was measured before all classifiers but one."""
        return self.before([k for k in range(self.classifiers) if k != classifier])

    def at(self, points: Sequence[int]) -> "Tables":
        """Return what was measured at some of the points."""
        columns = torch.tensor(points, dtype=torch.long)
        tables = (self.bits, self.closeness, self.lead, self.distances)
        bits, closeness, lead, distances = (table[..., columns] for table in tables)
        return Tables(bits, closeness, lead, self.clean, distances)

    def of(self, images: Tensor) -> "Tables":
        """Return what was measured of some of the images."""
        return Tables(
            self.bits[images],
            self.closeness[:, images],
            self.lead[:, images],
            self.clean[:, images],
            self.distances[:, images],
        )

    def answers(self) -> Answers:
        """Return all of it as a row: S = N x P images, those of one source after another."""
        clean = self.clean[:, :, None].expand(-1, *self.bits.shape)
        return Answers(*(table.flatten(1) for table in (self.closeness, self.lead, clean, self.distances)))


@dataclass(frozen=True)
class Usual:
    """What is usual at P points.

    Attributes:
        odds: (P,) log-odds that a classifier's answer is kept.
        bits: (P,) logarithm of the bits per source pixel.
    """

    odds: Tensor
    bits: Tensor

    @classmethod
    def of(cls, tables: Tables) -> "Usual":
        """Return what is usual in a calibration."""
        share = tables.kept.double().mean((0, 1)).clamp(0.02, 0.98)
        return cls(torch.logit(share), tables.bits.mean(0))

    def features(self, tables: Tables) -> Tensor:
        """Return (N x P, F), see :meth:`Answers.features`."""
        odds = self.odds.expand_as(tables.bits)
        return tables.answers().features(odds.flatten(), (tables.bits - self.bits).flatten())


@dataclass(frozen=True)
class KeepModel:
    """The probability that a classifier which nobody asked keeps its answer, given what witnesses say.

    Two logistic regressions. The first reads what the witnesses say of one decoded image, see :class:`Answers`. As some
    of that is luck, which one classifier has at one point and another has not, its log-odds are smoothed over the
    points of an image, by :meth:`Belief.smooth`; the second reads these.

    Attributes:
        weights: (F,) of the features.
        offset: of the first regression.
        slope: of the smooth log-odds.
        intercept: of the second regression.
    """

    weights: tuple[float, ...]
    offset: float
    slope: float
    intercept: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", tuple(self.weights))  # JSON has lists

    def log_odds(self, features: Tensor) -> Tensor:
        """Return (S,) log-odds that are not smooth yet."""
        return features @ torch.tensor(self.weights, dtype=torch.float64) + self.offset

    def probability(self, smooth: Tensor, variance: Tensor | float = 0.0) -> Tensor:
        """Return the probability for smooth log-odds that are known up to a variance.

        By MacKay's approximation ("The evidence framework applied to classification networks", 1992).
        """
        mean, spread = self.slope * smooth + self.intercept, self.slope**2 * torch.as_tensor(variance)
        return torch.sigmoid(mean / (1 + torch.pi * spread / 8).sqrt())

    @classmethod
    def fit(cls, tables: Tables) -> "KeepModel":
        """Learn to predict each classifier from the others; from a single one nothing is learned, see :data:`OF_ONE`.

        Raises:
            ValueError: if there is a fidelity witness, but no second classifier.
        """
        if tables.classifiers == 1:
            if len(tables.distances):
                raise ValueError(
                    "witnesses: what a fidelity witness says is learned with two classifiers or more; give another, or "
                    "leave it out"
                )
            return OF_ONE
        usual = Usual.of(tables)
        features = torch.cat([usual.features(tables.without(k)) for k in range(tables.classifiers)])
        return cls.learn(features, tables.kept.flatten(0, 1), tables.bits.repeat(tables.classifiers, 1))

    @classmethod
    def fit_without_answers(cls, tables: Tables) -> "KeepModel":
        """Learn what is usual at a point, and what an image's bits say; what witnesses say gets no weight."""
        features = Usual.of(tables).features(tables)
        features[:, 2:] = 0
        repeated = features.repeat(tables.classifiers, 1)
        return cls.learn(repeated, tables.kept.flatten(0, 1), tables.bits.repeat(tables.classifiers, 1))

    @classmethod
    def learn(cls, features: Tensor, kept: Tensor, bits: Tensor) -> "KeepModel":
        """Learn from features (N x P, F) whether answers were kept (N, P), with logarithms of bits (N, P)."""
        target = kept.double().flatten()
        weights, offset = _logistic(features, target)
        odds = (features @ weights + offset).view_as(bits)
        slope, intercept = _logistic(Belief.smooth(odds, bits).smoothed(odds).flatten()[:, None], target)
        return cls(tuple(weights.tolist()), float(offset), float(slope), float(intercept))


OF_ONE = KeepModel((0.232, 0.0661, 0.4061, 0.0411, 0.2652, 0.0062, 0.0966), -0.2559, 1.036, -0.0165)
"""For a single classifier, which teaches nothing of others: four ImageNet classifiers, each predicted from each other.

On 500 photos as JPEG; ``tests/benchmarks/bench_unseen.py --of-one`` learns it.
"""


@dataclass(frozen=True)
class KeepPrior:
    """A model with what is usual: all that is known of an image before it is decoded at one of P points.

    Attributes:
        model: of the probability that an answer is kept.
        usual: at each point.
        belief: of an image's log-odds, before they are smoothed, and bits.
    """

    model: KeepModel
    usual: Usual
    belief: Belief

    @classmethod
    def of(cls, model: KeepModel, tables: Tables) -> "KeepPrior":
        """Return what calibration images say, for the classifiers that they were shown to."""
        usual = Usual.of(tables)
        odds = model.log_odds(usual.features(tables)).view_as(tables.bits)
        return cls(model, usual, Belief.smooth(odds, tables.bits))

    def log_odds(self, points: Tensor, bits: Tensor, answers: Answers) -> Tensor:
        """Return (S,) log-odds, before they are smoothed, of images at points (S,) that take so many bits (S,)."""
        extra = bits - self.usual.bits[points]
        return self.model.log_odds(answers.features(self.usual.odds[points], extra))

    def probabilities(self, tables: Tables) -> Tensor:
        """Return (N, P) probabilities for images that were decoded at every point."""
        odds = self.model.log_odds(self.usual.features(tables)).view_as(tables.bits)
        return self.model.probability(self.belief.smoothed(odds))


def _logistic(features: Tensor, target: Tensor, ridge: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Return weights (F,) and offset of a logistic regression, with a ridge on standardized features; Newton steps."""
    mean, spread = features.mean(0), features.std(0, unbiased=False)
    spread = torch.where(spread > 1e-9, spread, 1.0)  # a feature that never changes gets no weight
    x = torch.cat([(features - mean) / spread, torch.ones_like(features[:, :1])], 1)
    penalty = ridge * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    beta = torch.zeros(x.shape[1], dtype=x.dtype)
    for _ in range(25):
        p = torch.sigmoid(x @ beta)
        step = torch.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + penalty, x.T @ (p - target) + penalty @ beta)
        beta = beta - step
        if float(step.abs().max()) < 1e-8:
            break
    weights = beta[:-1] / spread
    return weights, beta[-1] - weights @ mean
