"""Where compressed images go: a tree of files, or tar shards."""

import hashlib
import io
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple, Protocol, cast

from foveate.export._store import Store, copy_stream

_UNSYNCED = 256
"""Files that wait at most to be synced together."""


class Put(NamedTuple):
    """A file that was written.

    Attributes:
        target: its name in the target, or that of its shard.
        member: its name in the shard; None in a tree.
        bytes: its size.
        sha256: of its bytes.
    """

    target: str
    member: str | None
    bytes: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """Return its keys in the manifest."""
        member = {} if self.member is None else {"member": self.member}
        return {"target": self.target, **member, "bytes": self.bytes, "sha256": self.sha256}


class Sink(Protocol):
    """Takes the files of one part, in order."""

    def put(self, name: str, data: bytes) -> Put:
        """Take a file."""

    def copy(self, name: str, stream: IO[bytes]) -> Put:
        """Take a file that may be too large for the memory."""

    @property
    def shard(self) -> tuple[str, int, str] | None:
        """Once all is written: name, bytes and SHA-256 of the shard that all went to, if there is one."""


@dataclass
class Tree:
    """Writes every file at once; all are on the disk when the block of :meth:`writing` has ended."""

    store: Store
    shard: None = None
    _unsynced: list[str] = field(default_factory=list)

    @classmethod
    @contextmanager
    def writing(cls, store: Store) -> Iterator["Tree"]:
        tree = cls(store)
        yield tree
        tree._sync()

    def put(self, name: str, data: bytes) -> Put:
        self.store.write(name, data)
        self._wait(name)
        return Put(name, None, len(data), hashlib.sha256(data).hexdigest())

    def copy(self, name: str, stream: IO[bytes]) -> Put:
        with self.store.writing(name) as file:
            size, digest = copy_stream(stream, file)
        self._wait(name)
        return Put(name, None, size, digest)

    def _wait(self, name: str) -> None:
        self._unsynced.append(name)
        if len(self._unsynced) >= _UNSYNCED:
            self._sync()

    def _sync(self) -> None:
        self.store.sync(self._unsynced)
        self._unsynced.clear()


class Shard:
    """Writes the members of one tar file, which appears when all are in it; if there are none, no file appears.

    Nothing in it depends on time or user.
    """

    def __init__(self, name: str, tar: tarfile.TarFile) -> None:
        self.shard: tuple[str, int, str] | None = None
        self._name, self._tar, self._is_empty = name, tar, True

    @classmethod
    @contextmanager
    def writing(cls, store: Store, name: str) -> Iterator["Shard"]:
        with store.writing(name) as file:
            hashed = _Hashed(file)
            with tarfile.open(fileobj=cast(IO[bytes], hashed), mode="w:", format=tarfile.PAX_FORMAT) as tar:
                shard = cls(name, tar)
                yield shard
        if shard._is_empty:
            store.remove(name)
        else:
            shard.shard = (name, hashed.size, hashed.digest.hexdigest())
            store.sync((name,))

    def put(self, name: str, data: bytes) -> Put:
        self._add(name, io.BytesIO(data), len(data))
        return Put(self._name, name, len(data), hashlib.sha256(data).hexdigest())

    def copy(self, name: str, stream: IO[bytes]) -> Put:
        with tempfile.TemporaryFile() as whole:  # its size comes first in the tar
            size, digest = copy_stream(stream, whole)
            whole.seek(0)
            self._add(name, whole, size)
        return Put(self._name, name, size, digest)

    def _add(self, name: str, stream: IO[bytes], size: int) -> None:
        info = tarfile.TarInfo(name)
        info.size = size
        self._tar.addfile(info, stream)
        self._is_empty = False


class Nowhere:
    """Takes files to try whether that works, and writes none."""

    shard = None

    def put(self, name: str, data: bytes) -> Put:
        return Put(name, None, len(data), "")

    def copy(self, name: str, stream: IO[bytes]) -> Put:
        return Put(name, None, 0, "")


class _Hashed(io.RawIOBase):
    """Writes to a file, and hashes what is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest, self.size = file, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.size

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._file.write(data)
