"""A folder, local or behind a URL that fsspec knows.

Its files appear whole or not at all, and survive a power cut once they are synced.
"""

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import quote

from foveate._extras import install_line
from foveate._files import begin_sync, make_folder, sync, sync_folder
from foveate.export._driver import Driver
from foveate.export._layout import STATE
from foveate.export._local_files import Walk, create, open_regular, regular_size
from foveate.export._names import check_inside, is_reserved
from foveate.export._stamps import GONE, remote_stamp
from foveate.export._web import WebListing

_SYNCS = 8
"""Files that are synced at once."""
_STAMPS = 16
"""Files whose stamps are fetched at once."""

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""The extras that bring the drivers of URLs."""

_OBJECT_STORES = frozenset(("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "hf", "oss", "memory"))
"""Kinds of URLs where an object appears when all of it is there; on others a file is renamed when it is whole."""


class Store:
    """Files below a root, by their paths from it with ``/``.

    Args:
        url: a path, or a URL such as ``s3://bucket/folder``, for which fsspec's driver must be installed; credentials
            are what the driver finds in its own configuration.
        follow_links: follow links that lead out of the folder; those within are always followed.

    Attributes:
        url: as it was given.
        root: the path that the driver knows the folder by.
        local: the folder, if it is on this machine; else None.

    Raises:
        ValueError: if fsspec knows no such kind of URL.
        ImportError: if its driver is not installed, with the line that installs it.
    """

    def __init__(self, url: str | Path, follow_links: bool = False) -> None:
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        self.url, self.follow_links = str(url), follow_links
        try:
            fs, root = url_to_fs(self.url)
        except ImportError as error:
            extra = _EXTRAS.get(self.url.partition("://")[0])
            cure = f"its driver is not installed; {install_line(extra)}" if extra else str(error)
            raise ImportError(f"{self.url}: {cure}") from error
        self._driver = Driver(fs, self.url)
        self.root: str = root.rstrip("/") or root[:1]
        self.local = Path(root) if isinstance(fs, LocalFileSystem) else None
        self._real = os.path.realpath(root) if self.local is not None else ""
        protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
        self._is_object_store, self._is_web = bool(protocols & _OBJECT_STORES), "http" in protocols

    @property
    def label(self) -> str:
        """A short text that differs between places without revealing where they are."""
        place = os.path.abspath(self.local) if self.local is not None else self.url.partition("?")[0].rstrip("/")
        return f"{PurePosixPath(place).name} {sha256(os.fsencode(place)).hexdigest()[:12]}".strip()

    @property
    def lists_stamps(self) -> bool:
        """Whether a listing has stamps."""
        return not self._is_web

    def files(self, links: bool = True) -> Iterator[tuple[str, str]]:
        """Yield the name of each file and a stamp that changes with it (empty where the driver has none).

        There are none if there is no such folder. A folder below that may not be listed is yielded as ``folder/*``,
        with the stamp ``DENIED``.

        Args:
            links: follow links to folders, but not in circles; if False any link is listed as if it were a file.

        Raises:
            ValueError: if a name leads out of the folder, or a link does and such are not to be followed.
        """
        if self.local is not None:
            yield from Walk(self.url, links, self._check_source_link).files(str(self.local))
        elif self._is_web:
            listing = WebListing(self.url, self.path, self._page, self._check_listed)
            yield from ((name, "") for name in listing.files())
        else:
            infos = self._driver.call(lambda: self._driver.fs.find(self.root, detail=True))
            for path, info in infos.items():
                name = path.removeprefix(self.path("x").removesuffix("x"))
                if name:
                    self._check_listed(name)
                    yield name, remote_stamp(info)

    def stamps(self, names: Iterable[str]) -> Iterator[str]:
        """Yield the stamps of files by a request for each, for listings without stamps, as on the web."""

        def stamp(name: str) -> str:
            try:
                return remote_stamp(self._driver.call(lambda: self._driver.fs.info(self.path(name))))
            except FileNotFoundError:
                return GONE

        with ThreadPoolExecutor(_STAMPS, "foveate-stamps") as pool:
            yield from pool.map(stamp, names)

    def path(self, name: str) -> str:
        """Return the path by which the driver knows a file."""
        if not name:
            return self.root
        name = quote(name, errors="surrogateescape") if self._is_web else name
        return f"{self.root}{'' if self.root in ('', '/') else '/'}{name}"

    def exists(self, name: str = "") -> bool:
        """Whether there is a file or a folder with a name, or a link, wherever it leads."""
        if self.local is not None:
            return os.path.lexists(self.local / name)
        return bool(self._driver.call(lambda: self._driver.fs.exists(self.path(name))))

    def is_link(self, name: str) -> bool:
        """Whether a file, or a folder that it lies in, is a link."""
        return self.local is not None and os.path.realpath(self.local / name) != os.path.join(self._real, name)

    def is_file(self) -> bool:
        """Whether the root itself is a file."""
        if self.local is not None:
            return self.local.is_file()
        return bool(self._driver.call(lambda: self._driver.fs.isfile(self.root)))

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading.

        Raises:
            FileNotFoundError: if it is not there.
            NotAFileError: if it is not a regular file.
            ValueError: if the name or a link leads out of the folder.
            OSError: if the driver fails, now or later, whatever it raises itself.
        """
        if self.local is not None:
            return open_regular(self._inside(name))
        self._check(name)
        return self._driver.open(self.path(name))

    def read(self, name: str) -> bytes:
        """Return the bytes of a file; raises as :meth:`open` does."""
        if self.local is not None:
            with self.open(name) as stream:
                return stream.read()
        self._check(name)
        data: bytes = self._driver.call(lambda: self._driver.fs.cat_file(self.path(name)))
        return data

    def size(self, name: str) -> int | None:
        """Return how many bytes a file has, or None if the driver does not know; raises as :meth:`open` does."""
        if self.local is not None:
            return regular_size(self._inside(name))
        self._check(name)
        size = self._driver.call(lambda: self._driver.fs.info(self.path(name))).get("size")
        return None if size is None else int(size)

    @contextmanager
    def writing(self, name: str, bookkeeping: bool = False) -> Iterator[IO[bytes]]:
        """Yield a stream to write to; the file appears, whole, when the block ends, and not at all if it fails.

        A file is on the disk once :meth:`sync` was called with it; one of the bookkeeping when the block ends. An
        object store answers when an object is safe, by its own rules.

        Raises:
            ValueError: if the name or a link leads out of the folder, or is kept for the bookkeeping.
        """
        self._check(name)
        if is_reserved(name) and not bookkeeping:
            raise ValueError(f"{self.url}: the name {name!r} is kept for the bookkeeping")
        if self.local is None:
            with tempfile.NamedTemporaryFile() as stream:
                yield stream
                stream.flush()
                self._put(name, lambda path: self._driver.fs.put_file(stream.name, path))
            return
        partial = self.local / STATE / "tmp" / uuid.uuid4().hex
        path = self._place(name)
        try:
            with create(partial) as stream:
                yield stream
                stream.flush()
                if bookkeeping:
                    os.fsync(stream.fileno())
                else:
                    begin_sync(stream.fileno())
            try:
                os.replace(partial, path)
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True)
                os.replace(partial, self._place(name))
            except IsADirectoryError:
                os.rmdir(path)  # only if it is empty: files in it are not ours to remove
                os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        if bookkeeping:
            self._sync_folders((name,))

    def write(self, name: str, data: bytes, bookkeeping: bool = False) -> None:
        """Write a file at once or not at all; see :meth:`writing`."""
        if self.local is None and (bookkeeping or not is_reserved(name)):
            self._check(name)
            self._put(name, lambda path: self._driver.fs.pipe_file(path, data))
            return
        with self.writing(name, bookkeeping) as stream:
            stream.write(data)

    def sync(self, names: Iterable[str]) -> None:
        """Return when files that were written, and the folders on the way to them, are on the disk."""
        if self.local is None:
            return
        names = list(names)
        with ThreadPoolExecutor(_SYNCS, "foveate-sync") as pool:  # the disk takes those that come together as one
            for _ in pool.map(sync, map(self._inside, names)):
                pass
        self._sync_folders(names)

    def remove(self, name: str) -> None:
        """Remove a file or a folder, if it is there, for good."""
        self._check(name)
        if self.local is not None:
            path = self._place(name)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif os.path.lexists(path):
                path.unlink()
            if path.parent.is_dir():  # also if it is gone: whoever removed it may have died before this
                sync_folder(path.parent)
        elif self.exists(name):
            self._driver.call(lambda: self._driver.fs.rm(self.path(name), recursive=True))

    def make(self) -> None:
        """Make a local folder if there is none, on the disk when this returns."""
        if self.local is not None:
            make_folder(self.local)
            sync_folder(self.local.parent)  # also if it is there: whoever made it may have died before this
            self._real = os.path.realpath(self.local)

    def _page(self, address: str) -> str:
        data: bytes = self._driver.call(lambda: self._driver.fs.cat_file(address))
        return data.decode("utf-8", "surrogateescape")

    def _check(self, name: str, subject: str = "the name") -> None:
        try:
            check_inside(name, drives=self.local is not None and os.name == "nt")
        except ValueError as error:
            raise ValueError(f"{self.url}: {subject} {error}; rename it or leave it out") from None

    def _check_listed(self, name: str) -> None:
        self._check(name, "it has a file whose name")

    def _inside(self, name: str) -> Path:
        """The path of a local file, which lies below the root, links resolved, unless they are to be followed."""
        assert self.local is not None
        self._check(name)
        path = self.local / name
        self._check_source_link(str(path), name)
        return path

    def _place(self, name: str) -> Path:
        """The path for a new local file, in a folder that lies below the root; a link there is replaced."""
        assert self.local is not None
        self._check(name)
        path = self.local / name
        self._check_link(str(path.parent), name)
        return path

    def _check_source_link(self, path: str, name: str) -> None:
        if not self.follow_links:
            self._check_link(path, name)

    def _check_link(self, path: str, name: str) -> None:
        real = os.path.realpath(path)
        if not (real.startswith(self._real.rstrip("/") + "/") or real == self._real):
            raise ValueError(
                f"{self.url}: {name} is a link to a place outside of the folder; follow_links=True takes such files "
                "of a source, or leave it out"
            )

    def _sync_folders(self, names: Iterable[str]) -> None:
        assert self.local is not None
        folders = {folder for name in names for folder in PurePosixPath(name).parents}
        for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
            sync_folder(self.local / folder)

    def _put(self, name: str, put: Callable[[str], object]) -> None:
        """Let a driver write a file that is seen only once it is whole."""
        path, fs = self.path(name), self._driver.fs
        if self._is_object_store:
            self._driver.call(lambda: put(path), limited=False)
            return

        def renamed() -> None:
            partial = self.path(f"{STATE}/tmp/{uuid.uuid4().hex}")
            try:
                fs.makedirs(str(PurePosixPath(partial).parent), exist_ok=True)
                put(partial)
                fs.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
                fs.mv(partial, path)
            except BaseException:
                if fs.exists(partial):
                    fs.rm_file(partial)
                raise

        self._driver.call(renamed, limited=False)


def copy_stream(source: IO[bytes], target: IO[bytes] | None = None) -> tuple[int, str]:
    """Read a stream to its end, into another if there is one; return its number of bytes and their SHA-256."""
    digest, size = sha256(), 0
    while block := source.read(1 << 20):
        if target is not None:
            target.write(block)
        digest.update(block)
        size += len(block)
    return size, digest.hexdigest()
