"""The values of every image, in a file beside the results from which an interrupted run goes on.

``records.jsonl`` holds one JSON object per line:

- ``{"records": 3}``, the first line: the version of this format;
- ``{"key": "5f0c…", "is": "jpeg:25 …"}``: the meaning of a key, which stands for an operating point or a judge. A key
  is a hash of everything its values depend on, the weights and the versions of the libraries included, so a value is
  used again only if computing it again would give the same;
- ``{"image": "9a41…", "name": …, "label": …, "size": [height, width], "clean": {…}, "points": {…}}``: values of one
  image (by a hash of its pixels). ``clean`` gives, for each judge, its best classes on the untouched image, best first.
  ``points`` gives, for each point, ``bytes``, if measured ``psnr`` (dB) and ``ms_ssim``, and under ``judges`` for each
  judge ``[best classes, KL divergence from its clean output in nats]``. If the map is another image's, ``donor`` is
  that image. If a rate control chose, ``chosen`` has the ``quality``, ``strength`` and ``scale``, whether the criterion
  was ``met``, the candidates ``tried`` and the ``encodes``, the witnesses' ``clean`` and ``final`` confidence, and for
  ``robust`` the probability ``expected`` that another classifier keeps its answer.
  Later lines of an image add to earlier ones.

Each line ends with ``"sum"``, the CRC-32 of the line without it, which shows whether a power cut or a full disk damaged
the line; a line without a sum is read as it is. A damaged line is left out, and its values are measured again. The file
is on the disk, not only in a cache, some seconds after a line was written and when the evaluation has ended.
"""

import json
import logging
import os
import re
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from foveate._files import write_bytes
from foveate._lock import locked

logger = logging.getLogger(__name__)

__all__ = ["FORMAT", "Records"]

FORMAT = 3
"""The version of the file's format."""
_WITH_SUM = re.compile(rb'(.*),"sum":"([0-9a-f]{8})"}\n', re.DOTALL)
_SYNC_EVERY = 5.0
"""Seconds of work that a power cut may undo."""
_CURE = "delete the file to measure again"


def _text(line: dict[str, Any]) -> bytes:
    """A line of the file, with its sum."""
    text = json.dumps(line, separators=(",", ":")).encode()
    return b'%b,"sum":"%08x"}\n' % (text[:-1], zlib.crc32(text))


def _parsed(raw: bytes) -> tuple[dict[str, Any], bool]:
    """The content of a line of the file, and whether its sum confirms it.

    Raises:
        ValueError: if the line is damaged.
    """
    if not raw.endswith(b"\n"):
        raise ValueError("it has no end")
    summed = _WITH_SUM.fullmatch(raw)
    if summed is not None:
        raw = summed[1] + b"}"
        if zlib.crc32(raw) != int(summed[2], 16):
            raise ValueError("its sum differs")
    line = json.loads(raw)
    if not (
        isinstance(line, dict)
        and all(isinstance(line.get(name, ""), str) for name in ("image", "key", "is"))
        and all(isinstance(line.get(name, {}), dict) for name in ("clean", "points"))
        and ("key" in line) == ("is" in line)
    ):
        raise ValueError("it is not a line of records")
    return line, summed is not None


class Records:
    """The values of all images, in memory and, if there is a file, line by line on disk.

    Attributes:
        images: by the image's hash: ``name``, ``label``, ``size``, ``clean`` and ``points``.

    Example:
        >>> records = Records()
        >>> records.add("9a41", {"name": "scene", "label": 3})
        >>> records.images["9a41"]["label"], records.lasting
        (3, False)
    """

    def __init__(self) -> None:
        self.images: dict[str, dict[str, Any]] = {}
        self._keys: dict[str, str] = {}
        self._file: IO[bytes] | None = None
        self._synced = 0.0

    @property
    def lasting(self) -> bool:
        """Whether the values are written to a file."""
        return self._file is not None

    def name_keys(self, keys: dict[str, str]) -> None:
        """Record the meaning of keys."""
        for key, text in keys.items():
            if key not in self._keys:
                self._keys[key] = text
                self._write({"key": key, "is": text})

    def add(self, digest: str, values: dict[str, Any]) -> None:
        """Add values of the image with this hash; they are written before this returns."""
        self._merge(digest, values)
        self._write({"image": digest, **values})

    def _merge(self, digest: str, values: dict[str, Any]) -> None:
        record = self.images.setdefault(digest, {"clean": {}, "points": {}})
        for key, value in values.items():
            if key == "clean":
                record["clean"].update(value)
            elif key == "points":
                for point, cell in value.items():
                    old = record["points"].setdefault(point, {"judges": {}})
                    old.update({**cell, "judges": {**old["judges"], **cell["judges"]}})
            else:
                record[key] = value

    def _write(self, line: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(_text(line))
            self._file.flush()
            if time.monotonic() >= self._synced + _SYNC_EVERY:
                self._sync(self._file)

    def _sync(self, file: IO[bytes]) -> None:
        os.fsync(file.fileno())
        self._synced = time.monotonic()

    def _read(self, path: Path) -> set[int]:
        """Merge a file; log and return the numbers of its damaged lines, which are left out."""
        damaged: set[int] = set()
        doubtful = False  # the first line is damaged, and no sum shows that the others are records
        with path.open("rb") as stream:
            for number, raw in enumerate(stream, 1):
                try:
                    line, confirmed = _parsed(raw)
                except ValueError:
                    damaged.add(number)
                    doubtful |= number == 1 and raw.endswith(b"\n")
                    continue
                doubtful &= not confirmed
                if line.get("records", FORMAT) != FORMAT:
                    raise ValueError(f"records: {path} is of format {line['records']}, expected {FORMAT}; {_CURE}")
                if "image" in line:
                    self._merge(line.pop("image"), line)
                elif "key" in line:
                    self._keys[line["key"]] = line["is"]
        if doubtful:
            raise ValueError(
                f"records: line 1 of {path} is damaged, and no other line shows that these are records; {_CURE}"
            )
        if damaged:
            logger.warning(
                "records: %d damaged lines of %s are left out, the first is line %d: they are measured again",
                len(damaged),
                path,
                min(damaged),
            )
        return damaged

    @classmethod
    def load(cls, path: str | Path) -> "Records":
        """Load records without writing to them; damaged lines are left out, which is logged.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is of another format.
        """
        records = cls()
        records._read(Path(path))
        return records

    @classmethod
    @contextmanager
    def on_disk(cls, path: str | Path) -> Iterator["Records"]:
        """Open records to add to; a missing file is created.

        Only one process at a time has them open; the lock ends with the process, even if that is killed. Damaged lines
        are removed from the file, which is logged.

        Raises:
            RuntimeError: if another process has them open.
            ValueError: if the file is of another format.
        """
        path = Path(path)
        lock, holder = path.with_name(f".{path.name}.lock"), path.with_name(f".{path.name}.holder.json")
        folder = str(path.parent).replace("{", "{{").replace("}", "}}")
        with locked(lock, holder, f"out: another evaluation is writing to {folder}{{who}}; choose another folder"):
            records = cls()
            if path.exists() and (damaged := records._read(path)):
                _remove_lines(damaged, path)
            with path.open("ab") as file:
                records._file = file
                try:
                    if path.stat().st_size == 0:
                        records._write({"records": FORMAT})
                    yield records
                finally:
                    records._file = None
                    records._sync(file)


def _remove_lines(damaged: set[int], path: Path) -> None:
    with path.open("rb") as stream:
        sound = [raw for number, raw in enumerate(stream, 1) if number not in damaged]
    head = [_text({"records": FORMAT})] if 1 in damaged else []
    write_bytes(path, b"".join([*head, *sound]))
