"""What a run has to do and has done: the plan, the lines of each part, and the manifest at the end.

While a run is unfinished, the target has a folder ``.foveate`` with ``plan.jsonl`` (first line: the settings; then one
line a part) and, for each part that is done, ``parts/000000.jsonl``. At the end the lines of all parts, in order, are
``foveate-manifest.jsonl``, their sums ``foveate-summary.json``, and the folder goes.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from foveate import __version__
from foveate.export._sources import Source
from foveate.export._store import MANIFEST, STATE, SUMMARY, Store, own
from foveate.export._worker import Part

_PLAN = f"{STATE}/plan.jsonl"


@dataclass(frozen=True)
class Summary:
    """What an export came to, all runs on its target together.

    Attributes:
        kinds: how many pictures or files were ``compressed``; ``kept`` as they were, being smaller; ``copied`` or
            ``skipped``, being no pictures; ``unreadable``; or ``missing``, being gone when their turn came.
        source_bytes: of everything in the target whose size in the source is known.
        bytes: of the same in the target.
        settings: what it was made with.
        classes: the names of the classes in the order of their numbers, where they are known.
        missing: the first hundred sources that were gone; the next run looks for them again.
        multiframe: how many of the compressed have several frames or pages in the source, of which the first was taken.
    """

    kinds: dict[str, int]
    source_bytes: int
    bytes: int
    settings: dict[str, Any]
    classes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    multiframe: int = 0

    @classmethod
    def read(cls, target: Store) -> "Summary | None":
        """Return the summary of a finished export, or None where there is none."""
        held = _summary(target)
        if held is None:
            return None
        lists = (tuple(held["classes"]), tuple(held["missing"]))
        multiframe = held.get("multiframe", 0)  # not there in a summary of foveate 0.1
        return cls(held["kinds"], held["source_bytes"], held["bytes"], held["settings"], *lists, multiframe)

    @property
    def saved(self) -> float:
        """Share of the source's bytes that the target does without; negative where it takes more."""
        return 1 - self.bytes / self.source_bytes if self.source_bytes else 0.0

    def __str__(self) -> str:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.kinds.items()) or "nothing"
        first = f"; {self.multiframe:,} have several frames, of which the first was taken" if self.multiframe else ""
        return f"{kinds}; {self.source_bytes:,} bytes became {self.bytes:,}, {self.saved:.1%} fewer{first}"


@dataclass
class Plan:
    """The parts of a run; unchanged from its first start to its end.

    Attributes:
        settings: what the target's bytes depend on.
        classes: see :class:`Summary`.
        parts: what is to be done.
        before: bytes of the manifest of earlier runs, to which this one adds.
    """

    settings: dict[str, Any]
    classes: tuple[str, ...]
    parts: list[Part] = field(default_factory=list)
    before: int = 0

    def write(self, target: Store) -> None:
        head = {"settings": self.settings, "classes": self.classes, "before": self.before, "parts": len(self.parts)}
        lines = [head, *({"part": one.number, "names": one.names} for one in self.parts)]
        target.write(_PLAN, "".join(json.dumps(line) + "\n" for line in lines).encode())

    @classmethod
    def read(cls, target: Store) -> "Plan | None":
        if not target.exists(_PLAN):
            return None
        with target.open(_PLAN) as stream:
            head = json.loads(stream.readline())
            parts = [Part(line["part"], tuple((a, b) for a, b in line["names"])) for line in map(json.loads, stream)]
        return cls(head["settings"], tuple(head["classes"]), parts, head["before"])


def planned(source: Source, target: Store, settings: dict[str, Any], size: int, shards: bool) -> Plan:
    """Return the plan of an unfinished run with what came to the source since, or that of a new one.

    Raises:
        ValueError: if the target holds files that are not of an export, or an export of other settings.
    """
    plan, done = Plan.read(target), _summary(target)
    for held, what in ((plan.settings if plan else None, "is being"), (done["settings"] if done else None, "was")):
        if held is not None and (other := _difference(held, settings)):
            raise ValueError(f"target: {target.url} {what} made with other settings ({other}); choose another folder")
    if plan is None and done is None and (strange := next((n for n in target.names() if not own(n)), None)):
        raise ValueError(f"target: {target.url} holds files of its own, such as {strange}; choose an empty folder")
    names = source.units()
    before = 0
    known: set[str] = set()
    taken: set[str] = set()
    number = 0
    if done is not None:
        before = plan.before if plan is not None else done["manifest_bytes"]
        number = done["parts"]
        for line in manifest(target, before):
            known.add(f"{line['source'].partition('.tar:')[0]}.tar" if source.whole else line["source"])
            name = line.get("target", "")
            taken.add(PurePosixPath(name.partition(".tar:")[2] if shards else name).with_suffix("").as_posix())
    held = plan.classes if plan is not None else tuple(done["classes"]) if done is not None else ()
    classes = (*held, *(name for name in source.classes if name not in held))  # those that are in the target stay
    plan = Plan(settings, classes, [] if plan is None else plan.parts, before)
    for part in plan.parts:
        known.update(name for name, _ in part.names)
        taken.update(stem for _, stem in part.names)
        number = part.number + 1
    new = source.named([name for name in names if name not in known], taken, shards)
    size = 1 if source.whole else size
    for start in range(0, len(new), size):
        plan.parts.append(Part(number + start // size, tuple(new[start : start + size])))
    return plan


def done_parts(target: Store) -> set[str]:
    """Return the names of the parts' files that are there."""
    return {f"{STATE}/parts/{name}" for name in Store(f"{target.url.rstrip('/')}/{STATE}/parts").names()}


def manifest(target: "str | Path | Store", size: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the lines of a target's manifest, or of its first ``size`` bytes.

    Each is a dictionary for a picture or another file, in the source's order: ``source`` and, where it is in the
    target, ``target`` (in shards ``shard.tar:member``); ``kind`` (see :class:`Summary`); ``source_bytes`` (None of what
    was no file), ``bytes`` and ``sha256`` of the target; where known ``label``; of pictures ``size`` (height and
    width of the source), ``frames`` where the source has several frames or pages (the first is what was compressed),
    ``settings`` and ``met``, and with rate control the witnesses' confidence in their own answer
    before (``clean``) and after (``final``) and the points ``tried``; and the ``reason`` why something is unreadable.

    Raises:
        ValueError: if there is none: the export is unfinished, or never was.
    """
    target = target if isinstance(target, Store) else Store(target)
    try:
        stream = target.open(MANIFEST)
    except FileNotFoundError:
        raise ValueError(f"target: {target.url} has no {MANIFEST}; is its export finished?") from None
    with stream:
        for line in stream:
            if size is not None:
                if size <= 0:
                    return
                size -= len(line)
            yield json.loads(line)


def finish(target: Store, plan: Plan) -> Summary:
    """Join the lines of all parts to those of earlier runs, write the summary, and remove the traces of the run."""
    kinds: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    missing: list[str] = []

    def count(line: dict[str, Any]) -> None:
        kinds[line["kind"]] += 1
        sums["multiframe"] += "frames" in line
        if line["kind"] == "missing":
            missing.append(line["source"])
        if line.get("bytes") is not None and line["source_bytes"] is not None:
            sums["source"] += line["source_bytes"]
            sums["target"] += line["bytes"]

    size = 0
    with target.writing(MANIFEST) as stream:
        for line in manifest(target, plan.before) if plan.before else ():
            count(line)
            size += stream.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
        for part in plan.parts:
            for raw in target.read(part.lines).splitlines(keepends=True):
                line = json.loads(raw)
                count(line)
                if line["kind"] != "missing":  # it has no place in the target, and may come back
                    size += stream.write(raw)
    summary = Summary(
        dict(sorted(kinds.items())),
        sums["source"],
        sums["target"],
        plan.settings,
        plan.classes,
        tuple(missing[:100]),
        sums["multiframe"],
    )
    parts = max((part.number + 1 for part in plan.parts), default=(_summary(target) or {"parts": 0})["parts"])
    text = {
        "foveate": __version__,
        "kinds": summary.kinds,
        "source_bytes": summary.source_bytes,
        "bytes": summary.bytes,
        "multiframe": summary.multiframe,
        "classes": list(summary.classes),
        "missing": list(summary.missing),
        "settings": summary.settings,
        "parts": parts,
        "manifest_bytes": size,
    }
    target.write(SUMMARY, (json.dumps(text, indent=1) + "\n").encode())
    target.remove(_PLAN)  # first: without it the rest is only rubbish, which the next run removes
    target.remove(STATE)
    return summary


def _summary(target: Store) -> dict[str, Any] | None:
    if not target.exists(SUMMARY):
        return None
    found: dict[str, Any] = json.loads(target.read(SUMMARY))
    return found


def _difference(held: dict[str, Any], settings: dict[str, Any]) -> str:
    names = [name for name in {**held, **settings} if held.get(name) != settings.get(name)]
    return "; ".join(f"{name}: {held.get(name)!r}, now {settings.get(name)!r}" for name in names)
