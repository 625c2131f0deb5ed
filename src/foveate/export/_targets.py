"""Where compressed pictures go: a tree of files, or tar shards."""

import hashlib
import io
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Protocol

from foveate.export._store import Store

Put = tuple[str, int, str]
"""What was written: its name in the target, its bytes, and their SHA-256."""


class Sink(Protocol):
    """Takes the files of one part, in order."""

    def put(self, name: str, data: bytes) -> Put:
        """Take a file."""

    def copy(self, name: str, stream: IO[bytes]) -> Put:
        """Take a file that may be too large for the memory."""


@dataclass(frozen=True)
class Tree:
    """Every file on its own, at once."""

    store: Store

    def put(self, name: str, data: bytes) -> Put:
        self.store.write(name, data)
        return name, len(data), hashlib.sha256(data).hexdigest()

    def copy(self, name: str, stream: IO[bytes]) -> Put:
        with self.store.writing(name) as file:
            return name, *_copied(stream, file)


@dataclass(frozen=True)
class Shard:
    """Members of one tar file, which appears when all are in it. Nothing in it tells of time or user."""

    name: str
    tar: tarfile.TarFile

    @classmethod
    @contextmanager
    def writing(cls, store: Store, name: str) -> Iterator["Shard"]:
        with store.writing(name) as file, tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            yield cls(name, tar)

    def put(self, name: str, data: bytes) -> Put:
        self._add(name, io.BytesIO(data), len(data))
        return f"{self.name}:{name}", len(data), hashlib.sha256(data).hexdigest()

    def copy(self, name: str, stream: IO[bytes]) -> Put:
        with tempfile.TemporaryFile() as held:  # its size comes first in the tar
            size, digest = _copied(stream, held)
            held.seek(0)
            self._add(name, held, size)
        return f"{self.name}:{name}", size, digest

    def _add(self, name: str, stream: IO[bytes], size: int) -> None:
        info = tarfile.TarInfo(name)
        info.size = size
        self.tar.addfile(info, stream)


def _copied(source: IO[bytes], target: IO[bytes]) -> tuple[int, str]:
    """Copy a stream; return its bytes and their SHA-256."""
    digest, size = hashlib.sha256(), 0
    while block := source.read(1 << 20):
        target.write(block)
        digest.update(block)
        size += len(block)
    return size, digest.hexdigest()
