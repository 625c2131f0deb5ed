"""What a run has to do: images that are new in the source, changed, or not in the target as they were written."""

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from typing import Any

from foveate.export._check import check_files, check_line, check_shard, in_order
from foveate.export._choices import UNWRITTEN
from foveate.export._index import Index
from foveate.export._layout import MANIFEST, PARTS, STATE, SUMMARY, is_bookkeeping
from foveate.export._local_files import NotAFileError
from foveate.export._manifest import BASE_MANIFEST, BASE_PARTS, head_of, is_sound, is_whole, parted
from foveate.export._names import Names, proper
from foveate.export._plan import PLAN, Done, Head, Part, PartsFile, Unit, read_record, write_parts
from foveate.export._source import Source
from foveate.export._stamps import DENIED
from foveate.export._store import Store, copy_stream

_THREADS = 8
"""Files of the target that are read at once."""


@dataclass(frozen=True)
class Todo:
    """What is left to do of a plan.

    Attributes:
        plan: the file of all its parts.
        numbers: of the parts that are not done.
        units: how many units these have.
        total: how many units all parts have.
    """

    plan: PartsFile
    numbers: "array[int]"
    units: int
    total: int

    def parts(self) -> Iterator[Part]:
        """Yield the parts that are not done."""
        numbers = iter(self.numbers)
        number = next(numbers, None)
        for part in self.plan.planned():
            if part.number == number:
                yield part
                number = next(numbers, None)


def planned(source: Source, target: Store, head: Head, ending: str, size: int, moved: bool = False) -> Todo | None:
    """Write the plan of a run; return what is left to do, or None if the target is complete.

    What was begun or finished before is compared with the source as it is now (by the stamps of its files; a few items
    of a Dataset, and all rows of Hugging Face's, by their content) and with its files in the target, by their hashes: a
    part of which anything changed, or is damaged, is done again, under the names that it had.

    Args:
        source: where the images are.
        target: where they go.
        head: what the run depends on; the classes are the source's.
        ending: of compressed images.
        size: units in a part.
        moved: whether the source may be in another place than the one that the target was made from.

    Raises:
        ValueError: if the target holds files that no export wrote, or an export with other settings or of another
            source.
    """
    unfinished = PartsFile.find(target, PLAN)
    for earlier, verb in ((unfinished.head if unfinished else None, "is being"), (head_of(target), "was")):
        if earlier is not None:
            _refuse_other(target, earlier, head, verb, moved)
            head = replace(head, classes=earlier.classes)
            break
    else:
        _refuse_foreign(target)
    base = _base(target, unfinished)
    with Index(source.units()) as units, Index() as taken:
        # Classes that are in the target keep their numbers.
        classes = (*head.classes, *(name for name in source.classes if name not in head.classes))
        head = replace(head, classes=classes, base="" if base is None else base.sha256)
        planning = _Planning(source, target, head, ending, size, units, Names(taken))
        earlier_parts = planning.earlier(base, unfinished)
        again = (part for part, is_sound in earlier_parts if not is_sound)
        parts = chain(again, planning.new())
        first = next(parts, None)
        nothing_new = first is None and unfinished is None
        if nothing_new and base is not None and base.head.source == head.source and is_sound(target, base):
            return None
        if unfinished is None:
            for name in (f"{STATE}/parts", PLAN, BASE_PARTS, BASE_MANIFEST):
                target.remove(name)  # left over from a run that was stopped at its end
            if base is not None:
                _copy(target, PARTS, BASE_PARTS)
                _copy(target, MANIFEST, BASE_MANIFEST)
        write_parts(target, PLAN, head, chain([] if first is None else [first], parts))
    return _todo(target, PartsFile(target, PLAN))


def _todo(target: Store, plan: PartsFile) -> Todo:
    numbers, count, total = array("q"), 0, 0
    with Index(Store(f"{target.url.rstrip('/')}/{STATE}/parts").files()) as records:
        for part, is_done in in_order(partial(_is_done, target, records), plan.planned(), _THREADS):
            total += len(part.units)
            if not is_done:
                numbers.append(part.number)
                count += len(part.units)
    return Todo(plan, numbers, count, total)


def _base(target: Store, unfinished: PartsFile | None) -> PartsFile | None:
    """The parts that were finished before, if their file is sound."""
    if unfinished is None:
        return PartsFile.find(target, PARTS)
    base = PartsFile.find(target, BASE_PARTS) if unfinished.head.base else None
    return base if base is not None and base.sha256 == unfinished.head.base else None


def _copy(target: Store, name: str, to: str) -> None:
    """Copy a file of the bookkeeping; if it is gone, write an empty one: its parts are then done again."""
    with target.writing(to, bookkeeping=True) as stream:
        try:
            source = target.open(name)
        except (FileNotFoundError, NotAFileError):
            return
        with source:
            copy_stream(source, stream)


@dataclass
class _Planning:
    """Compares earlier parts with the source and the target as they are now, and makes new parts.

    Attributes:
        units: of the source, with their stamps; those that belong to an earlier part are taken out.
        names: that are taken in the target.
        number: of the next new part.
        agree: how many items of a Dataset are as they were.
        differ: how many are not.
    """

    source: Source
    target: Store
    head: Head
    ending: str
    size: int
    units: Index
    names: Names
    number: int = 0
    agree: int = 0
    differ: int = 0

    @property
    def shards(self) -> bool:
        return bool(self.head.settings["shards"])

    def earlier(self, base: PartsFile | None, unfinished: PartsFile | None) -> Iterator[tuple[Part, bool]]:
        """Yield the parts of earlier runs, with the stamps that their units have now, and whether they are sound.

        Raises:
            ValueError: at the end, if no item that was compared by its content is as it was.
        """
        planned = iter(()) if unfinished is None else unfinished.planned()
        finished = iter(()) if base is None else self._finished(base, unfinished is not None)
        part, done = next(planned, None), next(finished, None)
        while part is not None or done is not None:
            if part is not None and (done is None or part.number <= done[0].number):
                if done is not None and done[0].number == part.number:
                    done = next(finished, None)
                yield self._current(part)[0], False
                part = next(planned, None)
            elif done is not None:
                current, changed = self._current(done[0], done[1].again)
                yield current, done[2] and not changed
                done = next(finished, None)
        if self.differ and not self.agree:
            raise ValueError(
                f"source: of {self.differ} images that were compared none is the one that {self.target.url} was made "
                "from; choose another folder, and leave random transforms out of the Dataset"
            )

    def _finished(self, base: PartsFile, resumed: bool) -> Iterator[tuple[Part, Done, bool]]:
        """The parts of a finished export, and whether the target has their files."""
        name = BASE_MANIFEST if resumed else MANIFEST
        for done, lines, sound in in_order(self._audited, parted(self.target, name, base), _THREADS):
            if sound:
                agree, differ = self.source.compare([json.loads(line) for line in lines])
                self.agree, self.differ, sound = self.agree + agree, self.differ + differ, not differ
            yield done.part, done, sound

    def _audited(self, pair: tuple[Done, list[bytes]]) -> tuple[Done, list[bytes], bool]:
        done, lines = pair
        return done, lines, is_whole(done, lines) and is_there(self.target, lines, done)

    def _current(self, part: Part, again: Sequence[str] = ()) -> tuple[Part, bool]:
        """A part with the stamps that its units have now, and whether one changed, or one to try again is there."""
        self.number = max(self.number, part.number + 1)
        units, changed = [], False
        for unit in part.units:
            self.source.reserve(unit, self.names, self.ending, self.shards)
            stamp = self.units.pop(unit.name)
            if stamp is None and unit.stamp == DENIED and unit.name.endswith("/*"):
                changed = True  # the folder may be listed now, or is gone
                continue
            if stamp is not None:
                changed = changed or stamp != unit.stamp or unit.name in again
            units.append(unit if stamp is None else unit._replace(stamp=stamp))
        return Part(part.number, tuple(units)), changed

    def new(self) -> Iterator[Part]:
        """Yield parts of the units that are in no part yet."""
        named = self._numbered() if self.source.numbered else self._named()
        size = 1 if self.source.whole else self.size
        while units := tuple(islice(named, size)):
            yield Part(self.number, units)
            self.number += 1

    def _numbered(self) -> Iterator[Unit]:
        for name, stamp in self.units.by_number():
            yield Unit(name, self.source.assign(name, self.names, self.ending, self.shards), stamp)

    def _named(self) -> Iterator[Unit]:
        """Units with their names in the target: folders keep theirs, then images choose, then other files."""
        if not self.source.whole:
            for name, _ in self.units:
                self.names.keep_folder(proper(name))
        with Index() as stems:
            for is_image in (True, False):
                for name, _ in self.units:
                    if self.source.is_image(name) == is_image:
                        stems.add(name, self.source.assign(name, self.names, self.ending, self.shards))
            for name, stamp in self.units:
                yield Unit(name, stems.get(name) or "", stamp)


def _refuse_foreign(target: Store) -> None:
    """Raise if a target without any bookkeeping holds files."""
    if any(target.exists(name) for name in (MANIFEST, PARTS, SUMMARY, f"{STATE}/parts", PLAN)):
        return
    foreign = next((name for name, _ in target.files() if not is_bookkeeping(name)), None)
    if foreign is not None:
        raise ValueError(
            f"target: {target.url} holds files that no export wrote, such as {foreign}; choose an empty folder"
        )


def _refuse_other(target: Store, earlier: Head, head: Head, verb: str, moved: bool) -> None:
    """Raise if a target has other settings, or was made from another source."""
    names = [n for n in {**earlier.settings, **head.settings} if earlier.settings.get(n) != head.settings.get(n)]
    differences = [f"{n}: {earlier.settings.get(n)!r}, now {head.settings.get(n)!r}" for n in names]
    if differences:
        raise ValueError(
            f"target: {target.url} {verb} made with other settings ({'; '.join(differences)}); choose another folder"
        )
    if earlier.source != head.source and not moved:
        raise ValueError(
            f"target: {target.url} {verb} made from another source ({earlier.source}, now {head.source}); choose "
            "another folder, or take moved=True if it is the same one in another place"
        )


def is_there(target: Store, lines: Iterable[bytes], done: Done) -> bool:
    """Whether the target has the files of lines of the manifest, by their hashes."""
    try:
        parsed: list[dict[str, Any]] = [json.loads(line) for line in lines]
        for line in parsed:
            if line.get("kind") not in UNWRITTEN:
                check_line(line)
    except ValueError:
        return False
    if done.shard is not None:
        name, size, digest = done.shard
        return next(check_shard(target, name, parsed, (size, digest), decode=False), None) is None
    return all(next(check_files(target, line, decode=False), None) is None for line in parsed)


def _is_done(target: Store, records: Index, part: Part) -> tuple[Part, bool]:
    """Whether a part has a record, and its files are there; behind a URL the record is trusted."""
    record = read_record(target, part) if part.record.rpartition("/")[2] in records else None
    return part, record is not None and (target.local is None or is_there(target, *record))
