"""The work on one part: read, compress, write. The same in a local process and in an actor of Ray."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from foveate.codecs import TooLargeError
from foveate.compressor import Compressor, Encoded
from foveate.export._choices import UNWRITTEN, Kind, Others
from foveate.export._plan import Done, joined, write_record
from foveate.export._reading import GROUP, Entries, Loaded, groups
from foveate.export._source import Entry, Source
from foveate.export._store import Store
from foveate.export._targets import Nowhere, Put, Shard, Sink, Tree
from foveate.export._work import Note, Report, Step, Task, no_note
from foveate.images import image_hash
from foveate.rate_control import Controlled

_BUILDING = 10
"""Building the models may take the time of this many images."""

_DIGITS = 6
"""Of a witness's confidence in the manifest."""
_CURE = "others='copy' or 'skip' goes on without it"


class RefusedError(ValueError):
    """A file that is not a readable image, where such files are refused."""


@dataclass(frozen=True)
class Job:
    """The compression of a source into a target.

    Attributes:
        source: where they come from.
        target: where they go.
        compressor: with its models by recipe.
        shards: write tar shards, not a tree.
        others: what to do with other files.
        only_if_smaller: keep the source's bytes if they are not more.
        keep_names: keep the endings of the source's files.
        device: for the compressor's models.
        timeout: see :class:`foveate.export._work.Work`.
        memory: see :class:`foveate.export._work.Work`.
        formats: names of Pillow's formats that are opened besides the usual ones.
    """

    source: Source
    target: Store
    compressor: Compressor
    shards: bool = False
    others: Others = Others.COPY
    only_if_smaller: bool = False
    keep_names: bool = False
    device: str | None = None
    timeout: float = 60.0
    memory: int | None = None
    formats: tuple[str, ...] = ()

    @property
    def ending(self) -> str:
        """Of compressed images; empty where they keep that of their files."""
        return "" if self.keep_names else self.compressor.codec.suffix

    def worker(self, note: Note = no_note) -> "Worker":
        return Worker(self, note)


class Worker:
    """Compresses parts, one after another, on one thread.

    Args:
        job: what to do.
        note: called with the entry that is being worked on, so that a supervisor can watch the time.
    """

    def __init__(self, job: Job, note: Note = no_note) -> None:
        torch.set_num_threads(1)  # one thread a worker; and results do not depend on how many there are
        self.job, self._note = job, note
        self._is_built = False
        if job.device is not None:
            job.compressor.to(job.device)

    def __call__(self, task: Task) -> Iterator[Report | Step]:
        """Do a part, and write its record last, when all of it is on the disk.

        Raises:
            RefusedError: if a file is not a readable image and such are refused.
            OSError: if the target cannot be written, or the source cannot be read for another reason than that it is
                gone.
            Exception: what the compressor raises on any image.
        """
        job, part = self.job, task.part
        entries = Entries(job.source, task, job.ending, self._note)
        with self._sink(task) as sink:
            lines: list[dict[str, Any]] = []
            again: list[str] = []
            count = 0
            for group in groups(entries, job.formats, self._note, GROUP if task.try_only is None else 1):
                for line, unit in self._finish(group, sink):
                    lines.append(line)
                    denied = line.pop("denied", False)
                    if line["kind"] in UNWRITTEN or (line["kind"] == Kind.UNREADABLE and denied):
                        again.append(unit)
                    count += line["kind"] not in (Kind.COPIED, Kind.SKIPPED)
                if task.try_only is None:
                    yield Step(part.number, count)
        if task.try_only is None:
            digest = hashlib.sha256(joined(lines)).hexdigest()
            done = Done(part, len(lines), digest, tuple(dict.fromkeys(again)), sink.shard)
            write_record(job.target, part, lines, done)
        sized = [line for line in lines if line.get("bytes") is not None and line["source_bytes"] is not None]
        yield Report(
            part.number,
            len(part.units),
            dict(Counter(line["kind"] for line in lines)),
            sum(line["source_bytes"] for line in sized),
            sum(line["bytes"] for line in sized),
        )

    def _sink(self, task: Task) -> AbstractContextManager[Sink]:
        job, part = self.job, task.part
        if task.try_only is not None:
            return nullcontext(Nowhere())
        if not job.shards:
            return Tree.writing(job.target)
        return Shard.writing(job.target, part.units[0].stem if job.source.whole else f"part-{part.number:06}.tar")

    def _finish(self, group: list[Loaded], sink: Sink) -> Iterator[tuple[dict[str, Any], str]]:
        """Compress the images of a group and write all of it, in order; yield lines with the names of their units."""
        images = [loaded.pixels for loaded in group if loaded.pixels is not None]
        if images:  # the first ones wait for models to be built, or downloaded
            place = next(loaded.entry.place for loaded in group if loaded.pixels is not None)
            self._note(place, len(images) + (0 if self._is_built else _BUILDING))
        results = iter(self._encode(images))
        self._note(None, 0)
        self._is_built = self._is_built or bool(images)
        for loaded in group:
            result = None if loaded.pixels is None else next(results)
            if isinstance(result, Encoded):
                line = self._image(loaded, result, sink)
            elif result is None or isinstance(result, TooLargeError):
                line = self._other(loaded if result is None else replace(loaded, reason=str(result)), sink)
            else:
                line = self._failed(loaded.entry, f"it cannot be compressed: {type(result).__name__}: {result}")
            yield line, loaded.entry.unit or loaded.entry.name

    def _encode(self, images: Sequence[Tensor]) -> "Sequence[Encoded | Exception]":
        """Compress images; an error of one of them, and not of any image, takes its place."""
        if not images:
            return []
        try:
            return self.job.compressor.encode(images)
        except Exception as error:
            if len(images) > 1:
                return [result for image in images for result in self._encode([image])]
            if not isinstance(error, TooLargeError):
                self._try_plain(error)
            return [error]

    def _try_plain(self, error: Exception) -> None:
        """Raise an error again if a plain gray image fails too: then it is not the image's."""
        try:
            self.job.compressor.encode([torch.full((3, 224, 224), 128, dtype=torch.uint8)])
        except Exception:
            raise error from None

    def _image(self, loaded: Loaded, encoded: Encoded, sink: Sink) -> dict[str, Any]:
        """Write a compressed image and the files beside it; return its line."""
        entry, data = loaded.entry, loaded.data
        source_bytes = None if data is None else len(data)
        if self.job.only_if_smaller and data is not None and len(data) <= len(encoded.data):
            put = sink.put(entry.stem + entry.suffix, data)
            line = self._line(loaded, Kind.KEPT, source_bytes, put) | {"size": list(encoded.size)}
        else:
            put = sink.put(entry.stem + (self.job.ending or entry.suffix or encoded.codec.suffix), encoded.data)
            line = self._line(loaded, Kind.COMPRESSED, source_bytes, put) | {"size": list(encoded.size)}
            if loaded.frames > 1:
                line["frames"] = loaded.frames
            line |= {"settings": encoded.settings, "met": encoded.met}
        if isinstance(encoded, Controlled):
            clean, final = ([round(p, _DIGITS) for p in answers] for answers in (encoded.clean, encoded.final))
            line |= {"clean": clean, "final": final, "tried": encoded.tried}
        sidecars: list[Put] = []
        if entry.label is not None and self.job.shards:
            sidecars.append(sink.put(f"{entry.stem}.cls", str(entry.label).encode()))
        if entry.extra:
            sidecars.append(sink.put(f"{entry.stem}.json", json.dumps(entry.extra, default=_not_json).encode()))
        if sidecars:
            line["sidecars"] = [sidecar.to_json() for sidecar in sidecars]
        return line

    def _other(self, loaded: Loaded, sink: Sink) -> dict[str, Any]:
        """Handle an entry that is not a readable image, as the job asks; return its line."""
        entry, reason = loaded.entry, loaded.reason
        if self.job.others == Others.REFUSE and not loaded.gone:
            raise RefusedError(f"{entry.name}: {reason or 'not an image'}; {_CURE}")
        if loaded.aside:
            return self._failed(entry, reason or "")
        if loaded.stream is None and loaded.data is None:  # it is gone, or never was a file
            denied = {"denied": True} if loaded.denied else {}
            return self._line(loaded, Kind.MISSING if loaded.gone else Kind.UNREADABLE) | {"reason": reason} | denied
        kind = Kind.COPIED if reason is None else Kind.UNREADABLE
        about = {} if reason is None else {"reason": reason}
        name = entry.stem + entry.suffix if entry.is_image else entry.stem
        if self.job.others == Others.SKIP:
            size = None if loaded.data is None else len(loaded.data)
            return self._line(loaded, Kind.SKIPPED if kind == Kind.COPIED else kind, size) | about
        if loaded.stream is not None:
            put = sink.copy(name, loaded.stream)
        else:
            assert loaded.data is not None
            put = sink.put(name, loaded.data)
        return self._line(loaded, kind, put.bytes, put) | about

    def _failed(self, entry: Entry, reason: str) -> dict[str, Any]:
        if self.job.others == Others.REFUSE:
            raise RefusedError(f"{entry.name}: {reason}; {_CURE}")
        return self._line(Loaded(entry), Kind.FAILED) | {"reason": reason}

    def _line(
        self, loaded: Loaded, kind: Kind, source_bytes: int | None = None, put: Put | None = None
    ) -> dict[str, Any]:
        """The line of an entry in the manifest."""
        line: dict[str, Any] = {"source": loaded.entry.name, "kind": kind.value, "source_bytes": source_bytes}
        if self.job.source.numbered:  # no stamp shows a change
            if loaded.data is not None:
                line["source_sha256"] = hashlib.sha256(loaded.data).hexdigest()
            elif loaded.pixels is not None:
                line["source_sha256"] = image_hash(loaded.pixels)
        if put is not None:
            line |= put.to_json()
        if loaded.entry.label is not None:
            line["label"] = loaded.entry.label
        return line


def _not_json(value: Any) -> Any:
    raise TypeError(f"source: a column holds a {type(value).__name__}, which JSON cannot hold; leave that column out")
