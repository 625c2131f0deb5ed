"""Files that are whole or absent, even after a power cut."""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file at once or not at all: a killed run, a full disk or a power cut leaves the old one, or none.

    It is on the disk when this returns. Any number of processes and threads may write to one path: each has a partial
    file of its own, and the last to finish wins. One that is killed leaves its partial file, ``.*.partial``, which
    nothing reads.

    Raises:
        OSError: if it cannot be written; its ``filename`` is ``path``.
    """
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")  # as short for long names, which have at most 255 bytes
    try:
        with _naming(path):
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # else the name may reach the disk before the bytes
            partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, as :func:`write_bytes` does."""
    write_bytes(path, text.encode())


def make_folder(path: Path) -> None:
    """Make a folder and those above it, if they are missing, on the disk when this returns.

    Raises:
        OSError: if it cannot be made, or a file is in its place.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def begin_sync(descriptor: int) -> None:
    """Start to write a file's data to the disk, if the system can, so that :func:`sync` waits for less."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)  # Linux starts to write, and does not wait


def sync(path: Path) -> None:
    """Wait until the data of a file is on the disk.

    Raises:
        OSError: if the disk fails, or there is no such file; its ``filename`` is ``path``.
    """
    with _naming(path):
        _sync(os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY))  # as Windows demands


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk, if the platform and its file system can do that.

    Raises:
        OSError: if the disk fails, or there is no such folder; its ``filename`` is ``path``.
    """
    with _naming(path):
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except PermissionError:  # Windows cannot open folders
            return
        try:
            _sync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot sync folders
                raise


def _sync(descriptor: int) -> None:
    """Sync a file or folder that was opened for that, and close it."""
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file in errors of the system, as those of a full disk do not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def printable(text: str) -> str:
    r"""Return a text in one line that any UTF-8 stream takes, with unprintable characters as Python escapes them.

    Names of files may hold any bytes: newlines, and bytes that are not UTF-8.

    Example:
        >>> print(printable("cat\udcff\n.jpg"))
        cat\udcff\n.jpg
    """
    return "".join(c if c.isprintable() else c.encode("unicode-escape").decode() for c in text)
