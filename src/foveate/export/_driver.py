"""Calling fsspec's drivers, which may stall, break off and raise anything: with a time limit, retries and one error."""

import errno
import io
import threading
import time
from collections.abc import Callable
from typing import IO, Any, TypeVar, cast

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds that a call may take."""
TRIES = 3
"""How often a call is tried before it is an error."""


class Driver:
    """A file system of fsspec.

    Args:
        fs: the file system.
        url: for error messages.
    """

    def __init__(self, fs: Any, url: str) -> None:
        self.fs, self._url = fs, url

    def call(self, function: Callable[[], T], limited: bool = True) -> T:
        """Call a function that uses the driver, without the driver's caches, and again if it fails.

        Args:
            function: to be called.
            limited: whether it may take no longer than :data:`PATIENCE`.

        Raises:
            OSError: with an error number, whatever the driver raises.
        """
        tries = 1
        while True:
            self.fs.invalidate_cache()
            try:
                return _within(function, PATIENCE) if limited else function()
            except (FileNotFoundError, PermissionError, IsADirectoryError, ImportError):
                raise
            except Exception as error:
                if tries == TRIES:
                    if isinstance(error, OSError) and error.errno is not None:
                        raise
                    raise OSError(errno.EIO, f"{type(error).__name__}: {error}", self._url) from error
            time.sleep(0.1 * 4**tries)
            tries += 1

    def open(self, path: str) -> IO[bytes]:
        """Open a file for reading; the stream goes on where a connection breaks off."""
        stream = self.call(lambda: self.fs.open(path, "rb"))
        return cast(IO[bytes], io.BufferedReader(_Reader(self, path, stream), 1 << 20))


class _Reader(io.RawIOBase):
    """A driver's stream that is opened again where it breaks off."""

    def __init__(self, driver: Driver, path: str, stream: IO[bytes]) -> None:
        self._driver, self._path, self._position = driver, path, 0
        self._stream: IO[bytes] | None = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._stream, data = self._driver.call(lambda: self._read(len(buffer)))
        self._position += len(data)
        buffer[: len(data)] = data
        return len(data)

    def _read(self, size: int) -> tuple[IO[bytes], bytes]:
        stream, self._stream = self._stream, None  # a stream that failed or stalls is not used again
        if stream is None:
            stream = cast(IO[bytes], self._driver.fs.open(self._path, "rb"))
            stream.seek(self._position)
        return stream, stream.read(size)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        super().close()


def _within(function: Callable[[], T], seconds: float) -> T:
    """Return what a function returns, if that takes no longer than some seconds.

    Raises:
        TimeoutError: if it takes longer; its thread is left alone.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call, daemon=True, name="foveate-driver")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds:g} s")
    if errors:
        raise errors[0]
    return results[0]
