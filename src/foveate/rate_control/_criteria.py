"""What a decoded image is to keep of a classifier's answer to the clean one."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias, TypeVar

import torch
from torch import Tensor

from foveate._checks import check_number
from foveate._registry import Registry
from foveate.identity import identity, identity_in_memory

Measure: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(clean logits, logits), both (N, classes), to (N,) numbers, the higher the better."""
AnyMeasure = TypeVar("AnyMeasure", bound=Measure)


def _lead(clean: Tensor, logits: Tensor) -> Tensor:
    answer = clean.argmax(1, keepdim=True)
    return logits.gather(1, answer).squeeze(1) - logits.scatter(1, answer, -math.inf).amax(1)


def _log_share(clean: Tensor, logits: Tensor) -> Tensor:
    answer = clean.argmax(1, keepdim=True)
    return (logits.log_softmax(1) - clean.log_softmax(1)).gather(1, answer).squeeze(1)


def _closeness(clean: Tensor, logits: Tensor) -> Tensor:
    before = clean.log_softmax(1)
    return -(before.exp() * (before - logits.log_softmax(1))).sum(1).clamp(min=1e-6).log()


MEASURES: dict[str, Measure] = {"lead": _lead, "log share": _log_share, "closeness": _closeness}
"""What the built-in criteria measure, by the names under which a calibration keeps it."""


@dataclass(frozen=True)
class CriterionKind:
    """What a kind of criterion measures, and what it asks of that.

    Attributes:
        measure: the function.
        least: the least value that holds; for a criterion that is written with a bound, a function from the bound to
            it.
        price: whether the bound is no limit but a price, see :class:`foveate.RateControl`.
    """

    measure: Measure
    least: float | Callable[[float], float] = 0.0
    price: bool = False

    @property
    def bounded(self) -> bool:
        """Whether it is written with a bound."""
        return callable(self.least)


def _as_kind(name: str, kind: Any) -> CriterionKind:
    if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name):
        raise ValueError(f"criterion: expected a name of lower-case letters, digits and hyphens, got {name!r}")
    criterion = kind if isinstance(kind, CriterionKind) else CriterionKind(kind)
    if not callable(criterion.measure):
        raise TypeError(f"criterion: expected a function of (clean logits, logits), got {criterion.measure!r}")
    return criterion


def _minus_log(bound: float) -> float:
    return -math.log(bound)


def _zero(_: float) -> float:
    return 0.0


_ABOVE_ZERO = torch.finfo(torch.float32).tiny  # as a tie is no answer

CRITERIA: Registry[CriterionKind] = Registry("criterion", "foveate.criteria", _as_kind)
"""Kinds of criteria by name: one is written as its name, with its bound behind it where it has one."""

CRITERIA.add("top1", CriterionKind(_lead, _ABOVE_ZERO))
CRITERIA.add("p", CriterionKind(_log_share, math.log))
CRITERIA.add("kl", CriterionKind(_closeness, _minus_log))
CRITERIA.add("margin", CriterionKind(_lead, float))
CRITERIA.add("robust", CriterionKind(_closeness, _zero, price=True))


def register_criterion(name: str, least: float | Callable[[float], float] = 0.0) -> Callable[[AnyMeasure], AnyMeasure]:
    """Add a criterion by a decorator of what it measures, for ``RateControl(keep=name)`` and ``--keep``.

    For the command line and other processes a package declares it as an entry point as well::

        [project.entry-points."foveate.criteria"]
        top5 = "my_package:top5"

    Args:
        name: what it is called: lower-case letters, digits and hyphens.
        least: the least value that holds, for a criterion without a bound, such as ``"top1"``; or a function from the
            bound to the least value, for one that is written with a bound above 0 behind its name, such as ``"kl0.3"``.

    Returns:
        A decorator of a function of (clean logits, logits), both (N, classes) on the CPU, that returns (N,) numbers,
        the higher the better. The search learns from them, so numbers that say how far serve it better than 0 and 1.
        Defined at the top level of a module, it is known to workers.

    Raises:
        TypeError: if the name is not a string, or what is decorated is not a function.
        ValueError: if another criterion has the name, or it is not such a name.

    Example:
        >>> @register_criterion("second", least=0.0)
        ... def second(clean, logits):
        ...     answer = clean.argmax(1, keepdim=True)
        ...     return (logits.gather(1, answer) - logits.topk(2).values[:, -1:]).squeeze(1)
        >>> Criterion("second")(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[1.0, 2.0, 0.0]]))
        tensor([True])
    """

    def add(measure: AnyMeasure) -> AnyMeasure:
        CRITERIA.add(name, CriterionKind(measure, least), origin=measure)
        return measure

    return add


class Keep(ABC):
    """What is asked of every decoded image: a measure of the logits, and how far that is above what it must be."""

    @property
    @abstractmethod
    def measure_name(self) -> str:
        """The name of the measure: that of criteria that share one is the same."""

    @property
    def price(self) -> float | None:
        """The price of a criterion that sets no limit; None for others."""
        return None

    @property
    @abstractmethod
    def family(self) -> str:
        """What criteria that differ in their bounds alone share."""

    @abstractmethod
    def measure(self, clean: Tensor, logits: Tensor) -> Tensor:
        """Return (N,) numbers for the logits (N, classes) of clean and of decoded images."""

    @abstractmethod
    def slack(self, values: Tensor) -> Tensor:
        """Return how far values of the measure are above the least that holds."""


@dataclass(frozen=True)
class Criterion(Keep):
    """What a decoded image must keep of a witness's answer to the clean one.

    Args:
        kind: ``"top1"``: the same class comes first. ``"p"``: the clean answer has at least ``bound`` times its clean
            probability. ``"kl"``: KL(clean || decoded) is at most ``bound`` nats. ``"margin"``: the logit of the clean
            answer leads the best other by at least ``bound`` nats, in the decoded image. ``"robust"``: for a server
            whose classifier is not known; no limit but a price, see :class:`RateControl`. Or one that was added by
            :func:`register_criterion`.
        bound: above 0; None for a kind without one.

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
    bound: float | None = None
    # The definition itself, pickled with it: so a worker knows a criterion that was registered in its parent alone.
    definition: CriterionKind = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in CRITERIA:
            raise ValueError(f"keep: there is no criterion {self.kind!r}; choose one of {', '.join(CRITERIA.names())}")
        definition = CRITERIA[self.kind]
        object.__setattr__(self, "definition", definition)
        if not definition.bounded:
            if self.bound is not None:
                raise ValueError(f"keep: {self.kind!r} takes no bound, got {self.bound!r}")
        else:
            check_number(f"keep: the bound of {self.kind!r}", self.bound, 0, above=True)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the criterion that a short string such as ``"top1"``, ``"p0.9"`` or ``"kl0.2"`` names.

        Raises:
            ValueError: if it names none.
        """
        if text in CRITERIA and not CRITERIA[text].bounded:
            return cls(text)
        match = re.fullmatch(r"(.*?)(\d+\.?\d*|\.\d+)", text)
        if match is not None and match[1] in CRITERIA and float(match[2]) > 0:
            return cls(match[1], float(match[2]))
        bounded = [name for name in CRITERIA.names() if CRITERIA[name].bounded]
        others = [repr(name) for name in CRITERIA.names() if name not in bounded]
        raise ValueError(
            f"keep: cannot read {text!r}; expected {', '.join(others)}, or {', '.join(bounded)} with a bound above 0, "
            "such as 'p0.9', 'kl0.2', 'margin1' or 'robust0.3', or several joined by '+'"
        )

    @property
    def identity(self) -> str:
        """What it asks for, as one line of text; with the code of a kind that is the user's own."""
        measure, least = self.definition.measure, self.definition.least
        if measure.__module__.startswith("foveate."):
            return str(self)
        return f"{self} {identity(measure, 'keep')} {identity(least, 'keep')}"

    @property
    def measure_name(self) -> str:
        """The name of what it measures; for a kind of the user's own, the measure's identity."""
        measure = self.definition.measure
        return next((name for name, built_in in MEASURES.items() if built_in is measure), "") or identity_in_memory(
            measure
        )

    @property
    def price(self) -> float | None:
        """The price of a criterion that sets no limit; None for others."""
        return self.bound if self.definition.price else None

    @property
    def family(self) -> str:
        """The kind."""
        return self.kind

    def measure(self, clean: Tensor, logits: Tensor) -> Tensor:
        """Return (N,) numbers for the logits (N, classes) of clean and of decoded images."""
        values = self.definition.measure(clean, logits)
        if not isinstance(values, Tensor) or values.shape != (len(logits),):
            shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"keep: {self.kind} is to return ({len(logits)},) numbers, got {shape}")
        return values.float()

    def slack(self, values: Tensor) -> Tensor:
        """Return how far values of this kind's measure are above what the bound asks."""
        least = self.definition.least
        if not callable(least):
            return values - least
        assert self.bound is not None  # as __post_init__ saw to it
        return values - least(self.bound)

    def __call__(self, clean: Tensor, logits: Tensor) -> Tensor:
        """Return (N,) bool for the logits (N, classes) of clean and of decoded images; NaN does not hold."""
        return self.slack(self.measure(clean, logits)) >= 0

    def __str__(self) -> str:
        return self.kind if self.bound is None else f"{self.kind}{self.bound:g}"


@dataclass(frozen=True)
class FunctionCriterion(Keep):
    """A function of (clean logits, logits), both (N, classes), to (N,) bool as a criterion."""

    function: Callable[[Tensor, Tensor], Tensor]

    @property
    def identity(self) -> str:
        """That of the function."""
        return identity(self.function, "keep")

    @property
    def measure_name(self) -> str:
        """What no other function has: its identity."""
        return identity_in_memory(self.function)

    @property
    def family(self) -> str:
        """The name of the function."""
        return str(self)

    def measure(self, clean: Tensor, logits: Tensor) -> Tensor:
        """Return (N,), 1 where it holds and -1 where it does not."""
        holds = self.function(clean, logits)
        if not isinstance(holds, Tensor) or holds.shape != (len(logits),):
            shape = tuple(holds.shape) if isinstance(holds, Tensor) else type(holds).__name__
            raise ValueError(f"keep: {self} is to return ({len(logits)},) booleans, got {shape}")
        return holds.float() * 2 - 1

    def slack(self, values: Tensor) -> Tensor:
        """Return the values."""
        return values

    def __call__(self, clean: Tensor, logits: Tensor) -> Tensor:
        """Return what the function returns."""
        return self.function(clean, logits)

    def __hash__(self) -> int:
        return id(self.function)  # which need not have one of its own

    def __str__(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)


KeepSpec: TypeAlias = str | Keep | Callable[[Tensor, Tensor], Tensor]
"""What stands for one criterion, or in a string for several; see :func:`as_criteria`."""


def as_criteria(keep: KeepSpec | Sequence[KeepSpec]) -> tuple[Keep, ...]:
    """Return the criteria that ``keep`` stands for.

    Args:
        keep: a :class:`Criterion` or its string, several strings joined by ``+``, a function of (clean logits,
            logits), both (N, classes), that returns (N,) bool; or a sequence of these.

    Raises:
        TypeError: if something in it is none of these.
        ValueError: if a string names none, or there is none.

    Example:
        >>> [str(criterion) for criterion in as_criteria("top1+kl0.2")]
        ['top1', 'kl0.2']
    """
    parts = [keep] if isinstance(keep, str | Keep) or callable(keep) else list(keep)
    criteria: list[Keep] = []
    for part in parts:
        if isinstance(part, str):
            criteria += [Criterion.parse(text.strip()) for text in part.split("+")]
        elif isinstance(part, Keep):
            criteria.append(part)
        elif callable(part):
            criteria.append(FunctionCriterion(part))
        else:
            raise TypeError(f"keep: expected a string or a function of (clean logits, logits), got {part!r}")
    if not criteria:
        raise ValueError("keep: expected at least one criterion, such as 'top1'")
    return tuple(criteria)
