"""Criteria: how much of a classifier's answer to the clean image the decoded one must keep."""

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
    """A kind of criterion: its measure and the minimum it requires.

    Attributes:
        measure: the function that measures.
        least: the minimum value that meets the criterion; if it takes a bound, a function from the bound to that value.
        price: whether the bound is a price, or a share of answers, instead of a limit, see
            :class:`foveate.RateControl`.
        most: the highest bound that it takes.
    """

    measure: Measure
    least: float | Callable[[float], float] = 0.0
    price: bool = False
    most: float = math.inf

    @property
    def bounded(self) -> bool:
        """Whether it takes a bound."""
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


_HIGHEST_PRICE = 10
_LEAST_PERCENT = 50
"""From here on, the bound of a criterion with a price is a share of answers, in percent."""

_ABOVE_ZERO = torch.finfo(torch.float32).tiny  # a tie is not an answer

CRITERIA: Registry[CriterionKind] = Registry("criterion", "foveate.criteria", _as_kind)
"""Kinds of criteria by name: one is written as its name, with its bound behind it where it has one."""

CRITERIA.add("top1", CriterionKind(_lead, _ABOVE_ZERO), origin=_lead)
CRITERIA.add("p", CriterionKind(_log_share, math.log, most=1), origin=_log_share)
CRITERIA.add("kl", CriterionKind(_closeness, _minus_log), origin=_closeness)
CRITERIA.add("margin", CriterionKind(_lead, float), origin=_lead)
CRITERIA.add("robust", CriterionKind(_closeness, _zero, price=True), origin=_closeness)


def register_criterion(name: str, least: float | Callable[[float], float] = 0.0) -> Callable[[AnyMeasure], AnyMeasure]:
    """Register a measure as a criterion, as a decorator, for ``RateControl(keep=name)``.

    To make it available on the command line and in other processes, also declare an entry point in your package::

        [project.entry-points."foveate.criteria"]
        top5 = "my_package:top5"

    Args:
        name: its name, of lower-case letters, digits and hyphens.
        least: the minimum value that meets the criterion, for one without a bound like ``"top1"``; or a function from
            the bound to that value, for one with a bound above 0 after its name like ``"kl0.3"``.

    Returns:
        A decorator of a function of (clean logits, logits), both (N, classes) on the CPU, that returns (N,) numbers,
        higher is better. The search learns from them, so graded numbers serve it better than 0 and 1. Define the
        function at the top level of a module so that workers can import it.

    Raises:
        TypeError: if the name is not a string, or the decorated object is not a function.
        ValueError: if another criterion has the name, or the name is invalid.

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
    """A requirement on every decoded image: a measure of the logits and its slack above the minimum."""

    @property
    @abstractmethod
    def measure_name(self) -> str:
        """The name of the measure; criteria with the same measure share it."""

    @property
    def price(self) -> float | None:
        """The price of the bytes, for a criterion that sets no limit but a price; otherwise None."""
        return None

    @property
    def agreement(self) -> float | None:
        """The share of answers to keep, for a criterion that sets no limit but that; otherwise None."""
        return None

    @property
    @abstractmethod
    def family(self) -> str:
        """A name shared by criteria that differ only in their bounds."""

    @abstractmethod
    def measure(self, clean: Tensor, logits: Tensor) -> Tensor:
        """Return (N,) numbers for the logits (N, classes) of clean and of decoded images."""

    @abstractmethod
    def slack(self, values: Tensor) -> Tensor:
        """Return how far values of the measure are above the minimum."""

    @abstractmethod
    def __call__(self, clean: Tensor, logits: Tensor) -> Tensor:
        """Return (N,) bool: whether each decoded image meets the requirement."""


@dataclass(frozen=True)
class Criterion(Keep):
    """What a decoded image must keep of a witness's answer to the clean one.

    Args:
        kind: ``"top1"``: the same class comes first. ``"p"``: the clean answer has at least ``bound`` times its clean
            probability. ``"kl"``: KL(clean || decoded) is at most ``bound`` nats. ``"margin"``: the logit of the clean
            answer leads the best other by at least ``bound`` nats, in the decoded image. ``"robust"``: for an unknown
            classifier; up to 10 a price instead of a limit, from 50 a share of answers in percent, see
            :class:`RateControl`. Or one added by
            :func:`register_criterion`.
        bound: above 0, of ``"p"`` at most 1; None for a kind without one.

    Raises:
        ValueError: if the kind does not exist or the bound does not fit.

    Example:
        >>> clean, decoded = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.5, 0.0]])
        >>> [bool(Criterion.parse(text)(clean, decoded)) for text in ("top1", "p0.9", "kl0.1", "margin1")]
        [True, False, False, False]
        >>> str(Criterion.parse("p0.90"))
        'p0.9'
    """

    kind: str
    bound: float | None = None
    # Pickled along, so that a worker knows a criterion registered only in its parent.
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
            check_number(f"keep: the bound of {self.kind!r}", self.bound, 0, definition.most, above=True)
            if definition.price and not (self.bound <= _HIGHEST_PRICE or _LEAST_PERCENT <= self.bound < 100):  # type: ignore[operator]
                raise ValueError(
                    f"keep: {self.kind!r} takes a price up to {_HIGHEST_PRICE}, or a share of answers from "
                    f"{_LEAST_PERCENT} to below 100 percent, got {self.bound:g}"
                )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the criterion for a short string like ``"top1"``, ``"p0.9"`` or ``"kl0.2"``.

        Raises:
            ValueError: if the string is not a criterion.
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
            "such as 'p0.9', 'kl0.2', 'margin1', 'robust0.3' or 'robust95', or several joined by '+'"
        )

    @property
    def identity(self) -> str:
        """The criterion as one line of text, including the code of a custom kind."""
        measure, least = self.definition.measure, self.definition.least
        if measure.__module__.startswith("foveate."):
            return str(self)
        return f"{self} {identity(measure, 'keep')} {identity(least, 'keep')}"

    @property
    def measure_name(self) -> str:
        """The name of the measure; for a custom kind, the measure's identity."""
        measure = self.definition.measure
        built_in = next((name for name, function in MEASURES.items() if function is measure), None)
        return built_in or identity_in_memory(measure)

    @property
    def price(self) -> float | None:
        """The price of the bytes, for a criterion that sets no limit but a price; otherwise None."""
        return self.bound if self.definition.price and self.agreement is None else None

    @property
    def agreement(self) -> float | None:
        """The share of answers to keep, for a criterion that sets no limit but that; otherwise None."""
        share = self.definition.price and self.bound is not None and self.bound >= _LEAST_PERCENT
        return self.bound / 100 if share and self.bound is not None else None

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
        """Return how far values of this kind's measure are above the minimum for the bound."""
        least = self.definition.least
        if not callable(least):
            return values - least
        assert self.bound is not None  # checked in __post_init__
        return values - least(self.bound)

    def __call__(self, clean: Tensor, logits: Tensor) -> Tensor:
        """Return (N,) bool for the logits (N, classes) of clean and of decoded images; NaN does not hold."""
        return self.slack(self.measure(clean, logits)) >= 0

    def __str__(self) -> str:
        return self.kind if self.bound is None else f"{self.kind}{self.bound:g}"


@dataclass(frozen=True)
class FunctionCriterion(Keep):
    """A criterion from a function of (clean logits, logits), both (N, classes), to (N,) bool."""

    function: Callable[[Tensor, Tensor], Tensor]

    @property
    def identity(self) -> str:
        """The identity of the function."""
        return identity(self.function, "keep")

    @property
    def measure_name(self) -> str:
        """The identity of the function, which is unique."""
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
        """Return the values unchanged."""
        return values

    def __call__(self, clean: Tensor, logits: Tensor) -> Tensor:
        """Return the function's result."""
        return self.function(clean, logits)

    def __hash__(self) -> int:
        return id(self.function)  # it may not be hashable

    def __str__(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)


KeepSpec: TypeAlias = str | Keep | Callable[[Tensor, Tensor], Tensor]
"""What stands for one criterion, or in a string for several; see :func:`as_criteria`."""


PRESETS = {"same": "top1", "confident": "p0.9", "safe": "kl0.3"}
"""Words for criteria: the same class; with nearly its confidence; with nearly all that the answer says."""


def as_criteria(keep: KeepSpec | Sequence[KeepSpec]) -> tuple[Keep, ...]:
    """Return the criteria that ``keep`` stands for.

    Args:
        keep: a :class:`Criterion` or its string, or a word for one (``"same"``, ``"confident"``, ``"safe"``: those of
            ``PRESETS``), several strings joined by ``+``, a function of (clean logits,
            logits), both (N, classes), that returns (N,) bool; or a sequence of these.

    Raises:
        TypeError: if an item is of another type.
        ValueError: if a string is not a criterion, or there are no criteria.

    Example:
        >>> [str(criterion) for criterion in as_criteria("top1+kl0.2")]
        ['top1', 'kl0.2']
        >>> [str(criterion) for criterion in as_criteria("safe")]
        ['kl0.3']
    """
    parts = [keep] if isinstance(keep, str | Keep) or callable(keep) else list(keep)
    criteria: list[Keep] = []
    for part in parts:
        if isinstance(part, str):
            criteria += [Criterion.parse(PRESETS.get(text.strip(), text.strip())) for text in part.split("+")]
        elif isinstance(part, Keep):
            criteria.append(part)
        elif callable(part):
            criteria.append(FunctionCriterion(part))
        else:
            raise TypeError(f"keep: expected a string or a function of (clean logits, logits), got {part!r}")
    if not criteria:
        raise ValueError("keep: expected at least one criterion, such as 'top1'")
    return tuple(criteria)
