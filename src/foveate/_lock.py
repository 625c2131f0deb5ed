"""A lock on the place that a run writes to, with a note of who holds it."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(lock: Path, holder: Path, busy: str) -> Iterator[None]:
    """Hold a lock while the block runs; it is released when the process ends, however it does.

    Args:
        lock: the file that is locked; it is not removed.
        holder: a file that names the holder meanwhile; it is removed, and so is its folder if that is empty then.
        busy: the error message if another process holds it, with ``{who}`` for that process.

    Raises:
        RuntimeError: if another process holds it.
    """
    from filelock import FileLock, Timeout

    file_lock = FileLock(lock, timeout=0)
    try:
        file_lock.acquire()
    except Timeout:
        raise RuntimeError(busy.format(who=_who(holder))) from None
    try:
        holder.parent.mkdir(exist_ok=True)
        about = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        holder.write_text(json.dumps(about), encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        if holder.parent.is_dir() and not any(holder.parent.iterdir()):
            holder.parent.rmdir()
        file_lock.release()


def _who(holder: Path) -> str:
    """Describe who holds a lock; empty if that is not known."""
    try:
        about = json.loads(holder.read_text(encoding="utf-8"))
        return f" (process {about['pid']} on {about['host']}, since {about['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
