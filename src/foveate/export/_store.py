"""A folder, here or behind a URL that fsspec knows, whose files are whole or not there."""

import errno
import io
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast
from urllib.parse import quote, unquote

STATE = ".foveate"
"""The subfolder of a target with what an unfinished run needs; gone when it is finished."""
MANIFEST = "foveate-manifest.jsonl"
SUMMARY = "foveate-summary.json"
LOCK = ".foveate.lock"

_OBJECTS = frozenset(("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "hf", "oss", "memory"))
"""Kinds of URLs where an object appears when all of it is there; on others a file is renamed when it is whole."""


def own(name: str) -> bool:
    """Whether a name in a target is of Foveate's own bookkeeping."""
    return name in (MANIFEST, SUMMARY, LOCK) or name.partition("/")[0] == STATE


class Store:
    """Files below a root, by their paths from it with ``/``.

    Args:
        url: a path, or a URL such as ``s3://bucket/folder``, for which fsspec's driver must be installed; credentials
            are what the driver finds in its own configuration.

    Raises:
        ValueError: if fsspec knows no such kind of URL.
        ImportError: if its driver is not installed.
    """

    def __init__(self, url: str | Path) -> None:
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        self.url = str(url)
        self._fs: Any
        self._fs, root = url_to_fs(self.url)
        self.root: str = root.rstrip("/") or "/"
        self.local = Path(root) if isinstance(self._fs, LocalFileSystem) else None
        kinds = {self._fs.protocol} if isinstance(self._fs.protocol, str) else set(self._fs.protocol)
        self._objects, self._web = bool(kinds & _OBJECTS), "http" in kinds

    def names(self) -> Iterator[str]:
        """Yield the files' names, sorted, links to folders followed; none where there is no such folder."""
        if self.local is None:
            with self._asking():
                paths = [path.removeprefix(self.root).lstrip("/") for path in self._fs.find(self.root)]
            if self._web:  # where a listing's own links, to other orders of it, are taken for files
                paths = [unquote(path) for path in paths if "?" not in path]
            yield from sorted(filter(None, paths))
            return
        found = []
        for folder, folders, files in os.walk(self.local, onerror=_raise, followlinks=True):
            folders[:] = [name for name in folders if not _leads_back(os.path.join(folder, name))]
            below = Path(folder).relative_to(self.local)
            found += [(below / file).as_posix() for file in files]
        yield from sorted(found)

    def path(self, name: str) -> str:
        return f"{self.root}/{quote(name) if self._web else name}" if name else self.root

    def exists(self, name: str = "") -> bool:
        with self._asking():
            return bool(self._fs.exists(self.path(name)))

    def is_file(self) -> bool:
        """Whether the root itself is a file."""
        with self._asking():
            return bool(self._fs.isfile(self.root))

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading.

        Raises:
            FileNotFoundError: if it is not there.
            OSError: if the driver fails, now or later, whatever it calls that itself.
        """
        if self.local is not None:
            return (self.local / name).open("rb")
        with self._asking():
            return cast(IO[bytes], io.BufferedReader(_Reader(self, self._fs.open(self.path(name), "rb")), 1 << 20))

    def read(self, name: str) -> bytes:
        """Return what is in a file; raises as :meth:`open` does."""
        if self.local is not None:
            return (self.local / name).read_bytes()
        with self._asking():
            data: bytes = self._fs.cat_file(self.path(name))
            return data

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """Give a stream to write to; the file appears, whole, when the block ends, and not at all if it fails."""
        if self.local is None:
            with tempfile.NamedTemporaryFile() as stream:
                yield stream
                stream.flush()
                self._put(name, lambda path: self._fs.put_file(stream.name, path))
            return
        partial = self.local / STATE / "tmp" / uuid.uuid4().hex
        path = self.local / name
        try:
            with _made(partial) as stream:
                yield stream
            try:
                os.replace(partial, path)
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True)
                os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def write(self, name: str, data: bytes) -> None:
        """Write a file at once or not at all."""
        if self.local is None:
            self._put(name, lambda path: self._fs.pipe_file(path, data))
            return
        with self.writing(name) as stream:
            stream.write(data)

    def remove(self, name: str) -> None:
        """Remove a file or a folder, if it is there."""
        if self.exists(name):
            with self._asking():
                self._fs.rm(self.path(name), recursive=True)

    def _put(self, name: str, put: Callable[[str], object]) -> None:
        """Let a driver put a file where it is seen only when it is whole."""
        path = self.path(name)
        with self._asking():
            if self._objects:
                put(path)
                return
            partial = self.path(f"{STATE}/tmp/{uuid.uuid4().hex}")
            try:
                self._fs.makedirs(str(PurePosixPath(partial).parent), exist_ok=True)
                put(partial)
                self._fs.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
                self._fs.mv(partial, path)
            except BaseException:
                if self._fs.exists(partial):
                    self._fs.rm_file(partial)
                raise

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Ask the driver and not what it remembers; make what it raises an OSError with a number, as a disk's are."""
        if self.local is None:
            self._fs.invalidate_cache()
        try:
            yield
        except Exception as error:
            if isinstance(error, OSError) and (error.errno is not None or isinstance(error, FileNotFoundError)):
                raise
            raise OSError(errno.EIO, f"{type(error).__name__}: {error}", self.url) from error


class _Reader(io.RawIOBase):
    """A driver's stream that fails as the store does."""

    def __init__(self, store: Store, stream: IO[bytes]) -> None:
        self._store, self._stream = store, stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._store._asking():
            data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # gone meanwhile, or not there yet
        raise error


def _leads_back(folder: str) -> bool:
    """Whether a folder is a link to one that it lies in."""
    return os.path.islink(folder) and f"{os.path.realpath(os.path.dirname(folder))}/".startswith(
        f"{os.path.realpath(folder)}/"
    )


def _made(path: Path) -> IO[bytes]:
    try:
        return path.open("xb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("xb")
