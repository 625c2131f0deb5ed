"""What a source of images is: entries in a fixed order, in units that can be read alone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Protocol

from torch import Tensor

from foveate.export._names import Names
from foveate.export._plan import Unit
from foveate.export._store import Store


@dataclass(frozen=True)
class Entry:
    """An image, or another file, of a source.

    Attributes:
        name: in the source.
        stem: its name in the target; of an image without the ending.
        suffix: the ending of an image's file in the source; empty if it is not a file.
        open: returns the file, or the image (C, H, W); raises FileNotFoundError if it is gone meanwhile.
        is_image: whether it is taken for an image.
        label: its class number, if the source has one.
        extra: other columns of the source, which must be JSON-able.
        unit: the name of the unit that it belongs to, if that is another one.
        place: in its part, from 0.
    """

    name: str
    stem: str
    suffix: str
    open: Callable[[], "IO[bytes] | Tensor"]
    is_image: bool = True
    label: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    unit: str = ""
    place: int = 0


class Source(Protocol):
    """Images in a fixed order, in units that can be read alone."""

    @property
    def whole(self) -> bool:
        """Whether each unit holds many images and makes a part of its own."""

    @property
    def numbered(self) -> bool:
        """Whether units are numbers, and taking an entry decodes it."""

    @property
    def unit(self) -> str:
        """The name of a unit: ``"file"``, ``"shard"`` or ``"image"``."""

    @property
    def label(self) -> str:
        """A text that differs between sources."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes in the order of their numbers; empty if they are not known."""

    def units(self) -> Iterator[tuple[str, str]]:
        """Yield the names of the units (files, shards, or numbers) with their stamps, see :class:`Unit`."""

    def is_image(self, name: str) -> bool:
        """Whether a unit is taken for one image."""

    def assign(self, name: str, names: Names, ending: str, shards: bool) -> str:
        """Return a new name for a unit in the target, where images get this ending, or keep theirs if it is empty."""

    def reserve(self, unit: Unit, names: Names, ending: str, shards: bool) -> None:
        """Reserve the name that a unit was assigned before."""

    def entries(self, units: Sequence[Unit], ending: str) -> Iterator[Entry]:
        """Read units; what an entry's ``open`` returns must be read before the next entry is taken."""

    def compare(self, lines: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
        """Compare images without a stamp to lines of a manifest: return how many agree and how many differ."""


def stamped(store: Store, files: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield files with their stamps, which are fetched if a listing has none."""
    if store.lists_stamps:
        yield from files
        return
    names = [name for name, _ in files]
    yield from zip(names, store.stamps(names), strict=True)


def raising(error: BaseException) -> Callable[[], Any]:
    """Return a function that raises an error: what :attr:`Entry.open` is where there is nothing to be read."""

    def fail() -> Any:
        raise error

    return fail


class TooManyBytesError(ValueError):
    """An image of more bytes than are read, or a file that claims more than it has on the disk."""
