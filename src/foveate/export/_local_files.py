"""Listing and opening local files, whatever lies in a folder: links in circles, FIFOs, folders that may not be read."""

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from foveate.export._stamps import DENIED, GONE, local_stamp

_VISITS = 1000
"""How often links may lead to one folder."""

_NOT_A_FILE = "is not a regular file, but a folder, a FIFO, a socket or a device"


class NotAFileError(ValueError):
    """A FIFO, a socket, a device or a folder, which cannot be read to an end."""


@dataclass
class Walk:
    """Lists a folder and those below it, but not one that it lies in, by whatever link.

    Args:
        url: of the folder, for error messages.
        follow: whether links to folders are followed; if not, every link is listed as if it were a file.
        check_link: called with the path and the name of each link that is followed; raises where it must not be.
    """

    url: str
    follow: bool
    check_link: Callable[[str, str], object]
    _visits: Counter[tuple[int, int]] = field(default_factory=Counter)

    def files(
        self, folder: str, prefix: str = "", parents: tuple[tuple[int, int], ...] = ()
    ) -> Iterator[tuple[str, str]]:
        """Yield the name and the stamp of each file.

        Args:
            folder: the path of the folder.
            prefix: of the names: empty, or the folder's name with a ``/``.
            parents: device and inode of the folders that it lies in.
        """
        try:
            status = os.stat(folder)
            identity = (status.st_dev, status.st_ino)
            if not stat.S_ISDIR(status.st_mode) or identity in parents:
                return
            entries = os.scandir(folder)
        except FileNotFoundError:  # removed meanwhile, or not there yet
            return
        except PermissionError:
            if not prefix:
                raise
            yield f"{prefix}*", DENIED
            return
        self._visits[identity] += 1
        if self._visits[identity] > _VISITS:  # two links in each of thirty folders to the next make a billion
            raise ValueError(f"{self.url}: links lead to the same folder again and again, as {prefix}; leave them out")
        with entries:
            for entry in entries:
                yield from self._entry(entry, prefix + entry.name, (*parents, identity))

    def _entry(
        self, entry: "os.DirEntry[str]", name: str, parents: tuple[tuple[int, int], ...]
    ) -> Iterator[tuple[str, str]]:
        if entry.is_symlink():
            if not self.follow:
                yield name, ""
                return
            if os.path.lexists(os.path.realpath(entry.path)):
                self.check_link(entry.path, name)
        try:
            if entry.is_dir():
                yield from self.files(entry.path, f"{name}/", parents)
                return
            status = entry.stat()
        except OSError as error:
            denied = isinstance(error, PermissionError)
            if not (denied or isinstance(error, FileNotFoundError) or error.errno == errno.ELOOP):
                raise
            yield name, DENIED if denied else GONE
            return
        yield name, local_stamp(status.st_size, status.st_mtime_ns)


@contextmanager
def _circles_as_missing() -> Iterator[None]:
    """Treat a link in a circle as one that leads nowhere."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise FileNotFoundError(errno.ENOENT, "A link in a circle", error.filename) from error


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file for reading, and nothing else: a FIFO would wait for a writer forever.

    Raises:
        FileNotFoundError: if it is not there.
        NotAFileError: if it is not a regular file.
    """
    try:
        with _circles_as_missing():
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        if error.errno not in (errno.ENXIO, errno.ENODEV):  # of a socket, or a device that is not there
            raise
        raise NotAFileError(_NOT_A_FILE) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotAFileError(_NOT_A_FILE)
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def regular_size(path: Path) -> int:
    """Return the bytes of a regular file; raises as :func:`open_regular` does."""
    with _circles_as_missing():
        status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise NotAFileError(_NOT_A_FILE)
    return status.st_size


def create(path: Path) -> IO[bytes]:
    """Create a file for writing, and the folders it lies in."""
    try:
        return path.open("xb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("xb")
