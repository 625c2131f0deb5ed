"""The result of an export: the manifest, the summary, and how a run writes them.

While a run is unfinished, the target has a folder ``.foveate`` with ``plan.jsonl`` (the parts to be done) and, for each
part that is done, ``parts/000000.jsonl``; if it adds to a finished export, the files of that are there too, as
``base-*``. At the end ``foveate-manifest.jsonl.gz`` has the lines of all parts in order, ``foveate-parts.jsonl.gz`` the
parts, ``foveate-summary.json`` sums and hashes of both, and the folder is removed. Each is on the disk before the next
is begun, so that whatever a power cut leaves, the same call goes on from it.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from foveate import __version__
from foveate.export._check import puts
from foveate.export._choices import UNWRITTEN, Kind
from foveate.export._layout import MANIFEST, PARTS, STATE, SUMMARY
from foveate.export._local_files import NotAFileError
from foveate.export._packed import TornError, opened, packing
from foveate.export._plan import FORMAT, PLAN, Done, Head, PartsFile, read_record, write_parts
from foveate.export._store import Store, copy_stream

BASE_PARTS, BASE_MANIFEST = f"{STATE}/base-parts.jsonl.gz", f"{STATE}/base-manifest.jsonl.gz"
_BLOCK = 4096
"""Bytes of a block of a disk: what most file systems take at least for a file."""
_LISTED = 100
"""Names of images of a kind that a summary lists."""


@dataclass(frozen=True)
class Summary:
    """The result of an export, of all runs on its target together.

    Attributes:
        kinds: how many images or files were ``compressed``; ``kept`` as they were, as they are smaller; ``copied`` or
            ``skipped``, as they are not images; ``unreadable``; ``missing``, gone when their turn came; or ``failed``,
            set aside because processes died or took too long over them, or because they could not be compressed.
        source_bytes: of everything in the target whose size in the source is known.
        bytes: of the same in the target.
        settings: what its bytes depend on.
        classes: the names of the classes in the order of their numbers, if they are known.
        missing: the first hundred sources that were gone; the next run looks for them again.
        multiframe: how many compressed images have several frames or pages in the source, of which the first was taken.
        failed: the first hundred that failed, with the reasons; the next run tries them again.
        disk_bytes: what the target's files take on a disk with blocks of 4 KiB.
        sample: in shards, the endings of the first sample's members, as WebDataset's ``to_tuple`` takes them.
        root: a digest that covers all of the target: the SHA-256 of the summary, which has those of the manifest and
            the parts, which have that of every file.
    """

    kinds: dict[str, int]
    source_bytes: int
    bytes: int
    settings: dict[str, Any]
    classes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    multiframe: int = 0
    failed: tuple[str, ...] = ()
    disk_bytes: int = 0
    sample: tuple[str, ...] = ()
    root: str = ""

    @classmethod
    def load(cls, target: "str | Path | Store") -> "Summary | None":
        """Return the summary of a finished export, or None if there is none.

        Raises:
            ValueError: if it is damaged.
        """
        target = target if isinstance(target, Store) else Store(target)
        try:
            return cls._of(read_summary(target))
        except FileNotFoundError:
            return None

    @classmethod
    def _of(cls, about: dict[str, Any]) -> "Summary":
        names = ("kinds", "source_bytes", "bytes", "settings", "multiframe", "disk_bytes", "root")
        values: dict[str, Any] = {name: about[name] for name in names}
        values |= {name: tuple(about[name]) for name in ("classes", "missing", "failed", "sample")}
        return cls(**values)

    @property
    def saved(self) -> float:
        """The share of the source's bytes that was saved; negative if the target has more."""
        return 1 - self.bytes / self.source_bytes if self.source_bytes else 0.0

    def __str__(self) -> str:
        kinds = ", ".join(_counted_in_words(Kind(kind), count) for kind, count in self.kinds.items()) or "nothing"
        first = f"; {self.multiframe:,} have several frames, of which the first was taken" if self.multiframe else ""
        return f"{kinds}; {self.source_bytes:,} bytes became {self.bytes:,}, {self.saved:.1%} fewer{first}"


def _counted_in_words(kind: Kind, count: int) -> str:
    """Return a number of images or other files.

    Example:
        >>> _counted_in_words(Kind.COPIED, 1500), _counted_in_words(Kind.COMPRESSED, 1)
        ('1,500 other files copied', '1 image compressed')
    """
    if kind in (Kind.COPIED, Kind.SKIPPED):
        return f"{count:,} other file{'s' * (count != 1)} {kind}"
    return f"{count:,} image{'s' * (count != 1)} {kind}"


def read_summary(target: Store) -> dict[str, Any]:
    """Return the summary of a target as it is in its file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it was written by another version, or is not as it was written.
    """
    try:
        about = json.loads(target.read(SUMMARY))
    except (ValueError, RecursionError) as error:
        raise TornError(
            f"target: {target.url}: {SUMMARY} is damaged ({error}); the same export again repairs it"
        ) from None
    if isinstance(about, dict) and "foveate" in about and about.get("format") != FORMAT:
        raise ValueError(
            f"target: {target.url} was written by foveate {about['foveate']}, in another format than this version's; "
            "choose another folder"
        )
    if not isinstance(about, dict) or about.get("root") != _root(about) or not _fits(about):
        raise TornError(f"target: {target.url}: {SUMMARY} is not as it was written; the same export again repairs it")
    return about


def _fits(about: dict[str, Any]) -> bool:
    kinds: dict[type, tuple[str, ...]] = {
        dict: ("kinds", "settings"),
        list: ("classes", "missing", "failed", "sample"),
        int: ("source_bytes", "bytes", "multiframe", "disk_bytes"),
        str: ("source", "manifest_sha256", "parts_sha256"),
    }
    return all(isinstance(about.get(name), kind) for kind, names in kinds.items() for name in names)


def manifest(target: "str | Path | Store") -> Iterator[dict[str, Any]]:
    """Yield the lines of a target's manifest.

    Each is a dictionary for an image or another file, in the source's order: ``source`` and, if it is in the target,
    ``target`` (in shards the tar file, and ``member`` the name in it); ``kind`` (see :class:`Kind`); ``source_bytes``
    (None if it was not a file), ``bytes`` and ``sha256`` of the target; ``sidecars``, the same of the files that were
    written beside it; ``label``, if it is known; of images ``size`` (height and width of the source), ``frames`` if the
    source has several frames or pages (of which the first was compressed), ``settings`` and ``met``, and with rate
    control the witnesses' confidence in their answer before (``clean``) and after (``final``) and the points ``tried``;
    of the items of a Dataset ``source_sha256``; and the ``reason`` why something is unreadable.

    Raises:
        ValueError: if there is none: the export is unfinished, or never was; or if a line is damaged.
    """
    target = target if isinstance(target, Store) else Store(target)
    try:
        stream = opened(target, MANIFEST)
    except FileNotFoundError:
        raise ValueError(f"target: {target.url} has no {MANIFEST}; is its export finished?") from None
    number = 0
    with stream:
        try:
            for line in stream:
                yield json.loads(line)
                number += 1
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"target: {target.url}: line {number + 1} of {MANIFEST} is damaged ({error}); the same export again "
                "repairs it"
            ) from None


def parted(target: Store, name: str, parts: PartsFile) -> Iterator[tuple[Done, list[bytes]]]:
    """Yield each part of a finished export with its lines in a manifest, which may be damaged."""
    try:
        stream = opened(target, name)
    except (FileNotFoundError, NotAFileError):
        yield from ((done, []) for done in parts.done())
        return
    with stream:
        for done in parts.done():
            try:
                lines = list(islice(stream, done.lines))
            except TornError:
                lines = []
            yield done, lines


def is_whole(done: Done, lines: list[bytes]) -> bool:
    """Whether lines of a manifest are those of a part."""
    return hashlib.sha256(b"".join(lines)).hexdigest() == done.sha256


def finish(target: Store, plan: PartsFile) -> Summary:
    """Join the lines of all parts to those of earlier runs, write the summary, and remove the traces of the run."""
    counts = _Counts()
    manifest_digest, left_over = hashlib.sha256(), []

    with packing(target, MANIFEST) as stream:

        def parts() -> Iterator[Done]:
            for done, lines, stale in _merged(target, plan, counts):
                for line in lines:
                    stream.write(line)
                    manifest_digest.update(line)
                left_over.extend(stale)
                counts.add_shard(done)
                yield replace(done, lines=len(lines), sha256=hashlib.sha256(b"".join(lines)).hexdigest())

        parts_digest = write_parts(target, PARTS, replace(plan.head, base=""), parts())
    about: dict[str, Any] = {
        "format": FORMAT,
        "foveate": __version__,
        "kinds": dict(sorted(counts.kinds.items())),
        "source_bytes": counts.source_bytes,
        "bytes": counts.bytes,
        "multiframe": counts.multiframe,
        "classes": plan.head.classes,
        "missing": counts.missing,
        "failed": counts.failed,
        "disk_bytes": counts.disk_bytes,
        "sample": [*counts.sample],
        "source": plan.head.source,
        "settings": plan.head.settings,
        "manifest_sha256": manifest_digest.hexdigest(),
        "parts_sha256": parts_digest,
    }
    about["root"] = _root(about)
    target.write(SUMMARY, (json.dumps(about, indent=1) + "\n").encode(), bookkeeping=True)
    for name in left_over:
        target.remove(name)
    target.remove(PLAN)  # first: without it, the next run removes the rest
    target.remove(STATE)
    return Summary._of(about)


def head_of(target: Store) -> Head | None:
    """Return what a finished target depends on, from its parts or its summary; None if neither is sound."""
    parts = PartsFile.find(target, PARTS)
    if parts is not None:
        return parts.head
    try:
        about = read_summary(target)
    except (FileNotFoundError, TornError):
        return None
    return Head(about["settings"], about["source"], tuple(about["classes"]))


def is_sound(target: Store, parts: PartsFile) -> bool:
    """Whether summary, manifest and parts of a finished target belong together."""
    try:
        about = read_summary(target)
        head = Head(about["settings"], about["source"], tuple(about["classes"]))
        hashes = (about["parts_sha256"], about["manifest_sha256"])
        return head == parts.head and hashes == (parts.sha256, hash_of(target, MANIFEST))
    except (FileNotFoundError, NotAFileError, TornError):
        return False


def hash_of(target: Store, name: str) -> str:
    """Return the SHA-256 of the lines of a file."""
    with opened(target, name) as stream:
        return copy_stream(stream)[1]


def _root(about: dict[str, Any]) -> str:
    return hashlib.sha256(
        json.dumps({k: v for k, v in about.items() if k != "root"}, sort_keys=True).encode()
    ).hexdigest()


class _Counts:
    """The sums over all lines."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.source_bytes = self.bytes = self.multiframe = self.disk_bytes = 0
        self.missing: list[str] = []
        self.failed: list[str] = []
        self.sample: list[str] = []
        self._sample_name: tuple[str, str] | None = None

    def add_shard(self, done: Done) -> None:
        if done.shard is not None:
            self.disk_bytes += _in_blocks(done.shard[1])

    def add(self, line: dict[str, Any]) -> None:
        self.kinds[line["kind"]] += 1
        self.multiframe += "frames" in line
        if line["kind"] == Kind.MISSING and len(self.missing) < _LISTED:
            self.missing.append(line["source"])
        if line["kind"] == Kind.FAILED and len(self.failed) < _LISTED:
            self.failed.append(f"{line['source']}: {line['reason']}")
        if line.get("bytes") is not None and line["source_bytes"] is not None:
            self.source_bytes += line["source_bytes"]
            self.bytes += line["bytes"]
        for put in puts(line):
            if "member" in put:
                self._add_member(put["target"], put["member"])
            else:
                self.disk_bytes += _in_blocks(put["bytes"])

    def _add_member(self, shard: str, member: str) -> None:
        """Add the ending of a member to those of the first sample, if it is of that: by WebDataset's rule."""
        folder, slash, file = member.rpartition("/")
        stem, _, ending = file.partition(".")
        name = (shard, folder + slash + stem)
        if self._sample_name is None:
            self._sample_name = name
        if name == self._sample_name and ending not in self.sample:
            self.sample.append(ending)


def _in_blocks(size: int) -> int:
    """Return the bytes of the blocks of 4 KiB that a file of some bytes takes."""
    return -(-size // _BLOCK) * _BLOCK


def _merged(target: Store, plan: PartsFile, counts: _Counts) -> Iterator[tuple[Done, list[bytes], list[str]]]:
    """Yield all parts in the order of their numbers: those done now, the others as they were before.

    With each come its lines of the manifest, and the files that it had before and has no longer.
    """
    base = PartsFile.find(target, BASE_PARTS) if plan.head.base else None
    before = iter(()) if base is None else parted(target, BASE_MANIFEST, base)
    old = next(before, None)
    for part in plan.planned():
        while old is not None and old[0].part.number < part.number:
            yield old[0], _counted(old[1], counts), []
            old = next(before, None)
        record = read_record(target, part)
        if record is None:
            raise TornError(
                f"target: {target.url}: the record of part {part.number} is damaged; the same export again repairs it"
            )
        replaced: list[bytes] = []
        if old is not None and old[0].part.number == part.number:
            replaced = old[1] if is_whole(*old) else []
            old = next(before, None)
        lines = _counted(_with_gone(record[0], replaced, len(part.units) == 1), counts)
        yield record[1], lines, _left_over(replaced, lines)
    while old is not None:
        yield old[0], _counted(old[1], counts), []
        old = next(before, None)


def _counted(lines: list[bytes], counts: _Counts) -> list[bytes]:
    """Count lines; return those that belong in a manifest: images that are missing or failed have none."""
    written = []
    for raw in lines:
        line = json.loads(raw)
        counts.add(line)
        if line["kind"] not in UNWRITTEN:
            written.append(raw)
    return written


def _with_gone(lines: list[bytes], replaced: list[bytes], alone: bool) -> list[bytes]:
    """Keep the lines of files of a tree whose sources are gone: their compressed files are still there.

    Args:
        lines: of a part as it was done now.
        replaced: its lines before.
        alone: whether the part has one unit, which may be a shard of the source.
    """
    before = {line["source"]: raw for raw in replaced if "member" not in (line := json.loads(raw))}
    gone = [
        (raw, line["source"] if line["kind"] == Kind.MISSING else None) for raw in lines if (line := json.loads(raw))
    ]
    if alone and before and all(source is not None for _, source in gone):
        return list(before.values())
    return [raw if source is None else before.get(source, raw) for raw, source in gone]


def _left_over(replaced: list[bytes], lines: list[bytes]) -> list[str]:
    """The files that a part had before and has no longer."""
    now, before = ({put["target"] for raw in raws for put in puts(json.loads(raw))} for raws in (lines, replaced))
    return sorted(before - now)
