"""What a power cut leaves of a folder: simulated from a record of what a run did to it, and on a real file system.

A disk owes nothing but what was synced. Of a file that is its content at its last fsync; of a folder, its names at its
last fsync. What came later may be there or not, each file and each folder for itself, and of a file a part of it.

A real file system is in a file, mounted: what its kernel has not written to that file yet is what a power cut takes. A
disk that keeps what it took but was not told to flush is assumed; that ext4 tells disks so is not ours to test.
"""

import functools
import gc
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from exporting import snapshot

from foveate.export import _local, verify
from foveate.export._layout import MANIFEST, PARTS, STATE
from foveate.export._manifest import parted
from foveate.export._plan import PartsFile
from foveate.export._store import Store
from foveate.export._work import Report

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
    versions: list[tuple[int, Any]] = field(default_factory=list)
    synced: list[int] = field(default_factory=list)

    def at(self, moment: int) -> Any:
        """What was in it at a moment."""
        return next(
            (content for since, content in reversed(self.versions) if since <= moment), {} if self.folder else b""
        )

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
        operations: what was done, by the name of the function.
        life: operations until the process dies; None lets it live.
    """

    def __init__(self, root: Path, deaf: Callable[[str], bool] = lambda path: False) -> None:
        self.root, self.deaf = root, deaf
        self.moments = 0
        self.operations: list[str] = []
        self.life: int | None = None
        self.reports: list[tuple[int, int]] = []
        self._nodes = [_Node(True)]
        self._numbers = {root.stat().st_ino: 0}
        self._stats: dict[int, tuple[int, int]] = {}
        self._one_at_a_time = threading.Lock()
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

    def _done(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self._one_at_a_time:
            self._live(function.__name__)
            try:
                return function(*args, **kwargs)
            finally:
                self._look()

    def _fsync(self, descriptor: int) -> None:
        with self._one_at_a_time:
            self._live("fsync")
            number = self._numbers.get(os.fstat(descriptor).st_ino)
            if number is not None and not self.deaf(self._nodes[number].path):
                self._nodes[number].synced.append(self.moments)
                self.moments += 1

    def _live(self, operation: str) -> None:
        self._look()
        self.operations.append(operation)
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

    def _note(self, node: _Node, content: Any) -> bool:
        changed = node.at(self.moments) != content
        if changed:
            node.versions.append((self.moments, content))
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
            choice = contents if contents != "random" else ("synced", "cut", "zeros", "all")[draw(4)]
            return {"synced": before, "cut": now[: draw(len(now) + 1)], "zeros": bytes(len(now)), "all": now}[choice]

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


class Images:
    """Files with an ext4 file system in each, mounted below a folder; closing this unmounts them.

    Raises:
        OSError: if this machine does not let us mount them.
    """

    OPTIONS = "loop,commit=1,noauto_da_alloc"
    """Names go to the disk every second, and no file's bytes go with its new name: all that ext4 is allowed to do."""

    def __init__(self, folder: Path, megabytes: int = 24) -> None:
        self._folder, self._mounted = folder, list[Path]()
        folder.mkdir()
        self.empty = folder / "empty.img"
        with self.empty.open("wb") as file:
            file.truncate(megabytes << 20)
        try:
            now = "lazy_itable_init=0,lazy_journal_init=0"  # nothing is left for the kernel to write later
            _command("mkfs.ext4", "-q", "-E", now, self.empty)
            self.unmount(self.mount(self.empty))
        except BaseException:
            self.close()
            raise

    def mount(self, image: Path) -> Path:
        """Mount an image; return the folder."""
        folder = image.with_suffix("")
        folder.mkdir(exist_ok=True)
        _command("mount", "-t", "ext4", "-o", self.OPTIONS, image, folder)
        self._mounted.append(folder)
        return folder

    def unmount(self, folder: Path) -> None:
        _command("umount", folder)
        self._mounted.remove(folder)

    def copy(self, image: Path, name: str) -> Path:
        """Return a copy of an image, as it was at one moment: it is read until it is twice the same."""
        before, now = b"", image.read_bytes()
        while before != now:
            before, now = now, image.read_bytes()
        copy = self._folder / f"{name}.img"
        copy.write_bytes(now)
        return copy

    def close(self) -> None:
        for folder in reversed(self._mounted):
            subprocess.run(["umount", "--lazy", folder], check=False)
        self._mounted.clear()


def _command(*words: str | Path) -> None:
    result = subprocess.run([*words], capture_output=True, text=True, check=False)
    if result.returncode:
        raise OSError(f"{words[0]}: {result.stderr.strip()}")


class Running:
    """An export in a process of its own, which can be stopped in its tracks.

    Args:
        export: does it; takes a function that is to be called with the number of each part that is reported done.
        syncs: whether it may sync.
    """

    _context = multiprocessing.get_context("forkserver")  # the package is imported once for all of them
    _context.set_forkserver_preload(["foveate.export"])

    def __init__(self, export: Callable[[Callable[[int], object]], object], syncs: bool = True) -> None:
        self._ours, theirs = self._context.Pipe(duplex=False)
        self._process = self._context.Process(target=_reporting, args=(theirs, export, syncs))
        self.reported: set[int] = set()
        self.returned = False
        self._process.start()
        theirs.close()

    def wait(self, parts: float) -> None:
        """Wait until so many parts were reported done, or the process has ended, as it should."""
        while len(self.reported) < parts and not self.returned:
            self._hear(None)
        if self.returned:
            self._process.join()
            assert self._process.exitcode == 0

    def stop(self) -> None:
        """Stop it, and hear what it reported before."""
        if self._process.is_alive():
            os.kill(self._process.pid, signal.SIGSTOP)
            while _runs(self._process.pid):
                time.sleep(0.001)
        while self._hear(0):
            pass

    def _hear(self, timeout: float | None) -> bool:
        """Take a report; return whether there was one."""
        if self.returned or not self._ours.poll(timeout):
            return False
        number = self._ours.recv()
        if number is None:
            self.returned = True
        else:
            self.reported.add(number)
        return True

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._ours.close()


def _runs(pid: int) -> bool:
    """Whether a process is neither stopped nor dead; one that has gone in the meantime has no file, or none to read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "TZ"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _reporting(connection: Any, export: Callable[[Callable[[int], object]], object], syncs: bool) -> None:
    """Export, and send the numbers of parts that are reported done, and None at the end."""
    if not syncs:
        os.fsync = lambda descriptor: None

    export(connection.send)
    connection.send(None)


@contextmanager
def observed(report: Callable[[int], object]) -> Iterator[None]:
    """Call a function with the number of each part that is reported done in the block, on one machine."""
    run = _local.run

    def observing(*args: Any) -> Iterator[Any]:
        for outcome in run(*args):
            if isinstance(outcome, Report):
                report(outcome.number)
            yield outcome

    _local.run = observing
    try:
        yield
    finally:
        _local.run = run


class Whole:
    """A finished export that nothing disturbed, to which others are compared."""

    def __init__(self, target: Path) -> None:
        self.files = snapshot(target)
        store = Store(target)
        self.units: dict[int, int] = {}
        self._names: dict[int, set[str]] = {}
        for done, lines in parted(store, MANIFEST, PartsFile(store, PARTS)):
            parsed = [json.loads(line) for line in lines]
            self.units[done.part.number] = len(done.part.units)
            puts = (put for line in parsed for put in (line, *line.get("sidecars", ())))
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
