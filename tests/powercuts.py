"""What a power cut leaves of a folder: simulated from a record of what a run did to it, and on a real file system.

A disk owes nothing but what was synced. Of a file that is its content at its last fsync; of a folder, its names at its
last fsync. What came later may be there or not, each file and each folder for itself, and of a file a part of it.
"""

import functools
import gc
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from exporting import snapshot

from foveate.export import verify
from foveate.export._manifest import parted
from foveate.export._plan import PartsFile
from foveate.export._store import MANIFEST, PARTS, STATE, Store

Files = dict[str, bytes | None]
"""What a folder holds: the bytes of each file by its path, None for a folder."""


class Killed(BaseException):
    """The process is dead: it does nothing more."""


@dataclass
class _Node:
    """A file or a folder, and all that it ever held, each with the moment from which on.

    What a folder holds are the numbers of nodes by their names.
    """

    folder: bool
    path: str = ""
    held: list[tuple[int, Any]] = field(default_factory=list)
    synced: list[int] = field(default_factory=list)

    def at(self, moment: int) -> Any:
        """What was in it at a moment."""
        return next((held for since, held in reversed(self.held) if since <= moment), {} if self.folder else b"")

    def last_sync(self, moment: int) -> int:
        return next((at for at in reversed(self.synced) if at <= moment), -1)


class Disk:
    """Records what this process does below a folder, one operation after another.

    Whatever makes, renames or removes something is intercepted, and the folder is looked through before and after it;
    so no way to write files goes unseen.

    Attributes:
        moments: how many moments there were: a power cut may come after each of them.
        reports: what was reported, with the moments at which it was.
        deaf: says of a path below the root whether its syncs are ignored, as if the code had forgotten them.
        life: operations until the process dies; None lets it live.
    """

    def __init__(self, root: Path, deaf: Callable[[str], bool] = lambda path: False) -> None:
        self.root, self.deaf = root, deaf
        self.moments = 0
        self.life: int | None = None
        self.reports: list[tuple[int, int]] = []
        self._nodes = [_Node(True)]
        self._numbers = {root.stat().st_ino: 0}
        self._stats: dict[int, tuple[int, int]] = {}
        self._look()
        for node in self._nodes:  # what is there already has been there for long
            node.synced.append(0)
        self.moments = 1

    def report(self, number: int) -> None:
        """Note that a part was reported done, which the process says to the world at this moment."""
        self.reports.append((self.moments - 1, number))

    def reported(self, moment: int) -> set[int]:
        return {number for at, number in self.reports if at <= moment}

    @contextmanager
    def recording(self, monkeypatch: Any) -> Iterator[None]:
        """Intercept what is done in the block; a process that dies in it is gone when it ends."""
        with monkeypatch.context() as patch:
            for name in ("replace", "rename", "unlink", "remove", "mkdir", "rmdir"):
                patch.setattr(os, name, functools.partial(self._done, getattr(os, name)))
            patch.setattr(os, "fsync", self._fsync)
            patch.setattr(shutil, "rmtree", _remove_tree)
            try:
                yield
            except Killed:
                pass
            finally:
                self._look()
        gc.collect()  # the lock goes with what the dead process held

    def _done(self, function: Callable[..., Any], *args: Any, **how: Any) -> Any:
        self._live()
        try:
            return function(*args, **how)
        finally:
            self._look()

    def _fsync(self, descriptor: int) -> None:
        self._live()
        number = self._numbers.get(os.fstat(descriptor).st_ino)
        if number is not None and not self.deaf(self._nodes[number].path):
            self._nodes[number].synced.append(self.moments)
            self.moments += 1

    def _live(self) -> None:
        self._look()
        if self.life is not None:
            self.life -= 1
            if self.life < 0:
                raise Killed

    def _look(self) -> None:
        """Note what differs from what was there before."""
        seen: set[int] = set()
        if self._look_into(self.root, "", seen):
            self.moments += 1
        for inode in self._numbers.keys() - seen:  # so that a new file with the number of an old one is new
            del self._numbers[inode]
            self._stats.pop(inode, None)

    def _look_into(self, folder: Path, path: str, seen: set[int]) -> bool:
        inode = folder.stat().st_ino
        seen.add(inode)
        names, changed = {}, False
        with os.scandir(folder) as entries:
            for entry in entries:
                status, is_folder, below = entry.stat(), entry.is_dir(), f"{path}{entry.name}"
                if status.st_ino not in self._numbers:
                    self._numbers[status.st_ino] = len(self._nodes)
                    self._nodes.append(_Node(is_folder))
                number = names[entry.name] = self._numbers[status.st_ino]
                self._nodes[number].path = below
                if is_folder:
                    changed |= self._look_into(Path(entry.path), f"{below}/", seen)
                    continue
                seen.add(status.st_ino)
                if self._stats.get(status.st_ino) != (status.st_size, status.st_mtime_ns):
                    self._stats[status.st_ino] = (status.st_size, status.st_mtime_ns)
                    changed |= self._note(self._nodes[number], Path(entry.path).read_bytes())
        return self._note(self._nodes[self._numbers[inode]], names) or changed

    def _note(self, node: _Node, held: Any) -> bool:
        changed = node.at(self.moments) != held
        if changed:
            node.held.append((self.moments, held))
        return changed

    def left(self, moment: int, names: str, contents: str, generator: torch.Generator) -> Files:
        """Return what a power cut after a moment leaves.

        Args:
            moment: after which it comes.
            names: which of them survive: those that were ``"synced"``, ``"all"``, or in each folder those until some
                moment after its last sync, at ``"random"``.
            contents: which survive of a file that was not synced since it was written: ``"synced"`` leaves what was
                synced, mostly nothing, ``"cut"`` a part, ``"zeros"`` its length, ``"all"`` everything, and
                ``"random"`` one of them.
            generator: for what is random.
        """

        def draw(n: int) -> int:
            return int(torch.randint(n, (), generator=generator))

        def data(node: _Node) -> bytes:
            synced = node.last_sync(moment)
            now, before = node.at(moment), node.at(synced) if synced >= 0 else b""
            if now == before:
                return now
            how = contents if contents != "random" else ("synced", "cut", "zeros", "all")[draw(4)]
            return {"synced": before, "cut": now[: draw(len(now) + 1)], "zeros": bytes(len(now)), "all": now}[how]

        def entries(node: _Node) -> dict[str, int]:
            synced = node.last_sync(moment)
            if names == "random":
                return node.at(synced + draw(moment - synced + 1))
            return node.at(moment if names == "all" else synced)

        files: Files = {}

        def walk(node: _Node, above: str) -> None:
            for name, number in entries(node).items():
                below = self._nodes[number]
                files[above + name] = None if below.folder else data(below)
                if below.folder:
                    walk(below, f"{above}{name}/")

        walk(self._nodes[0], "")
        return files


def _remove_tree(path: str | Path) -> None:
    """As shutil.rmtree does, one operation after another, each of which can be seen."""
    for entry in os.scandir(path):
        if entry.is_dir(follow_symlinks=False):
            _remove_tree(entry.path)
        else:
            os.unlink(entry.path)
    os.rmdir(path)


def lay_out(files: Files, root: Path) -> None:
    """Write files and folders below a folder, which is made."""
    root.mkdir(parents=True)
    for name, data in files.items():
        path = root / name
        if data is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


class Whole:
    """A finished export that nothing disturbed, to which others are compared."""

    def __init__(self, target: Path) -> None:
        self.files = snapshot(target)
        store = Store(target)
        self.units: dict[int, int] = {}
        self._names: dict[int, set[str]] = {}
        for done, lines in parted(store, MANIFEST, PartsFile(store, PARTS)):
            told = [json.loads(line) for line in lines]
            self.units[done.part.number] = len(done.part.units)
            puts = (put for line in told for put in (line, *line.get("sidecars", ())))
            self._names[done.part.number] = {put["target"] for put in puts}

    def lost(self, files: Files, parts: set[int]) -> set[str]:
        """Return the files of parts that are not there as they should be."""
        names = {name for part in parts for name in self._names[part]}
        return {name for name in names if files.get(name) != self.files[name]}

    def differs(self, target: Path) -> str:
        """Say how another export differs from this one, or is not in order; nothing if it is the same."""
        files = snapshot(target)
        names = sorted(name for name in files.keys() | self.files.keys() if files.get(name) != self.files.get(name))
        problems = verify(target)
        unfinished = (target / STATE).exists()
        return f"{names} differ, {problems}, unfinished: {unfinished}" if names or problems or unfinished else ""
