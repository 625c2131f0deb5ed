"""What is to be done, and what was: parts, in files that are covered by their own checksums.

A file of parts (``plan.jsonl`` of a run, ``foveate-parts.jsonl`` of what is finished) has a first line with what they
all depend on, a line for each part, and a last line with their number and the SHA-256 of all before it. The record of
a part that is done has a line for each picture or file of it and a last line of the same kind. So a file that is torn
or was changed is recognized, and what it stood for is done again.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from foveate.export._store import STATE, NotAFileError, Store

FORMAT = 2
PLAN = f"{STATE}/plan.jsonl"


class Unit(NamedTuple):
    """Something of a source that can be read alone.

    Attributes:
        name: in the source: of a file, or the number of an item.
        stem: what it is called in the target: of a picture without its ending; of a shard its file or its folder.
        stamp: changes with it; empty where the source tells of none.
    """

    name: str
    stem: str
    stamp: str


@dataclass(frozen=True)
class Part:
    """A unit of work: finished when its record is in the target, and done anew if not."""

    number: int
    units: tuple[Unit, ...]

    @property
    def record(self) -> str:
        """The file in the target with what became of it."""
        return f"{STATE}/parts/{self.number:06}.jsonl"

    @property
    def digest(self) -> str:
        """Changes with the units, their names and stamps."""
        return hashlib.sha256(compact(self.units)).hexdigest()


@dataclass(frozen=True)
class Done:
    """What is known of a part that was done.

    Attributes:
        part: which.
        lines: how many lines of the manifest it has,
        sha256: and their SHA-256.
        again: its units that are to be looked for again: they were gone, or could not be read.
        shard: name, bytes and SHA-256 of its tar file, where it has one.
    """

    part: Part
    lines: int
    sha256: str
    again: tuple[str, ...] = ()
    shard: tuple[str, int, str] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what a file holds of it."""
        about = {"lines": self.lines, "sha256": self.sha256, "again": self.again, "shard": self.shard}
        return {"part": self.part.number, "units": self.part.units, **about}


@dataclass(frozen=True)
class Head:
    """What all parts of a target depend on.

    Attributes:
        settings: what its bytes depend on.
        source: what the source is called, see :attr:`Store.label`.
        classes: the names of the classes in the order of their numbers.
        base: the SHA-256 of the file of parts of what is finished already, to which a run adds; empty without.
    """

    settings: dict[str, Any]
    source: str
    classes: tuple[str, ...] = ()
    base: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return what a file holds of it."""
        about = {"source": self.source, "classes": self.classes, "base": self.base}
        return {"format": FORMAT, "settings": self.settings, **about}


class TornError(ValueError):
    """A file of the bookkeeping that is not as it was written."""


class PartsFile:
    """A file of parts, read as a stream; checked as a whole when this is made.

    Raises:
        FileNotFoundError: if it is not there.
        TornError: if it is not whole, or not as it was written.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name
        digest, last, count = hashlib.sha256(), b"", -1
        with store.open(name) as stream:
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
        with self._store.open(self._name) as stream:
            line = _parsed(stream.readline(), self._name)
        if line.get("format") != FORMAT:
            raise ValueError(
                f"target: {self._store.url} was written by another version of Foveate, in format "
                f"{line.get('format')!r}, and this one writes {FORMAT}; choose another folder"
            )
        return Head(line["settings"], line["source"], tuple(line["classes"]), line["base"])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of the parts, in the order of their numbers."""
        with self._store.open(self._name) as stream:
            next(stream)
            for _ in range(self.parts):
                yield _parsed(next(stream), self._name)

    def planned(self) -> Iterator[Part]:
        """Yield the parts."""
        return map(_part, self)

    def done(self) -> Iterator[Done]:
        """Yield what is known of parts that were done."""
        for line in self:
            shard = line["shard"]
            again, shard = tuple(line["again"]), None if shard is None else (shard[0], shard[1], shard[2])
            yield Done(_part(line), line["lines"], line["sha256"], again, shard)

    @classmethod
    def find(cls, store: Store, name: str) -> Self | None:
        """Return the file, or None where it is not there or torn."""
        try:
            return cls(store, name)
        except (FileNotFoundError, NotAFileError, TornError):
            return None


def write_parts(store: Store, name: str, head: Head, parts: Iterable[Part | Done]) -> str:
    """Write a file of parts; return the SHA-256 that is in its last line."""
    digest, count = hashlib.sha256(), 0
    with store.writing(name, bookkeeping=True) as stream:

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
    """Write down that a part is done: the lines of its pictures and files, and what is known of it."""
    text = joined(lines)
    last = {**done.to_json(), "units": part.digest}
    store.write(part.record, text + compact(last) + b"\n", bookkeeping=True)


def read_record(store: Store, part: Part) -> tuple[list[bytes], Done] | None:
    """Return the lines of a part and what is known of it; None where it is not done, or done for other units."""
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
    """Return lines as a file holds them."""
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
