"""Reading the entries of a part, in groups whose images fit into memory together."""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import IO, Any, cast

from torch import Tensor

from foveate.codecs import read_image, reader_of
from foveate.export._source import Entry, Source
from foveate.export._tars import DamagedShardError
from foveate.export._work import Note, Task, no_note
from foveate.images import UNREADABLE, count_frames

GROUP = 64
"""Entries in a group at most."""
_PIXELS = 1 << 24
"""Pixels of its images, about: the memory that a worker takes does not grow with the part."""
_BYTES = 1 << 26
"""Bytes of its files, about."""
_SMALL = 1 << 20
"""Bytes of other files that wait in memory for the images before them; larger ones are streamed."""


@dataclass(frozen=True)
class Loaded:
    """An entry as it was read: an image, a file in memory, a large file's stream, or nothing.

    Attributes:
        entry: the entry.
        pixels: of an image.
        data: the file in memory.
        frames: of the file.
        stream: of a large file.
        reason: why it is not a readable image, if it should be one.
        gone: whether there is no such file any more.
        denied: whether it may not be read.
        aside: whether it must not be touched.
    """

    entry: Entry
    pixels: Tensor | None = None
    data: bytes | None = None
    frames: int = 1
    stream: IO[bytes] | None = None
    reason: str | None = None
    gone: bool = False
    denied: bool = False
    aside: bool = False


class Entries:
    """The entries of a part, with their places in it; those that were set aside are not touched."""

    def __init__(self, source: Source, task: Task, ending: str, note: Note) -> None:
        self._source, self._task, self._ending, self._note = source, task, ending, note

    def __iter__(self) -> "Iterator[Entry | Loaded]":
        return self._of_items() if self._source.numbered else self._of_files()

    def _of_files(self) -> "Iterator[Entry | Loaded]":
        aside = self._task.aside
        for place, entry in enumerate(self._source.entries(self._task.part.units, self._ending)):
            entry = replace(entry, place=place)
            if place in aside:
                yield Loaded(entry, reason=aside[place], aside=True)
            elif self._is_wanted(place):
                yield entry

    def _of_items(self) -> "Iterator[Entry | Loaded]":
        aside = self._task.aside
        for place, unit in enumerate(self._task.part.units):
            if place in aside:
                entry = Entry(unit.name, unit.stem, "", io.BytesIO, place=place)
                yield Loaded(entry, reason=aside[place], aside=True)
            elif self._is_wanted(place):
                self._note(place, 1)  # taking it decodes it
                for entry in self._source.entries([unit], self._ending):
                    yield replace(entry, place=place)
                self._note(None, 0)

    def _is_wanted(self, place: int) -> bool:
        return self._task.try_only in (None, "all", place)


def groups(
    entries: "Iterable[Entry | Loaded]", formats: Sequence[str] = (), note: Note = no_note, size: int = GROUP
) -> Iterator[list[Loaded]]:
    """Read entries, and yield them in groups of at most ``size`` that fit into memory together."""
    group: list[Loaded] = []
    pixels = byte_count = 0
    for entry in entries:
        loaded = entry if isinstance(entry, Loaded) else _read(entry, formats, note)
        if loaded.stream is not None:  # which must be copied before the next entry is taken
            yield [*group, loaded]
            group, pixels, byte_count = [], 0, 0
            continue
        group.append(loaded)
        pixels += 0 if loaded.pixels is None else loaded.pixels.shape[-2] * loaded.pixels.shape[-1]
        byte_count += 0 if loaded.data is None else len(loaded.data)
        if len(group) >= size or pixels >= _PIXELS or byte_count >= _BYTES:
            yield group
            group, pixels, byte_count = [], 0, 0
    if group:
        yield group


def _read(entry: Entry, formats: Sequence[str], note: Note) -> Loaded:
    try:
        opened = entry.open()
        if isinstance(opened, Tensor):
            return Loaded(entry, opened)
        if not entry.is_image:
            start = opened.read(_SMALL + 1)
            if len(start) <= _SMALL:
                return Loaded(entry, data=start)
            return Loaded(entry, stream=cast(IO[bytes], _Chained(start, opened)))
        with opened:
            data = opened.read()
    except FileNotFoundError as error:
        return Loaded(entry, reason=error.strerror or str(error), gone=True)
    except PermissionError as error:
        return Loaded(entry, reason=error.strerror or str(error), denied=True)
    except DamagedShardError:
        raise
    except UNREADABLE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk or the network fails, not the image
        return Loaded(entry, reason=str(error))
    note(entry.place, 1)
    try:
        pixels = read_image(data, entry.suffix, gray=True, formats=formats)
        frames = 1 if reader_of(entry.suffix) else count_frames(data, formats)
        return Loaded(entry, pixels, data, frames)
    except Exception as error:  # a decoder may raise anything on damaged data
        return Loaded(entry, data=data, reason=str(error) or type(error).__name__)
    finally:
        note(None, 0)


class _Chained(io.RawIOBase):
    """A stream after the bytes that were read from it already."""

    def __init__(self, start: bytes, rest: IO[bytes]) -> None:
        self._streams = chain([io.BytesIO(start)], [rest])
        self._current: Any = next(self._streams)

    def read(self, size: int = -1) -> bytes:
        block: bytes = self._current.read(size)
        if not block and (following := next(self._streams, None)) is not None:
            self._current = following
            return self.read(size)
        return block
