"""Files that are whole or not there."""

import os
from pathlib import Path


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file at once or not at all: a run that is killed, or a full disk, leaves the old one, or none.

    Several processes may write to one path: each has a partial file of its own, and the last to finish wins.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, as :func:`write_bytes` does."""
    write_bytes(path, text.encode())
