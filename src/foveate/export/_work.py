"""What a run sends to its workers, and what they send back."""

import pickle
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from foveate.export._choices import Kind
from foveate.export._plan import Part

Note = Callable[[int | None, int], None]
"""Called with the place of the entry in its part that is being worked on, and how many entries are, or None and 0."""


def no_note(place: int | None, count: int) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Task:
    """A part that a worker is to do.

    Attributes:
        part: the part.
        aside: entries that must not be touched, by their place in the part, with the reason.
        try_only: write nothing, and work on each entry alone, or only on that at this place: to find out which one
            ends processes. None does the part.
    """

    part: Part
    aside: Mapping[int, str] = field(default_factory=dict)
    try_only: "int | Literal['all'] | None" = None


@dataclass(frozen=True)
class Report:
    """The result of one part.

    Attributes:
        number: of the part.
        units: how many units of the source were in it.
        kinds: how many images or files there were of each :class:`Kind`.
        source_bytes: of those whose size in the source is known and that are in the target.
        bytes: of the same in the target.
    """

    number: int
    units: int
    kinds: dict[str, int] = field(default_factory=dict)
    source_bytes: int = 0
    bytes: int = 0

    @property
    def images(self) -> int:
        """How many images there were, also those that failed."""
        return sum(count for kind, count in self.kinds.items() if kind not in (Kind.COPIED, Kind.SKIPPED))


@dataclass(frozen=True)
class Batch:
    """A result that a part has before it is done; the batches of a part are numbered from 0."""

    number: int
    content: Any


@dataclass(frozen=True)
class Step:
    """How many images of a part, which is not done, were worked on so far."""

    number: int
    images: int


Outcomes: TypeAlias = Generator[Report | Batch | Step, None, None]
"""What an engine yields; to be closed, which ends its processes."""


class Work(Protocol):
    """What is to be done with each part; it is sent to the processes that do it."""

    @property
    def timeout(self) -> float:
        """Seconds that an image may take before the process that works on it is ended."""

    @property
    def memory(self) -> int | None:
        """Bytes that such a process may hold, if the system has a limit for that; None sets none."""

    def worker(self, note: Note = no_note) -> "Callable[[Task], Iterator[Report | Batch | Step]]":
        """Return what does a task: it yields batches and steps, if any, and at last a report."""


def pickled(work: Work, dumps: Callable[[Any], bytes] = pickle.dumps) -> bytes:
    """Return work as bytes for other processes.

    Raises:
        TypeError: if it cannot be sent, with the cures.
    """
    try:
        return dumps(work)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise TypeError(
            f"compressor, source: they cannot be sent to worker processes ({error}); give models by recipe and name "
            "functions at the top of a module, or take workers=0"
        ) from error


def portable(error: Exception) -> bytes:
    """Return an exception as bytes, with its traceback as a note.

    One that cannot be pickled becomes a RuntimeError with its text.
    """
    error.add_note(traceback.format_exc())
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return data
