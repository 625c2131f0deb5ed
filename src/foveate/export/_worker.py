"""The work on one part: read, compress, write. The same in a local process and in an actor of Ray."""

import io
import json
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import IO, Any, Literal, cast

import torch
from torch import Tensor

from foveate.codecs import TooLarge
from foveate.compressor import Compressor, Encoded
from foveate.export._sources import Damaged, Entry, Name, Source
from foveate.export._store import STATE, Store
from foveate.export._targets import Put, Shard, Sink, Tree
from foveate.images import UNREADABLE, frames, read
from foveate.rate_control import Controlled

Others = Literal["copy", "skip", "refuse"]

_TOGETHER = 64
"""At most so many pictures are compressed at once,"""
_PIXELS = 1 << 24
"""and about so many pixels: the memory that a worker takes does not grow with the part."""
_SMALL = 1 << 20
"""Other files of up to so many bytes wait in memory for the pictures before them."""


DEATHS = 3
"""So often may processes die over one part."""


@dataclass(frozen=True)
class Part:
    """A unit of work: finished when its lines are in the target, and done anew if not."""

    number: int
    names: tuple[Name, ...]

    @property
    def lines(self) -> str:
        """The file in the target with what became of it."""
        return f"{STATE}/parts/{self.number:06}.jsonl"


@dataclass(frozen=True)
class Job:
    """What a worker needs to know, and what is sent to it: models by recipe."""

    source: Source
    target: Store
    compressor: Compressor
    shards: bool = False
    others: Others = "copy"
    only_if_smaller: bool = False
    device: str | None = None


def pickled(job: Job, dumps: Callable[[Any], bytes] = pickle.dumps) -> bytes:
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


def died(part: Part) -> RuntimeError:
    """Return what to raise when processes died over a part :data:`DEATHS` times."""
    return RuntimeError(
        f"workers: processes died {DEATHS} times over part {part.number} ({part.names[0][0]} to {part.names[-1][0]}): "
        "for want of memory, then take fewer workers; or a file there crashes the library that reads it; or the script "
        "that calls this does so outside `if __name__ == '__main__':`"
    )


@dataclass(frozen=True)
class Report:
    """What one part came to.

    Attributes:
        number: of the part.
        units: how many units of the source were in it.
        kinds: how many pictures or files were ``compressed``, ``kept``, ``copied``, ``skipped``, ``unreadable``,
            ``missing``.
        source_bytes: of those whose size in the source is known and that are in the target.
        bytes: of the same in the target.
    """

    number: int
    units: int
    kinds: dict[str, int] = field(default_factory=dict)
    source_bytes: int = 0
    bytes: int = 0


class Refused(ValueError):
    """A file that is no picture, where such are refused."""


class Worker:
    """Compresses parts, one after another, on one thread.

    Args:
        job: what to do.
    """

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(1)  # one thread a worker; and results do not depend on how many there are
        self.job = job
        if job.device is not None:
            job.compressor.to(job.device)

    def __call__(self, part: Part) -> Report:
        """Do a part, and write what became of each picture as the last thing.

        Raises:
            Refused: if something is no readable picture and such are refused.
            OSError: if the target cannot be written, or the source not be read for another reason than that it is gone.
        """
        with self._sink(part) as sink:
            entries = self.job.source.entries(part.names)
            lines = [line for group in groups(entries) for line in self._finish(group, sink)]
        text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
        self.job.target.write(part.lines, text.encode())
        both = [line for line in lines if line.get("bytes") is not None and line["source_bytes"] is not None]
        return Report(
            part.number,
            len(part.names),
            dict(Counter(line["kind"] for line in lines)),
            sum(line["source_bytes"] for line in both),
            sum(line["bytes"] for line in both),
        )

    @contextmanager
    def _sink(self, part: Part) -> Iterator[Sink]:
        job = self.job
        if not job.shards:
            yield Tree(job.target)
            return
        name = part.names[0][0] if job.source.whole else f"part-{part.number:06}.tar"
        with Shard.writing(job.target, name) as shard:
            yield shard

    def _finish(self, group: "list[_Held]", sink: Sink) -> Iterator[dict[str, Any]]:
        """Compress the pictures of a group and write everything in it, in order."""
        encoded = iter(self._encode([held.pixels for held in group if held.pixels is not None]))
        for held in group:
            found = None if held.pixels is None else next(encoded)
            if isinstance(found, Encoded):
                yield from self._pictured(held, found, sink)
            else:
                yield from self._other(held if found is None else replace(held, reason=str(found)), sink)

    def _encode(self, pictures: Sequence[Tensor]) -> "Sequence[Encoded | TooLarge]":
        try:
            return self.job.compressor.encode(pictures)
        except TooLarge as error:
            if len(pictures) == 1:
                return [error]
            return [found for picture in pictures for found in self._encode([picture])]

    def _pictured(self, held: "_Held", encoded: Encoded, sink: Sink) -> Iterator[dict[str, Any]]:
        entry, data = held.entry, held.data
        kept = self.job.only_if_smaller and data is not None and len(data) <= len(encoded.data)
        if kept:
            assert data is not None
            put = sink.put(entry.stem + entry.suffix, data)
        else:
            put = sink.put(entry.stem + encoded.codec.suffix, encoded.data)
        line = _line(entry, "kept" if kept else "compressed", None if data is None else len(data), put)
        line["size"] = list(encoded.size)
        if not kept:
            if held.frames > 1:
                line["frames"] = held.frames
            line |= {"settings": encoded.settings, "met": encoded.met}
        if isinstance(encoded, Controlled):
            line |= {"clean": list(encoded.clean), "final": list(encoded.final), "tried": encoded.tried}
        yield line
        if entry.label is not None and self.job.shards:
            sink.put(f"{entry.stem}.cls", str(entry.label).encode())
        if entry.extra:
            sink.put(f"{entry.stem}.json", json.dumps(entry.extra, default=_not_json).encode())

    def _other(self, held: "_Held", sink: Sink) -> Iterator[dict[str, Any]]:
        entry, reason = held.entry, held.reason
        if self.job.others == "refuse" and not held.gone:
            raise Refused(f"{entry.name}: {reason or 'no picture'}; others='copy' or 'skip' goes on without it")
        if held.stream is None and held.data is None:  # it is gone, or was never a file
            yield _line(entry, "missing" if held.gone else "unreadable") | {"reason": reason}
            return
        kind = "copied" if reason is None else "unreadable"
        about = {} if reason is None else {"reason": reason}
        name = entry.stem + entry.suffix if entry.picture else entry.stem
        if self.job.others == "skip":
            size = None if held.data is None else len(held.data)
            yield _line(entry, "skipped" if kind == "copied" else kind, size) | about
            return
        if held.stream is not None:
            put = sink.copy(name, held.stream)
        else:
            assert held.data is not None
            put = sink.put(name, held.data)
        yield _line(entry, kind, put[1], put) | about


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


def groups(entries: Iterator[Entry]) -> Iterator[list[_Held]]:
    """Read entries in groups of which the pictures fit in memory together."""
    group: list[_Held] = []
    pixels = 0
    for entry in entries:
        held = _read(entry)
        if held.stream is not None:  # to be copied before the next entry is taken
            yield [*group, held]
            group, pixels = [], 0
            continue
        group.append(held)
        pixels += 0 if held.pixels is None else held.pixels.shape[-2] * held.pixels.shape[-1]
        if len(group) >= _TOGETHER or pixels >= _PIXELS:
            yield group
            group, pixels = [], 0
    if group:
        yield group


def _read(entry: Entry) -> _Held:
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
    except (FileNotFoundError, PermissionError) as error:
        return _Held(entry, reason=str(error), gone=True)
    except Damaged:
        raise
    except UNREADABLE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk or the network, not the picture
        return _Held(entry, reason=str(error))
    try:
        return _Held(entry, read(data, grey=True), data, frames(data))
    except UNREADABLE as error:
        return _Held(entry, data=data, reason=str(error))


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


def _line(entry: Entry, kind: str, source_bytes: int | None = None, put: Put | None = None) -> dict[str, Any]:
    """What the manifest says about an entry."""
    line: dict[str, Any] = {"source": entry.name, "kind": kind, "source_bytes": source_bytes}
    if put is not None:
        line |= {"target": put[0], "bytes": put[1], "sha256": put[2]}
    if entry.label is not None:
        line["label"] = entry.label
    return line


def _not_json(value: Any) -> Any:
    raise TypeError(
        f"source: a column holds a {type(value).__name__}, which JSON has no word for; leave that column out"
    )
