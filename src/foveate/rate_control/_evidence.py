"""What ``keep="robust"`` reads the probability from that an answer is kept; or, as controls, something less."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor

from foveate.rate_control._keep_model import Answers, KeepModel, KeepPrior, Tables
from foveate.rate_control._search import Belief


class Evidence(StrEnum):
    """What the probability is read from; all but the first are controls of a comparison."""

    WITNESSES = "witnesses"
    """The answers of the classifiers, and the distances by the fidelity witnesses."""
    NO_NETWORK = "no network"
    """What is usual at the point, and the bits of the image: no network is asked."""
    OTHER_DISTANCES = "another image's distances"
    """The answers of the classifiers, and distances that were measured of another image."""
    LEAST_CLOSENESS = "least closeness"
    """Half the least closeness of the classifiers, half what is usual at the point, with a normal error of 1.5."""


@dataclass(frozen=True)
class Reading:
    """How a probability is read from evidence.

    Attributes:
        belief: of an image's slack and bits before it is decoded.
        slack: of images at points (S,) that take so many bits (S,), given what the witnesses say of them, as (S,).
        probability: for the mean and variance of an image's slack at every point (P,).
        distances: (N, D, P) of calibration images, to use instead of an image's own; None takes its own.
    """

    belief: Belief
    slack: Callable[[Tensor, Tensor, Answers], Tensor]
    probability: Callable[[Tensor, Tensor], Tensor]
    distances: Tensor | None = None

    @classmethod
    def of(cls, evidence: Evidence, model: KeepModel, calibrated: Tables, asked: Tables) -> "Reading":
        """Return how to read evidence.

        Args:
            evidence: what to read.
            model: that the calibration learned.
            calibrated: all that the calibration measured.
            asked: what it measured before those classifiers that will be asked.
        """
        if evidence == Evidence.LEAST_CLOSENESS:
            return cls._of_closeness(asked)
        distances = None
        if evidence == Evidence.NO_NETWORK:
            model = KeepModel.fit_without_answers(calibrated)
        elif evidence == Evidence.OTHER_DISTANCES:
            distances = asked.distances.transpose(0, 1)
            order = torch.randperm(len(distances), generator=torch.Generator().manual_seed(0))
            calibrated, asked = (replace(t, distances=t.distances[:, order]) for t in (calibrated, asked))
            model = KeepModel.fit(calibrated)
        prior = KeepPrior.of(model, asked)
        return cls(prior.belief, prior.log_odds, model.probability, distances)

    @classmethod
    def _of_closeness(cls, asked: Tables) -> "Reading":
        """What ``robust`` was in foveate 0.1: a witness shows how hard an image is, its luck does not carry over."""
        belief = Belief.learned(asked.closeness.amin(0), asked.bits)
        usual = belief.mean[: belief.points]

        def probability(slack: Tensor, variance: Tensor) -> Tensor:
            return torch.special.ndtr(0.5 * (slack + usual) / (1.5**2 + 0.25 * variance).sqrt())

        return cls(belief, lambda _points, _bits, answers: answers.closeness.amin(0), probability)
