"""Checking a finished export against its manifest."""

import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from foveate._checks import check_count
from foveate._progress import Listener, Progress
from foveate.export._check import Problem, check_files, check_line, check_shard, in_order, puts
from foveate.export._index import Index
from foveate.export._layout import LOCK, MANIFEST, PARTS, SUMMARY
from foveate.export._manifest import hash_of, read_summary
from foveate.export._packed import TornError, opened
from foveate.export._plan import PLAN, PartsFile
from foveate.export._store import Store

Line = dict[str, Any]


def verify(
    target: str | Path,
    *,
    threads: int = 4,
    root: str | None = None,
    progress: Listener | None = None,
) -> list[Problem]:
    """Check every file of a target against the manifest, byte for byte, and decode every image that was compressed.

    The manifest is checked against its hash in the summary, and the summary against its ``root``. Whoever can write to
    the target can replace all of them: keep the ``root`` of the export elsewhere, and pass it here.

    Args:
        target: a folder or a URL with a finished export.
        threads: files that are read and decoded at once.
        root: :attr:`Summary.root` of the export when it was finished.
        progress: called with a :class:`foveate.Progress` of the stage ``"verify"``, whose steps are the lines of the
            manifest that have a file.

    Returns:
        What is wrong: files that are missing, changed, of a wrong size, cannot be decoded, are not regular files, or do
        not belong to this export; members of shards that are not the ones, or not in the order, that were written; a
        manifest, a summary or a file of parts that is not as it was written. An empty list if nothing is wrong. The
        same export again repairs what it can.

    Raises:
        ValueError: if the target has no manifest, or ``threads`` is not an integer of at least 1.

    Example:
        >>> import tempfile
        >>> from foveate import Compressor
        >>> from foveate.demo import Scenes
        >>> from foveate.export import compress_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = compress_dataset(Scenes(2), folder, Compressor("jpeg:30"), workers=0)
        ...     sound = verify(folder)
        ...     _ = (Path(folder) / "00000001.jpg").write_bytes(b"")
        ...     broken = verify(folder)
        >>> sound, [problem.name for problem in broken]
        ([], ['00000001.jpg'])
    """
    threads = check_count("threads", threads)
    store = Store(target)
    _check_finished(store)
    steps = _Steps(None if progress is None else _count(store), progress)
    with Index() as written, Index() as shards:
        problems = list(_bookkeeping(store, shards, root))
        check = partial(_checked, store, shards, steps.add)
        for results in in_order(check, _units(store, written, problems), threads, waiting=steps.report):
            steps.report()
            problems += results
        problems += _strangers(store, written)
    return problems


def count_files(target: str | Path) -> int:
    """Return how many lines of a target's manifest have a file, damaged or not.

    Raises:
        ValueError: if the target has no manifest.
    """
    store = Store(target)
    _check_finished(store)
    return _lines_with_files(store)


def _check_finished(store: Store) -> None:
    if not store.exists(MANIFEST):
        with suppress(FileNotFoundError, TornError):
            read_summary(store)  # which says so if another version wrote it
        raise ValueError(f"target: {store.url} has no {MANIFEST}; is its export finished?")


def _lines_with_files(store: Store) -> int:
    count = 0
    with suppress(TornError), opened(store, MANIFEST) as stream:
        for line in stream:
            count += b'"target":' in line
    return count


def _count(store: Store) -> int | None:
    """How many lines of a manifest have a file; None if it cannot be read."""
    try:
        return _lines_with_files(store)
    except (OSError, ValueError):
        return None


class _Steps:
    """Counts lines that threads have checked, and reports them from the thread that asks for it."""

    def __init__(self, total: int | None, progress: Listener | None) -> None:
        self._total, self._progress = total, progress
        self._new: deque[None] = deque()  # whose methods are atomic
        self._done = 0

    def add(self) -> None:
        self._new.append(None)

    def report(self) -> None:
        while self._new:
            self._new.popleft()
            self._done += 1
            if self._progress is not None:
                self._progress(Progress("verify", self._done, self._total, unit="file"))


def _bookkeeping(store: Store, shards: Index, root: str | None) -> Iterator[Problem]:
    """Check the summary and the parts; note the bytes and SHA-256 of shards."""
    about: Line = {}
    try:
        about = read_summary(store)
    except FileNotFoundError:
        yield Problem(SUMMARY, "is missing")
    except Exception as error:  # the file may hold anything
        yield Problem(SUMMARY, f"is damaged: {error}")
    if root is not None and about.get("root") != root:
        yield Problem(SUMMARY, f"has the root {about.get('root')}, and not {root}")
    try:
        parts = PartsFile(store, PARTS)
        for done in parts.done():
            if done.shard is not None:
                shards.add(done.shard[0], json.dumps(done.shard[1:]))
    except FileNotFoundError:
        yield Problem(PARTS, "is missing")
    except Exception as error:
        yield Problem(PARTS, f"is damaged: {error}")
    else:
        head = (parts.sha256, parts.head.settings, parts.head.source, list(parts.head.classes))
        if about and head != tuple(about[name] for name in ("parts_sha256", "settings", "source", "classes")):
            yield Problem(PARTS, f"does not belong to {SUMMARY}")
    if store.exists(PLAN):
        yield Problem(PLAN, "belongs to an unfinished run; the same export again finishes it")
    try:
        digest = hash_of(store, MANIFEST)
    except (OSError, ValueError) as error:
        yield Problem(MANIFEST, f"cannot be read: {error}")
    else:
        if about and digest != about["manifest_sha256"]:
            yield Problem(MANIFEST, f"is not as it was written: its SHA-256 is {digest}")


def _lines(store: Store, problems: list[Problem]) -> Iterator[Line]:
    """Yield the lines of the manifest that have files, and note those that are damaged."""
    try:
        with opened(store, MANIFEST) as stream:
            for number, raw in enumerate(stream, 1):
                try:
                    line = json.loads(raw)
                    check_line(line)
                except (ValueError, RecursionError) as error:
                    problems.append(Problem(MANIFEST, f"line {number} {error}"))
                    continue
                if "target" in line:
                    yield line
    except (OSError, ValueError) as error:
        problems.append(Problem(MANIFEST, f"cannot be read: {error}"))


def _units(store: Store, written: Index, problems: list[Problem]) -> Iterator[list[Line]]:
    """Yield what can be checked alone: the line of a file, or all lines of a shard."""
    for shard, group in groupby(_lines(store, problems), lambda line: line["target"] if "member" in line else None):
        if shard is None:
            for line in group:
                for put in puts(line):
                    if not written.add(put["target"]):
                        problems.append(Problem(put["target"], "is in the manifest twice"))
                yield [line]
        else:
            if not written.add(shard):
                problems.append(Problem(shard, "has lines in two places of the manifest"))
            yield list(group)


def _checked(store: Store, shards: Index, step: Callable[[], object], lines: list[Line]) -> list[Problem]:
    first = lines[0]
    try:
        if "member" not in first:
            return list(check_files(store, first, decode=True))
        whole = shards.get(first["target"])
        expected = None if whole is None else tuple(json.loads(whole))
        return list(check_shard(store, first["target"], lines, expected, True, step))
    except Exception as error:  # the other files are checked all the same
        return [Problem(first["target"], f"cannot be checked: {type(error).__name__}: {error}")]
    finally:
        if "member" not in first:
            step()


def _strangers(store: Store, written: Index) -> Iterator[Problem]:
    """Files in the target that do not belong to the export."""
    bookkeeping = {MANIFEST, PARTS, SUMMARY, LOCK, PLAN}
    try:
        for name, _ in store.files(links=False):
            if name not in written and name not in bookkeeping:
                yield Problem(name, "does not belong to this export")
    except (OSError, ValueError) as error:
        yield Problem(store.url, f"cannot be listed: {error}")
