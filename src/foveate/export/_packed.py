"""Files of the bookkeeping with many lines: as text, or compressed by gzip where their name ends with ``.gz``.

Compressed is what stays in a finished export: at a kilobyte an image, the plain lines would be a third of its bytes.
"""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, cast

from foveate.export._store import Store

_ENDING = ".gz"


class TornError(ValueError):
    """A file of the bookkeeping that is torn or was changed."""


def opened(store: Store, name: str) -> IO[bytes]:
    """Open a file of lines for reading.

    Raises:
        OSError: see :meth:`Store.open`.
        TornError: now or later, if it is compressed and damaged.
    """
    stream = store.open(name)
    return io.BufferedReader(_Unpacked(stream, name)) if name.endswith(_ENDING) else stream


@contextmanager
def packing(store: Store, name: str) -> Iterator[IO[bytes]]:
    """Yield a stream for the lines of a file, which appears whole; see :meth:`Store.writing`.

    The same lines give the same bytes: there is no time and no name in them.
    """
    with store.writing(name, bookkeeping=True) as stream:
        if not name.endswith(_ENDING):
            yield stream
            return
        with gzip.GzipFile("", "wb", fileobj=stream, mtime=0) as packed:
            yield cast(IO[bytes], packed)  # of which typeshed does not know


class _Unpacked(io.RawIOBase):
    """The content of a compressed file."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream, self._gzip, self._name = stream, gzip.GzipFile(fileobj=stream), name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's buffer has no length
        try:
            data = self._gzip.read(len(buffer))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise TornError(f"{self._name} is damaged: {error}") from None
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()
