"""Progress of long work: one type for every ``progress=``."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Progress:
    """How far a stage of long work has come.

    Attributes:
        stage: the current stage: ``"measure"``, ``"calibrate"``, ``"saliency"``, ``"compress"``,
            ``"verify"`` or ``"fit"``.
        done: completed steps of this stage, including those of an earlier run that was resumed.
        total: number of steps of this stage; None while unknown.
        source_bytes: bytes read so far, if bytes are counted; else 0.
        bytes: bytes written so far, if bytes are counted; else 0.
        unit: the name of a step: ``"image"``, ``"file"``, ``"shard"`` or ``"step"``.
        images: images done so far by this run, also of a shard that is under way, where steps hold many; else 0.

    Example:
        >>> Progress("compress", done=3, total=12).share
        0.25
    """

    stage: str
    done: int
    total: int | None = None
    source_bytes: int = 0
    bytes: int = 0
    unit: str = "image"
    images: int = 0

    @property
    def share(self) -> float | None:
        """The share of the stage that is done, in [0, 1]; None while the total is unknown."""
        return None if self.total is None else self.done / self.total if self.total else 1.0


Listener: TypeAlias = Callable[[Progress], object]
"""What ``progress=`` takes: called after each step, in the process and thread that asked for the work."""
