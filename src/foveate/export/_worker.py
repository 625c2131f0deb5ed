"""The work on one part: read, compress, write. The same in a local process and in an actor of Ray."""

import hashlib
import io
import json
import pickle
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import IO, Any, Literal, Protocol, cast

import torch
from torch import Tensor

from foveate.codecs import TooLargeError
from foveate.compressor import Compressor, Encoded
from foveate.export._plan import Done, Part, joined, write_record
from foveate.export._sources import DamagedError, Entry, Source
from foveate.export._store import Store
from foveate.export._targets import Nowhere, Put, Shard, Sink, Tree
from foveate.images import UNREADABLE, count_frames, image_hash, read
from foveate.rate_control import Controlled

Others = Literal["copy", "skip", "refuse"]

Note = Callable[[int | None, int], None]
"""Told which entry of a part is being worked on, and how many with it; None when no clock is to run."""


def no_note(place: int | None, count: int) -> None:
    """Tell nobody."""


_TOGETHER = 64
"""At most so many pictures are compressed at once,"""
_PIXELS = 1 << 24
"""and about so many pixels,"""
_BYTES = 1 << 26
"""or bytes of files: the memory that a worker takes does not grow with the part."""
_BUILDING = 10
"""Building the models may take the time of so many pictures."""
_SMALL = 1 << 20
"""Other files of up to so many bytes wait in memory for the pictures before them."""


class Work(Protocol):
    """What is to be done with each part, and is sent to the processes that do it."""

    @property
    def timeout(self) -> float:
        """Seconds that a picture may take before the process that works on it is ended."""

    @property
    def memory(self) -> int | None:
        """Bytes that such a process may hold, where the system has a limit for that; None sets none."""

    def worker(self, note: Note = no_note) -> "Callable[[Task], Iterator[Report | Batch]]":
        """Return what does a task: it gives batches, if any, and at last a report."""


@dataclass(frozen=True)
class Job:
    """Pictures that are to be compressed: models by recipe.

    Attributes:
        formats: names of Pillow's formats that are opened besides the usual ones.
    """

    source: Source
    target: Store
    compressor: Compressor
    shards: bool = False
    others: Others = "copy"
    only_if_smaller: bool = False
    device: str | None = None
    timeout: float = 60.0
    memory: int | None = None
    formats: tuple[str, ...] = ()

    def worker(self, note: Note = no_note) -> "Worker":
        return Worker(self, note)


@dataclass(frozen=True)
class Task:
    """A part that a worker is to do.

    Attributes:
        part: which.
        aside: entries that are not to be touched, by their place in the part, with the reason.
        try_only: write nothing, and work on each entry alone, or on that at this place only: to find out which one it
            is that ends processes. None does the part.
    """

    part: Part
    aside: Mapping[int, str] = field(default_factory=dict)
    try_only: "int | Literal['all'] | None" = None


def pickled(job: Work, dumps: Callable[[Any], bytes] = pickle.dumps) -> bytes:
    """Return a job as bytes for other processes.

    Raises:
        TypeError: if it cannot be sent, with the cures.
    """
    try:
        return dumps(job)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise TypeError(
            f"compressor, source: they cannot be sent to worker processes ({error}); give models by recipe and name "
            "functions at the top of a module, or take workers=0"
        ) from error


def portable(error: Exception) -> bytes:
    """An exception as bytes, its traceback in a note; one that cannot be pickled as a RuntimeError of its words."""
    error.add_note(traceback.format_exc())
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return data


@dataclass(frozen=True)
class Report:
    """What one part came to.

    Attributes:
        number: of the part.
        units: how many units of the source were in it.
        kinds: how many pictures or files were ``compressed``, ``kept``, ``copied``, ``skipped``, ``unreadable``,
            ``missing``, ``failed``.
        source_bytes: of those whose size in the source is known and that are in the target.
        bytes: of the same in the target.
    """

    number: int
    units: int
    kinds: dict[str, int] = field(default_factory=dict)
    source_bytes: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Batch:
    """Something that a part gives before it is done; its batches are numbered from 0."""

    number: int
    content: Any


class RefusedError(ValueError):
    """A file that is no picture, where such are refused."""


class Worker:
    """Compresses parts, one after another, on one thread.

    Args:
        job: what to do.
        note: told what is being worked on, for whoever keeps an eye on the time.
    """

    def __init__(self, job: Job, note: Note = no_note) -> None:
        torch.set_num_threads(1)  # one thread a worker; and results do not depend on how many there are
        self.job, self._note = job, note
        self._built = False
        if job.device is not None:
            job.compressor.to(job.device)

    def __call__(self, task: Task) -> Iterator[Report]:
        """Do a part, and write what became of each picture as the last thing, when all of it is on the disk.

        Raises:
            RefusedError: if something is no readable picture and such are refused.
            OSError: if the target cannot be written, or the source not be read for another reason than that it is gone.
            Exception: what the compressor raises on any picture.
        """
        job, part = self.job, task.part
        entries = Entries(job.source, part, job.compressor.codec.suffix, self._note, task)
        with self._sink(task) as sink:
            lines: list[dict[str, Any]] = []
            again: list[str] = []
            for group in groups(entries, job.formats, self._note, 1 if task.try_only is not None else _TOGETHER):
                for line, unit in self._finish(group, sink):
                    lines.append(line)
                    if line["kind"] in _AGAIN or (line["kind"] == "unreadable" and "denied" in line):
                        again.append(unit)
                    line.pop("denied", None)
        if task.try_only is None:
            digest = hashlib.sha256(joined(lines)).hexdigest()
            done = Done(part, len(lines), digest, tuple(dict.fromkeys(again)), sink.shard)
            write_record(job.target, part, lines, done)
        both = [line for line in lines if line.get("bytes") is not None and line["source_bytes"] is not None]
        yield Report(
            part.number,
            len(part.units),
            dict(Counter(line["kind"] for line in lines)),
            sum(line["source_bytes"] for line in both),
            sum(line["bytes"] for line in both),
        )

    def _sink(self, task: Task) -> AbstractContextManager[Sink]:
        job, part = self.job, task.part
        if task.try_only is not None:
            return nullcontext(Nowhere())
        if not job.shards:
            return Tree.writing(job.target)
        return Shard.writing(job.target, part.units[0].stem if job.source.whole else f"part-{part.number:06}.tar")

    def _finish(self, group: "list[_Held]", sink: Sink) -> Iterator[tuple[dict[str, Any], str]]:
        """Compress the pictures of a group and write everything in it, in order; yield lines, and of which units."""
        pictures = [held for held in group if held.pixels is not None]
        if pictures:  # the first wait for models to be built, or fetched
            self._note(pictures[0].entry.place, len(pictures) + (0 if self._built else _BUILDING))
        encoded = iter(self._encode([held.pixels for held in pictures if held.pixels is not None]))
        self._note(None, 0)
        self._built = self._built or bool(pictures)
        for held in group:
            found = None if held.pixels is None else next(encoded)
            if isinstance(found, Encoded):
                line = self._pictured(held, found, sink)
            elif found is None or isinstance(found, TooLargeError):
                line = self._other(held if found is None else replace(held, reason=str(found)), sink)
            else:
                line = self._failed(held.entry, f"it cannot be compressed: {type(found).__name__}: {found}")
            yield line, held.entry.unit or held.entry.name

    def _encode(self, pictures: Sequence[Tensor]) -> "Sequence[Encoded | Exception]":
        """Compress pictures; what goes wrong with one, and not with any, takes its place."""
        if not pictures:
            return []
        try:
            return self.job.compressor.encode(pictures)
        except Exception as error:
            if len(pictures) > 1:
                return [found for picture in pictures for found in self._encode([picture])]
            if not isinstance(error, TooLargeError):
                self._try_plain(error)
            return [error]

    def _try_plain(self, error: Exception) -> None:
        """Raise an error again if a plain picture fails too: then it is not the picture's."""
        try:
            self.job.compressor.encode([torch.full((3, 224, 224), 128, dtype=torch.uint8)])
        except Exception:
            raise error from None

    def _pictured(self, held: "_Held", encoded: Encoded, sink: Sink) -> dict[str, Any]:
        entry, data = held.entry, held.data
        kept = self.job.only_if_smaller and data is not None and len(data) <= len(encoded.data)
        if kept:
            assert data is not None
            put = sink.put(entry.stem + entry.suffix, data)
        else:
            put = sink.put(entry.stem + encoded.codec.suffix, encoded.data)
        line = self._line(held, "kept" if kept else "compressed", None if data is None else len(data), put)
        line["size"] = list(encoded.size)
        if not kept:
            if held.frames > 1:
                line["frames"] = held.frames
            line |= {"settings": encoded.settings, "met": encoded.met}
        if isinstance(encoded, Controlled):
            line |= {"clean": list(encoded.clean), "final": list(encoded.final), "tried": encoded.tried}
        sidecars: list[Put] = []
        if entry.label is not None and self.job.shards:
            sidecars.append(sink.put(f"{entry.stem}.cls", str(entry.label).encode()))
        if entry.extra:
            sidecars.append(sink.put(f"{entry.stem}.json", json.dumps(entry.extra, default=_not_json).encode()))
        if sidecars:
            line["sidecars"] = [sidecar.to_json() for sidecar in sidecars]
        return line

    def _other(self, held: "_Held", sink: Sink) -> dict[str, Any]:
        entry, reason = held.entry, held.reason
        if self.job.others == "refuse" and not held.gone:
            raise RefusedError(f"{entry.name}: {reason or 'no picture'}; others='copy' or 'skip' goes on without it")
        if held.aside:
            return self._failed(entry, reason or "")
        if held.stream is None and held.data is None:  # it is gone, or was never a file
            denied = {"denied": True} if held.denied else {}
            return self._line(held, "missing" if held.gone else "unreadable") | {"reason": reason} | denied
        kind = "copied" if reason is None else "unreadable"
        about = {} if reason is None else {"reason": reason}
        name = entry.stem + entry.suffix if entry.picture else entry.stem
        if self.job.others == "skip":
            size = None if held.data is None else len(held.data)
            return self._line(held, "skipped" if kind == "copied" else kind, size) | about
        if held.stream is not None:
            put = sink.copy(name, held.stream)
        else:
            assert held.data is not None
            put = sink.put(name, held.data)
        return self._line(held, kind, put.bytes, put) | about

    def _failed(self, entry: Entry, reason: str) -> dict[str, Any]:
        if self.job.others == "refuse":
            raise RefusedError(f"{entry.name}: {reason}; others='copy' or 'skip' goes on without it")
        return self._line(_Held(entry), "failed") | {"reason": reason}

    def _line(
        self, held: "_Held", kind: str, source_bytes: int | None = None, put: Put | None = None
    ) -> dict[str, Any]:
        """What the manifest says about an entry."""
        line: dict[str, Any] = {"source": held.entry.name, "kind": kind, "source_bytes": source_bytes}
        if self.job.source.numbered:  # no stamp tells of a change
            if held.data is not None:
                line["source_sha256"] = hashlib.sha256(held.data).hexdigest()
            elif held.pixels is not None:
                line["source_sha256"] = image_hash(held.pixels)
        if put is not None:
            line |= put.to_json()
        if held.entry.label is not None:
            line["label"] = held.entry.label
        return line


_AGAIN = ("missing", "failed")


@dataclass(frozen=True)
class _Held:
    """An entry as it was read: a picture, a file in memory, a large file's stream, or nothing."""

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
    """The entries of a part, each with its place in it; those that were set aside are not touched."""

    def __init__(self, source: Source, part: Part, ending: str, note: Note, task: Task) -> None:
        self._source, self._part, self._ending, self._note, self._task = source, part, ending, note, task

    def __iter__(self) -> "Iterator[Entry | _Held]":
        aside, only = self._task.aside, self._task.try_only
        if not self._source.numbered:
            for place, entry in enumerate(self._source.entries(self._part.units, self._ending)):
                entry = replace(entry, place=place)
                if place in aside:
                    yield _Held(entry, reason=aside[place], aside=True)
                elif only in (None, "all", place):
                    yield entry
            return
        for place, unit in enumerate(self._part.units):
            if place in aside:
                yield _Held(Entry(unit.name, unit.stem, "", _nothing, place=place), reason=aside[place], aside=True)
            elif only in (None, "all", place):
                self._note(place, 1)  # taking it decodes it
                for entry in self._source.entries([unit], self._ending):
                    yield replace(entry, place=place)
                self._note(None, 0)


def _nothing() -> IO[bytes]:
    return io.BytesIO()


def groups(
    entries: "Iterable[Entry | _Held]",
    formats: Sequence[str] = (),
    note: Note = no_note,
    together: int = _TOGETHER,
) -> Iterator[list[_Held]]:
    """Read entries in groups of which the pictures fit in memory together."""
    group: list[_Held] = []
    pixels = size = 0
    for entry in entries:
        held = entry if isinstance(entry, _Held) else _read(entry, formats, note)
        if held.stream is not None:  # to be copied before the next entry is taken
            yield [*group, held]
            group, pixels, size = [], 0, 0
            continue
        group.append(held)
        pixels += 0 if held.pixels is None else held.pixels.shape[-2] * held.pixels.shape[-1]
        size += 0 if held.data is None else len(held.data)
        if len(group) >= together or pixels >= _PIXELS or size >= _BYTES:
            yield group
            group, pixels, size = [], 0, 0
    if group:
        yield group


def _read(entry: Entry, formats: Sequence[str], note: Note) -> _Held:
    try:
        opened = entry.open()
        if isinstance(opened, Tensor):
            return _Held(entry, opened)
        if not entry.picture:
            begun = opened.read(_SMALL + 1)
            if len(begun) <= _SMALL:
                return _Held(entry, data=begun)
            return _Held(entry, stream=cast(IO[bytes], _Chained(begun, opened)))
        with opened:
            data = opened.read()
    except FileNotFoundError as error:
        return _Held(entry, reason=error.strerror or str(error), gone=True)
    except PermissionError as error:
        return _Held(entry, reason=error.strerror or str(error), denied=True)
    except DamagedError:
        raise
    except UNREADABLE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk or the network, not the picture
        return _Held(entry, reason=str(error))
    note(entry.place, 1)
    try:
        return _Held(entry, read(data, gray=True, formats=formats), data, count_frames(data, formats))
    except Exception as error:  # whatever a decoder makes of damage
        return _Held(entry, data=data, reason=str(error) or type(error).__name__)
    finally:
        note(None, 0)


class _Chained(io.RawIOBase):
    """A stream after the bytes that were read from it already."""

    def __init__(self, begun: bytes, rest: IO[bytes]) -> None:
        self._streams = chain([io.BytesIO(begun)], [rest])
        self._now: Any = next(self._streams)

    def read(self, size: int = -1) -> bytes:
        block: bytes = self._now.read(size)
        if not block and (following := next(self._streams, None)) is not None:
            self._now = following
            return self.read(size)
        return block


def _not_json(value: Any) -> Any:
    raise TypeError(
        f"source: a column holds a {type(value).__name__}, which JSON has no word for; leave that column out"
    )
