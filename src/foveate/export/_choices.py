"""The fixed sets of words that an export takes and writes."""

from enum import StrEnum
from typing import TypeVar

C = TypeVar("C", bound=StrEnum)


class Others(StrEnum):
    """What to do with files that are not readable images."""

    COPY = "copy"
    SKIP = "skip"
    REFUSE = "refuse"


class Engine(StrEnum):
    """Where the workers run: as processes of this machine, or as actors of a Ray cluster."""

    LOCAL = "local"
    RAY = "ray"


class Kind(StrEnum):
    """What became of an image or another file of the source; see :class:`Summary`."""

    COMPRESSED = "compressed"
    KEPT = "kept"
    COPIED = "copied"
    SKIPPED = "skipped"
    UNREADABLE = "unreadable"
    MISSING = "missing"
    FAILED = "failed"


UNWRITTEN = (Kind.MISSING, Kind.FAILED)
"""Kinds that have no line in a manifest, and that the next run tries again."""


def as_choice(name: str, value: str, choices: type[C]) -> C:
    """Return the member of an enumeration that a plain string stands for.

    Raises:
        ValueError: if there is no such member.

    Example:
        >>> as_choice("engine", "ray", Engine)
        <Engine.RAY: 'ray'>
    """
    try:
        return choices(value)
    except ValueError:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}") from None
