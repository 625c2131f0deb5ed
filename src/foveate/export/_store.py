"""A folder, here or behind a URL that fsspec knows: its files are whole or not there, and last once they are synced."""

import errno
import io
import os
import shutil
import stat
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar, cast
from urllib.parse import quote, unquote, urljoin, urlsplit

from foveate._files import begin_sync, make_folder, sync, sync_folder
from foveate.export._names import check_inside, is_reserved

T = TypeVar("T")

STATE = ".foveate"
"""The subfolder of a target with what an unfinished run needs; gone when it is finished."""
MANIFEST = "foveate-manifest.jsonl"
PARTS = "foveate-parts.jsonl"
SUMMARY = "foveate-summary.json"
LOCK = ".foveate.lock"

PATIENCE = 60.0
"""Seconds that a question to another machine may take,"""
TRIES = 3
"""and how often it is asked before that is an error."""
_VISITS = 1000
"""So often may links lead to one folder."""

_DEPTH = 64
"""Folders that a web server shows within one another: one may make them up without end."""

_SYNCS = 8
"""Files that are synced at once."""

DENIED = "-denied"
"""The stamp of what may not be looked at: a file, or with the name ``*`` whatever is in a folder."""

_OBJECTS = frozenset(("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "hf", "oss", "memory"))
"""Kinds of URLs where an object appears when all of it is there; on others a file is renamed when it is whole."""
_VERSIONS = (
    *("ETag", "etag", "md5Hash", "content_md5", "checksum", "CRC"),
    *("mtime", "LastModified", "last_modified", "updated", "modified", "created", "date_time"),
)
"""What drivers call the thing that changes with a file, best first."""


def is_bookkeeping(name: str) -> bool:
    """Whether a name in a folder is of an export's bookkeeping."""
    return name in (MANIFEST, PARTS, SUMMARY, LOCK) or name.partition("/")[0] == STATE


_NO_FILE = "is not a regular file, but a folder, a FIFO, a socket or a device"


class NotAFileError(ValueError):
    """A FIFO, a socket, a device, a folder: nothing to be read to its end."""


class Store:
    """Files below a root, by their paths from it with ``/``.

    Args:
        url: a path, or a URL such as ``s3://bucket/folder``, for which fsspec's driver must be installed; credentials
            are what the driver finds in its own configuration.
        follow_links: follow links that lead out of the folder; those within are always followed.

    Raises:
        ValueError: if fsspec knows no such kind of URL.
        ImportError: if its driver is not installed.
    """

    def __init__(self, url: str | Path, follow_links: bool = False) -> None:
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        self.url, self.follow_links = str(url), follow_links
        self._fs: Any
        self._fs, root = url_to_fs(self.url)
        self.root: str = root.rstrip("/") or root[:1]
        self.local = Path(root) if isinstance(self._fs, LocalFileSystem) else None
        self._real = os.path.realpath(root) if self.local is not None else ""
        kinds = {self._fs.protocol} if isinstance(self._fs.protocol, str) else set(self._fs.protocol)
        self._objects, self._web = bool(kinds & _OBJECTS), "http" in kinds

    @property
    def label(self) -> str:
        """A short text that tells this place from others without saying where it is."""
        place = os.path.abspath(self.local) if self.local is not None else self.url.partition("?")[0].rstrip("/")
        return f"{PurePosixPath(place).name} {sha256(os.fsencode(place)).hexdigest()[:12]}".strip()

    def files(self, links: bool = True) -> Iterator[tuple[str, str]]:
        """Yield the name of each file and a stamp that changes with it (empty where the driver tells of none).

        There are none where there is no such folder. A folder below that may not be listed is told of as ``folder/*``,
        with the stamp :data:`DENIED`.

        Args:
            links: follow links to folders, but not in circles; if False any link is listed as if it were a file.

        Raises:
            ValueError: if a name leads out of the folder, or a link does and such are not to be followed.
        """
        if self.local is not None:
            yield from self._walk(str(self.local), "", (), Counter(), links)
            return
        if self._web:
            yield from self._linked("")
            return
        listing: dict[str, dict[str, Any]] = self._ask(lambda: self._fs.find(self.root, detail=True))
        for path, info in listing.items():
            name = path.removeprefix(self.path("x").removesuffix("x"))
            if name:
                self._check(name, "it has a file whose name")
                yield name, _version(info)

    def stamps(self, names: Iterable[str]) -> Iterator[str]:
        """Yield the stamps of files by asking for each, where a listing tells of none, as on the web."""

        def stamp(name: str) -> str:
            try:
                return _version(self._ask(lambda: self._fs.info(self.path(name))))
            except FileNotFoundError:  # a link to nothing
                return "-gone"

        with ThreadPoolExecutor(16, "foveate-stamps") as pool:
            yield from pool.map(stamp, names)

    @property
    def lists_stamps(self) -> bool:
        """Whether a listing tells of stamps."""
        return not self._web

    def path(self, name: str) -> str:
        if not name:
            return self.root
        name = quote(name, errors="surrogateescape") if self._web else name
        return f"{self.root}{'' if self.root in ('', '/') else '/'}{name}"

    def exists(self, name: str = "") -> bool:
        if self.local is not None:
            return os.path.lexists(self.local / name)
        return bool(self._ask(lambda: self._fs.exists(self.path(name))))

    def is_link(self, name: str) -> bool:
        """Whether a file, or a folder that it lies in, is a link."""
        return self.local is not None and os.path.realpath(self.local / name) != os.path.join(self._real, name)

    def is_file(self) -> bool:
        """Whether the root itself is a file."""
        if self.local is not None:
            return self.local.is_file()
        return bool(self._ask(lambda: self._fs.isfile(self.root)))

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading.

        Raises:
            FileNotFoundError: if it is not there.
            NotAFileError: if it is something else than a regular file.
            ValueError: if the name or a link leads out of the folder.
            OSError: if the driver fails, now or later, whatever it calls that itself.
        """
        if self.local is not None:
            return os.fdopen(_regular(self._inside(name)), "rb")
        self._check(name)
        stream = self._ask(lambda: self._fs.open(self.path(name), "rb"))
        return cast(IO[bytes], io.BufferedReader(_Reader(self, name, stream), 1 << 20))

    def read(self, name: str) -> bytes:
        """Return what is in a file; raises as :meth:`open` does."""
        if self.local is not None:
            with self.open(name) as stream:
                return stream.read()
        self._check(name)
        data: bytes = self._ask(lambda: self._fs.cat_file(self.path(name)))
        return data

    def size(self, name: str) -> int | None:
        """Return the bytes of a file, or None where the driver does not say; raises as :meth:`open` does."""
        if self.local is not None:
            with _circles_lead_nowhere():
                status = os.stat(self._inside(name))
            if not stat.S_ISREG(status.st_mode):
                raise NotAFileError(_NO_FILE)
            return status.st_size
        self._check(name)
        size = self._ask(lambda: self._fs.info(self.path(name))).get("size")
        return None if size is None else int(size)

    @contextmanager
    def writing(self, name: str, bookkeeping: bool = False) -> Iterator[IO[bytes]]:
        """Give a stream to write to; the file appears, whole, when the block ends, and not at all if it fails.

        A file is on the disk once :meth:`sync` has been told of it; one of the bookkeeping when the block
        ends. An object store answers when an object is safe, by its own rules.

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
                self._put(name, lambda path: self._fs.put_file(stream.name, path))
            return
        partial = self.local / STATE / "tmp" / uuid.uuid4().hex
        path = self._place(name)
        try:
            with _new(partial) as stream:
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
                os.rmdir(path)  # of what is in it nothing is ours to remove
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
            self._put(name, lambda path: self._fs.pipe_file(path, data))
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
            if path.parent.is_dir():  # also for what is gone: whoever removed it may have died before this
                sync_folder(path.parent)
        elif self.exists(name):
            self._ask(lambda: self._fs.rm(self.path(name), recursive=True))

    def make(self) -> None:
        """Make a local folder where there is none, and its way to it last."""
        if self.local is not None:
            make_folder(self.local)
            sync_folder(self.local.parent)  # also where it is there: whoever made it may have died before this
            self._real = os.path.realpath(self.local)

    def _check(self, name: str, whose: str = "the name") -> None:
        try:
            check_inside(name, drives=self.local is not None and os.name == "nt")
        except ValueError as error:
            raise ValueError(f"{self.url}: {whose} {error}; rename it or leave it out") from None

    def _inside(self, name: str) -> Path:
        """The path of a local file, which lies below the root, links resolved, unless they are to be followed."""
        assert self.local is not None
        self._check(name)
        path = self.local / name
        if not self.follow_links:
            self._check_link(str(path), name)
        return path

    def _place(self, name: str) -> Path:
        """The path where a local file is to be, in a folder that lies below the root: a link there is replaced."""
        assert self.local is not None
        self._check(name)
        path = self.local / name
        self._check_link(str(path.parent), name)
        return path

    def _check_link(self, path: str, name: str) -> None:
        real = os.path.realpath(path)
        if not (real.startswith(self._real.rstrip("/") + "/") or real == self._real):
            raise ValueError(
                f"{self.url}: {name} is a link to what lies outside of the folder; follow_links=True (--follow-links) "
                "takes that for a part of a source, or leave it out"
            )

    def _walk(
        self,
        folder: str,
        below: str,
        above: tuple[tuple[int, int], ...],
        visits: Counter[tuple[int, int]],
        links: bool,
    ) -> Iterator[tuple[str, str]]:
        """List a folder and those below it, but none that it lies in, by whatever link."""
        try:
            status = os.stat(folder)
            if not stat.S_ISDIR(status.st_mode) or (status.st_dev, status.st_ino) in above:
                return
            entries = os.scandir(folder)
        except FileNotFoundError:  # gone meanwhile, or not there yet
            return
        except PermissionError:
            if not below:
                raise
            yield f"{below}*", DENIED
            return
        identity = (status.st_dev, status.st_ino)
        visits[identity] += 1
        if visits[identity] > _VISITS:  # two links in each of thirty folders to the next make a billion of them
            raise ValueError(f"{self.url}: links lead to the same folder again and again, as {below}; leave them out")
        with entries:
            for entry in entries:
                name = below + entry.name
                if not links and entry.is_symlink():
                    yield name, ""
                    continue
                if entry.is_symlink() and not self.follow_links and os.path.lexists(os.path.realpath(entry.path)):
                    self._check_link(entry.path, name)
                try:
                    if entry.is_dir():
                        yield from self._walk(entry.path, f"{name}/", (*above, identity), visits, links)
                        continue
                    status = entry.stat()
                except OSError as error:
                    denied = isinstance(error, PermissionError)
                    if not (denied or isinstance(error, FileNotFoundError) or error.errno == errno.ELOOP):
                        raise
                    yield name, DENIED if denied else "-gone"  # of a link to nothing, or in a circle
                    continue
                yield name, f"{status.st_size:x}-{status.st_mtime_ns:x}"

    def _linked(self, folder: str) -> Iterator[tuple[str, str]]:
        """List what the page of a folder, and those of the folders below it, have links to."""
        page = self.path(f"{folder}x").removesuffix("x")
        try:
            links = self._ask(lambda: _links(self._fs.cat_file(page).decode("utf-8", "surrogateescape")))
        except FileNotFoundError:
            return
        for link in dict.fromkeys(links):
            address = urlsplit(link)
            plain, path = unquote(address.path), urljoin(page, link)
            if "%2f" in address.path.lower() or "//" in plain:
                raise ValueError(f"{self.url}: it has a file whose name {address.path!r} is not the name of a file")
            is_folder = plain.endswith(("/", "/..")) or plain == ".."
            if address.query or path == page or not path.startswith(page):  # another order of it, or elsewhere
                if ".." in plain.split("/") and not is_folder:
                    self._check(plain, "it has a file whose name")
                continue
            name = folder + unquote(path.partition("#")[0].removeprefix(page), errors="surrogateescape")
            self._check(name.removesuffix("/"), "it has a file whose name")
            if is_folder:
                if name.count("/") > _DEPTH:
                    raise ValueError(f"{self.url}: its folders are more than {_DEPTH} deep, such as {name:.60}…")
                yield from self._linked(name)
            else:
                yield name, ""

    def _sync_folders(self, names: Iterable[str]) -> None:
        assert self.local is not None
        folders = {folder for name in names for folder in PurePosixPath(name).parents}
        for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
            sync_folder(self.local / folder)

    def _put(self, name: str, put: Callable[[str], object]) -> None:
        """Let a driver put a file where it is seen only when it is whole."""
        path = self.path(name)
        if self._objects:
            self._ask(lambda: put(path), however_long=True)
            return

        def renamed() -> None:
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

        self._ask(renamed, however_long=True)

    def _ask(self, question: Callable[[], T], however_long: bool = False) -> T:
        """Ask the driver, and not what it remembers, again where it fails or takes too long.

        Raises:
            OSError: with a number, as a disk's are, whatever the driver raises.
        """
        number = 1
        while True:
            self._fs.invalidate_cache()
            try:
                return question() if however_long else _within(question, PATIENCE)
            except (FileNotFoundError, PermissionError, IsADirectoryError, ImportError):
                raise
            except Exception as error:
                if number == TRIES:
                    if isinstance(error, OSError) and error.errno is not None:
                        raise
                    raise OSError(errno.EIO, f"{type(error).__name__}: {error}", self.url) from error
            time.sleep(0.1 * 4**number)
            number += 1


class _Reader(io.RawIOBase):
    """A driver's stream that is opened anew where it breaks off, and fails as the store does."""

    def __init__(self, store: Store, name: str, stream: IO[bytes]) -> None:
        self._store, self._name, self._at = store, name, 0
        self._stream: IO[bytes] | None = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._stream, data = self._store._ask(lambda: self._read(len(buffer)))
        self._at += len(data)
        buffer[: len(data)] = data
        return len(data)

    def _read(self, size: int) -> tuple[IO[bytes], bytes]:
        stream, self._stream = self._stream, None  # what is left of one that failed or stalls is worth nothing
        if stream is None:
            stream = cast(IO[bytes], self._store._fs.open(self._store.path(self._name), "rb"))
            stream.seek(self._at)
        return stream, stream.read(size)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        super().close()


def copy(source: IO[bytes], target: IO[bytes] | None = None) -> tuple[int, str]:
    """Read a stream to its end, into another if there is one; return its bytes and their SHA-256."""
    digest, size = sha256(), 0
    while block := source.read(1 << 20):
        if target is not None:
            target.write(block)
        digest.update(block)
        size += len(block)
    return size, digest.hexdigest()


class _Anchors(HTMLParser):
    """Collects what a page has links to."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the link of an anchor."""
        if tag == "a":
            self.links += [value for name, value in attrs if name == "href" and value]


def _links(page: str) -> list[str]:
    anchors = _Anchors()
    anchors.feed(page)
    return anchors.links


def _within(question: Callable[[], T], seconds: float) -> T:
    """Return an answer that comes in time.

    Raises:
        TimeoutError: if it does not; whoever was asked is left alone.
    """
    answers: list[T] = []
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            answers.append(question())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=ask, daemon=True, name="foveate-ask")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds:g} s")
    if errors:
        raise errors[0]
    return answers[0]


@contextmanager
def _circles_lead_nowhere() -> Iterator[None]:
    """Have a link in a circle be one to nothing."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise FileNotFoundError(errno.ENOENT, "A link in a circle", error.filename) from error


def _regular(path: Path) -> int:
    """Open a regular file for reading and nothing else: a FIFO would wait for a writer, for ever."""
    try:
        with _circles_lead_nowhere():
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        if error.errno not in (errno.ENXIO, errno.ENODEV):  # of a socket, or a device that is not there
            raise
        raise NotAFileError(_NO_FILE) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotAFileError(_NO_FILE)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def size_of(stamp: str) -> int | None:
    """Return the bytes of a file that a stamp tells of, or None.

    Example:
        >>> size_of("1f-18b2"), size_of("")
        (31, None)
    """
    digits = stamp.partition("-")[0]
    return int(digits, 16) if digits and not digits.strip("0123456789abcdef") else None


def _version(info: dict[str, Any]) -> str:
    """What a driver says about a file, as a stamp; empty where it says nothing that changes with the file."""
    version = next((str(info[key]) for key in _VERSIONS if info.get(key) is not None), "")
    size = "" if info.get("size") is None else f"{int(info['size']):x}"
    return f"{size}-{sha256(version.encode()).hexdigest()[:16] if version else ''}".removesuffix("-")


def _new(path: Path) -> IO[bytes]:
    try:
        return path.open("xb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("xb")
