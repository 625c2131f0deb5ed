"""A folder, here or behind a URL that fsspec knows, whose files are whole or not there."""

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

STATE = ".foveate"
"""The subfolder of a target with what an unfinished run needs; gone when it is finished."""
MANIFEST = "foveate-manifest.jsonl"
SUMMARY = "foveate-summary.json"
LOCK = ".foveate.lock"


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

    def names(self) -> Iterator[str]:
        """Yield the files' names, sorted, links to folders followed; none where there is no such folder."""
        if self.local is None:
            for path in sorted(self._fs.find(self.root)):
                yield path.removeprefix(self.root).lstrip("/")
            return
        found = []
        for folder, folders, files in os.walk(self.local, onerror=_raise, followlinks=True):
            folders[:] = [name for name in folders if not _leads_back(os.path.join(folder, name))]
            below = Path(folder).relative_to(self.local)
            found += [(below / file).as_posix() for file in files]
        yield from sorted(found)

    def path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    def exists(self, name: str = "") -> bool:
        return bool(self._fs.exists(self.path(name)))

    def is_file(self) -> bool:
        """Whether the root itself is a file."""
        return bool(self._fs.isfile(self.root))

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading.

        Raises:
            FileNotFoundError: if it is not there.
        """
        if self.local is not None:
            return (self.local / name).open("rb")
        stream: IO[bytes] = self._fs.open(self.path(name))
        return stream

    def read(self, name: str) -> bytes:
        with self.open(name) as stream:
            return stream.read()

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """Give a stream to write to; the file appears, whole, when the block ends, and not at all if it fails."""
        if self.local is None:
            with tempfile.NamedTemporaryFile() as stream:
                yield stream
                stream.flush()
                self._fs.put_file(stream.name, self.path(name))  # an object store takes an object whole
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
            self._fs.pipe_file(self.path(name), data)
            return
        with self.writing(name) as stream:
            stream.write(data)

    def remove(self, name: str) -> None:
        """Remove a file or a folder, if it is there."""
        if self.exists(name):
            self._fs.rm(self.path(name), recursive=True)


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
