"""Stamps: short texts that change when a file changes, with the file's size where that is known."""

from hashlib import sha256
from typing import Any

DENIED = "-denied"
"""The stamp of a file that may not be read, or, with the name ``folder/*``, of a folder that may not be listed."""
GONE = "-gone"
"""The stamp of a link that leads nowhere, or in a circle."""

_VERSION_KEYS = (
    *("ETag", "etag", "md5Hash", "content_md5", "checksum", "CRC"),
    *("mtime", "LastModified", "last_modified", "updated", "modified", "created", "date_time"),
)
"""What fsspec's drivers call the thing that changes with a file, best first."""


def local_stamp(size: int, mtime_ns: int) -> str:
    """Return the stamp of a local file."""
    return f"{size:x}-{mtime_ns:x}"


def remote_stamp(info: dict[str, Any]) -> str:
    """Return the stamp of a file from a driver's description; empty if nothing in that changes with the file."""
    version = next((str(info[key]) for key in _VERSION_KEYS if info.get(key) is not None), "")
    size = "" if info.get("size") is None else f"{int(info['size']):x}"
    return f"{size}-{sha256(version.encode()).hexdigest()[:16] if version else ''}".removesuffix("-")


def size_of(stamp: str) -> int | None:
    """Return the size in bytes that a stamp holds, or None.

    Example:
        >>> size_of("1f-18b2"), size_of("")
        (31, None)
    """
    digits = stamp.partition("-")[0]
    return int(digits, 16) if digits and not digits.strip("0123456789abcdef") else None
