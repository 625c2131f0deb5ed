"""The parts of a run and of what was finished, in files that are covered by their own checksums.

A file of parts (``plan.jsonl`` of a run, ``foveate-parts.jsonl.gz`` of a finished export) has a first line with what
they all depend on, a line for each part, and a last line with their number and the SHA-256 of all before it. The record
of a part that is done has a line for each of its images and files, and a last line of the same kind. So a file that is
torn or was changed is recognized, and its parts are done again.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from foveate.export._layout import STATE
from foveate.export._local_files import NotAFileError
from foveate.export._packed import TornError, opened, packing
from foveate.export._store import Store

FORMAT = 3
PLAN = f"{STATE}/plan.jsonl"


class Unit(NamedTuple):
    """Something of a source that can be read alone.

    Attributes:
        name: in the source: of a file, or the number of an item.
        stem: its name in the target: of an image without the ending; of a shard its file or its folder.
        stamp: a text that changes with it; empty if the source has none.
    """

    name: str
    stem: str
    stamp: str


@dataclass(frozen=True)
class Part:
    """A unit of work: finished when its record is in the target, and done again if not."""

    number: int
    units: tuple[Unit, ...]

    @property
    def record(self) -> str:
        """The name of the file in the target that says that it is done."""
        return f"{STATE}/parts/{self.number:06}.jsonl"

    @property
    def digest(self) -> str:
        """A hash of the units, their names and stamps."""
        return hashlib.sha256(compact(self.units)).hexdigest()


@dataclass(frozen=True)
class Done:
    """A part that was done.

    Attributes:
        part: the part.
        lines: how many lines of the manifest it has.
        sha256: of these lines.
        again: the names of its units that the next run tries again: they were gone, or could not be read.
        shard: name, bytes and SHA-256 of its tar file, if it has one.
    """

    part: Part
    lines: int
    sha256: str
    again: tuple[str, ...] = ()
    shard: tuple[str, int, str] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as a line of a file of parts holds it."""
        result = {"lines": self.lines, "sha256": self.sha256, "again": self.again, "shard": self.shard}
        return {"part": self.part.number, "units": self.part.units, **result}


@dataclass(frozen=True)
class Head:
    """What all parts of a target depend on.

    Attributes:
        settings: what its bytes depend on.
        source: the label of the source, see :attr:`Store.label`.
        classes: the names of the classes in the order of their numbers.
        base: the SHA-256 of the file of parts of a finished export to which a run adds; empty if there is none.
    """

    settings: dict[str, Any]
    source: str
    classes: tuple[str, ...] = ()
    base: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as a line of a file of parts holds it."""
        about = {"source": self.source, "classes": self.classes, "base": self.base}
        return {"format": FORMAT, "settings": self.settings, **about}


class PartsFile:
    """A file of parts, which is checked at first, and then read as a stream.

    Attributes:
        parts: how many there are.
        sha256: of its lines but for the last.
        head: what all parts depend on.

    Raises:
        FileNotFoundError: if it is not there.
        TornError: if it is torn or was changed.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name
        digest, last, count = hashlib.sha256(), b"", -1
        with opened(store, name) as stream:
            for line in stream:
                digest.update(last)
                last, count = line, count + 1
        about = _parsed(last, name)
        if about.get("sha256") != digest.hexdigest() or about.get("parts") != count - 1 or not last.endswith(b"\n"):
            raise TornError(f"{store.url}: {name} is not as it was written")
        self.parts: int = count - 1
        self.sha256: str = about["sha256"]
        self.head = self._head()

    def _head(self) -> Head:
        with opened(self._store, self._name) as stream:
            line = _parsed(stream.readline(), self._name)
        if line.get("format") != FORMAT:
            raise ValueError(
                f"target: {self._store.url} was written by another version of Foveate, in format "
                f"{line.get('format')!r}, and this one writes {FORMAT}; choose another folder"
            )
        return Head(line["settings"], line["source"], tuple(line["classes"]), line["base"])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of the parts, in the order of their numbers."""
        with opened(self._store, self._name) as stream:
            next(stream)
            for _ in range(self.parts):
                yield _parsed(next(stream), self._name)

    def planned(self) -> Iterator[Part]:
        """Yield the parts, whether they are done or not."""
        return map(_part, self)

    def done(self) -> Iterator[Done]:
        """Yield the parts of a finished export."""
        for line in self:
            shard = line["shard"]
            again, shard = tuple(line["again"]), None if shard is None else (shard[0], shard[1], shard[2])
            yield Done(_part(line), line["lines"], line["sha256"], again, shard)

    @classmethod
    def find(cls, store: Store, name: str) -> Self | None:
        """Return the file, or None if it is not there, or is torn."""
        try:
            return cls(store, name)
        except (FileNotFoundError, NotAFileError, TornError):
            return None


def write_parts(store: Store, name: str, head: Head, parts: Iterable[Part | Done]) -> str:
    """Write a file of parts; return the SHA-256 in its last line."""
    digest, count = hashlib.sha256(), 0
    with packing(store, name) as stream:

        def write(line: dict[str, Any]) -> None:
            data = compact(line) + b"\n"
            digest.update(data)
            stream.write(data)

        write(head.to_json())
        for part in parts:
            write(part.to_json() if isinstance(part, Done) else {"part": part.number, "units": part.units})
            count += 1
        stream.write(compact({"parts": count, "sha256": digest.hexdigest()}) + b"\n")
    return digest.hexdigest()


def write_record(store: Store, part: Part, lines: Sequence[dict[str, Any]], done: Done) -> None:
    """Write that a part is done, with the lines of its images and files."""
    text = joined(lines)
    last = {**done.to_json(), "units": part.digest}
    store.write(part.record, text + compact(last) + b"\n", bookkeeping=True)


def read_record(store: Store, part: Part) -> tuple[list[bytes], Done] | None:
    """Return the lines of a part that is done; None if it is not done, or was done with other units."""
    try:
        lines = store.read(part.record).splitlines(keepends=True)
    except FileNotFoundError:
        return None
    try:
        last = _parsed(lines.pop() if lines else b"", part.record)
        shard = last["shard"]
        done = Done(part, len(lines), last["sha256"], tuple(last["again"]), None if shard is None else tuple(shard))
    except (TornError, KeyError, TypeError):
        return None
    whole = done.lines == last["lines"] and done.sha256 == hashlib.sha256(b"".join(lines)).hexdigest()
    return (lines, done) if whole and (last["part"], last["units"]) == (part.number, part.digest) else None


def joined(lines: Iterable[dict[str, Any]]) -> bytes:
    """Return lines of JSON."""
    return b"".join(compact(line) + b"\n" for line in lines)


def compact(value: Any) -> bytes:
    """Return a value as JSON without spaces."""
    return json.dumps(value, separators=(",", ":")).encode()


def _parsed(line: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TornError(f"{name}: {error}") from None
    if not isinstance(value, dict):
        raise TornError(f"{name}: expected an object, got {value!r}")
    return value


def _part(line: dict[str, Any]) -> Part:
    return Part(line["part"], tuple(Unit(*unit) for unit in line["units"]))
