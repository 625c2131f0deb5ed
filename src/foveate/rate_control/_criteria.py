"""What a decoded picture is to keep of a classifier's answer to the clean one."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self, TypeAlias

import torch
from torch import Tensor

from foveate._checks import check_number
from foveate.identity import identity_in_memory


def _lead(clean: Tensor, logits: Tensor) -> Tensor:
    answer = clean.argmax(1, keepdim=True)
    return logits.gather(1, answer).squeeze(1) - logits.scatter(1, answer, -math.inf).amax(1)


def _log_share(clean: Tensor, logits: Tensor) -> Tensor:
    answer = clean.argmax(1, keepdim=True)
    return (logits.log_softmax(1) - clean.log_softmax(1)).gather(1, answer).squeeze(1)


def _closeness(clean: Tensor, logits: Tensor) -> Tensor:
    before = clean.log_softmax(1)
    return -(before.exp() * (before - logits.log_softmax(1))).sum(1).clamp(min=1e-6).log()


MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "lead": _lead,
    "log share": _log_share,
    "closeness": _closeness,
}
"""What criteria measure of (clean logits, logits), each (N, classes) -> (N,), higher the better."""


class _Kind(NamedTuple):
    """Which measure a criterion is of, and what its bound asks of that."""

    measure: str
    least: Callable[[float], float]


KINDS: dict[str, _Kind] = {
    "top1": _Kind("lead", lambda _: torch.finfo(torch.float32).tiny),  # above 0: a tie is no answer
    "p": _Kind("log share", math.log),
    "kl": _Kind("closeness", lambda bound: -math.log(bound)),
    "margin": _Kind("lead", float),
    "robust": _Kind("closeness", lambda _: 0.0),
}
"""Criteria by name: one is written as its name with its bound behind it, ``top1`` without. New ones join here."""


@dataclass(frozen=True)
class Criterion:
    """What a decoded picture must keep of a witness's answer to the clean one.

    Args:
        kind: ``"top1"``: the same class comes first. ``"p"``: the clean answer has at least ``bound`` times its clean
            probability. ``"kl"``: KL(clean || decoded) is at most ``bound`` nats. ``"margin"``: the logit of the clean
            answer leads the best other by at least ``bound`` nats, in the decoded picture. ``"robust"``: for a server
            whose classifier is not known; no limit but a price, see :class:`RateControl`.
        bound: above 0; without meaning for ``"top1"``.

    Raises:
        ValueError: if there is no such kind or the bound does not fit.

    Example:
        >>> clean, decoded = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.5, 0.0]])
        >>> [bool(Criterion.parse(text)(clean, decoded)) for text in ("top1", "p0.9", "kl0.1", "margin1")]
        [True, False, False, False]
        >>> str(Criterion.parse("p0.90"))
        'p0.9'
    """

    kind: str
    bound: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"keep: there is no criterion {self.kind!r}; choose one of {', '.join(KINDS)}")
        check_number(f"keep: the bound of {self.kind!r}", self.bound, 0, above=True)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the criterion that a short string such as ``"top1"``, ``"p0.9"`` or ``"kl0.2"`` names.

        Raises:
            ValueError: if it names none.
        """
        if text == "top1":
            return cls("top1")
        read = re.fullmatch(r"([a-z]+)(\d+\.?\d*|\.\d+)", text)
        if read is not None and read[1] in KINDS and float(read[2]) > 0:
            return cls(read[1], float(read[2]))
        raise ValueError(
            f"keep: cannot read {text!r}; expected 'top1', or p, kl, margin or robust with a bound above 0, such as "
            "'p0.9', 'kl0.2', 'margin1' or 'robust0.3', or several joined by '+'"
        )

    def slack(self, values: Tensor) -> Tensor:
        """Return how far values of this kind's measure are above what the bound asks."""
        return values - KINDS[self.kind].least(self.bound)

    def __call__(self, clean: Tensor, logits: Tensor) -> Tensor:
        """Return (N,) bool for the logits (N, classes) of clean and of decoded pictures; NaN does not hold."""
        return self.slack(MEASURES[KINDS[self.kind].measure](clean, logits)) >= 0

    def __str__(self) -> str:
        return self.kind if self.kind == "top1" else f"{self.kind}{self.bound:g}"


Keep: TypeAlias = "Criterion | Callable[[Tensor, Tensor], Tensor]"
"""A criterion: (clean logits, logits), both (N, classes), -> (N,) bool."""


def as_criteria(keep: "str | Keep | Sequence[str | Keep]") -> tuple[Keep, ...]:
    """Return the criteria that ``keep`` stands for.

    Args:
        keep: a :class:`Criterion` or its string, several strings joined by ``+``, a function of (clean logits,
            logits), both (N, classes), that returns (N,) bool; or a sequence of these.

    Raises:
        TypeError: if something in it is none of these.
        ValueError: if a string names none, or there is none.

    Example:
        >>> [str(one) for one in as_criteria("top1+kl0.2")]
        ['top1', 'kl0.2']
    """
    parts = [keep] if isinstance(keep, str) or callable(keep) else list(keep)
    found: list[Keep] = []
    for part in parts:
        if isinstance(part, str):
            found += [Criterion.parse(text.strip()) for text in part.split("+")]
        elif callable(part):
            found.append(part)
        else:
            raise TypeError(f"keep: expected a string or a function of (clean logits, logits), got {part!r}")
    if not found:
        raise ValueError("keep: expected at least one criterion, such as 'top1'")
    return tuple(found)


def name_of(keep: Keep) -> str:
    """What a criterion is called: its short string, or the name of a function."""
    return str(keep) if isinstance(keep, Criterion) else getattr(keep, "__name__", type(keep).__name__)


def measured(keep: Keep) -> str:
    """The measure that a criterion is of; for a function of the user's, what no other function has: its identity."""
    return KINDS[keep.kind].measure if isinstance(keep, Criterion) else identity_in_memory(keep)
