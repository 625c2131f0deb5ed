"""What was measured, picture by picture, in a file beside the results: an interrupted run goes on from it.

``records.jsonl`` holds one JSON object a line:

- ``{"records": 2}``, the first line: the version of this format;
- ``{"key": "5f0c…", "is": "jpeg:25 …"}``: what a key stands for: an operating point, or a judge. A key is a hash of
  everything its values depend on, the weights and the versions of the libraries included, so a value is found again
  only where it would be computed again alike;
- ``{"picture": "9a41…", "name": …, "label": …, "size": [height, width], "clean": {…}, "points": {…}}``: values of
  one picture (by a hash of its pixels): ``clean`` gives, for each judge, its best classes on the untouched picture,
  best first; ``points`` gives, for each point, ``bytes``, where asked for ``psnr`` (dB) and ``ms_ssim``, and under
  ``judges`` for each judge ``[best classes, KL divergence from its clean output in nats]``; where the map is another
  picture's, ``donor`` is that picture; where a control chose, ``chosen`` has the ``quality``, ``strength`` and
  ``scale``, whether the criterion was ``met``, the candidates ``tried`` and the ``encodes``, and the witnesses'
  ``clean`` and ``final`` confidence. Later lines of a picture add to earlier ones.

Each line ends with ``"sum"``, the CRC-32 of the line without it, by which one that a power cut or a full disk left
damaged is told from a sound one; lines of older versions have none. A damaged line is left out, and what it held is
measured anew. The file is on the disk, and not in a cache only, some seconds after a line was written and when the
evaluation has ended.
"""

import hashlib
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

FORMAT = 2
_SUMMED = re.compile(rb'(.*),"sum":"([0-9a-f]{8})"}\n', re.DOTALL)
_SYNC_EVERY = 5.0
"""Seconds: how much work a power cut may undo."""
_CURE = "delete the file to measure anew"


def hash_of(text: str) -> str:
    """Return 12 hexadecimal digits for a text."""
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _text(line: dict[str, Any]) -> bytes:
    """A line of the file."""
    text = json.dumps(line, separators=(",", ":")).encode()
    return b'%b,"sum":"%08x"}\n' % (text[:-1], zlib.crc32(text))


def _parsed(raw: bytes) -> tuple[dict[str, Any], bool]:
    """What a line of the file holds, and whether it has a sum, which is right.

    Raises:
        ValueError: if the line is damaged.
    """
    if not raw.endswith(b"\n"):
        raise ValueError("it breaks off")
    summed = _SUMMED.fullmatch(raw)
    if summed is not None:
        raw = summed[1] + b"}"
        if zlib.crc32(raw) != int(summed[2], 16):
            raise ValueError("its sum is another")
    line = json.loads(raw)
    if not (
        isinstance(line, dict)
        and all(isinstance(line.get(name, ""), str) for name in ("picture", "key", "is"))
        and all(isinstance(line.get(name, {}), dict) for name in ("clean", "points"))
        and ("key" in line) == ("is" in line)
    ):
        raise ValueError("it holds something else")
    return line, summed is not None


class Records:
    """The values of all pictures, in memory and, where there is a file, line by line on disk.

    Attributes:
        pictures: by the picture's hash: ``name``, ``label``, ``size``, ``clean`` and ``points``.
    """

    def __init__(self) -> None:
        self.pictures: dict[str, dict[str, Any]] = {}
        self._keys: dict[str, str] = {}
        self._file: IO[bytes] | None = None
        self._synced = 0.0

    @property
    def lasting(self) -> bool:
        """Whether they are written to a file, to be found again."""
        return self._file is not None

    def name_keys(self, keys: dict[str, str]) -> None:
        """Write down what keys stand for."""
        for key, text in keys.items():
            if key not in self._keys:
                self._keys[key] = text
                self._write({"key": key, "is": text})

    def add(self, picture: str, values: dict[str, Any]) -> None:
        """Add values of one picture, and write them down before returning."""
        self._merge(picture, values)
        self._write({"picture": picture, **values})

    def _merge(self, picture: str, values: dict[str, Any]) -> None:
        known = self.pictures.setdefault(picture, {"clean": {}, "points": {}})
        for key, value in values.items():
            if key == "clean":
                known["clean"].update(value)
            elif key == "points":
                for point, cell in value.items():
                    old = known["points"].setdefault(point, {"judges": {}})
                    old.update({**cell, "judges": {**old["judges"], **cell["judges"]}})
            else:
                known[key] = value

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
        """Take over what a file holds; return the numbers of the damaged lines, which are left out and spoken of."""
        damaged: set[int] = set()
        foreign = False
        with path.open("rb") as stream:
            for number, raw in enumerate(stream, 1):
                try:
                    line, certain = _parsed(raw)
                except ValueError:
                    damaged.add(number)
                    foreign |= number == 1 and raw.endswith(b"\n")
                    continue
                foreign &= not certain
                if line.get("records", FORMAT) != FORMAT:
                    raise ValueError(f"records: {path} is of format {line['records']}, expected {FORMAT}; {_CURE}")
                if "picture" in line:
                    self._merge(line.pop("picture"), line)
                elif "key" in line:
                    self._keys[line["key"]] = line["is"]
        if foreign:
            raise ValueError(f"records: line 1 of {path} is damaged, and none says that these are records; {_CURE}")
        if damaged:
            logger.warning(
                "records: %d damaged lines of %s are left out, the first is line %d: to be measured anew",
                len(damaged),
                path,
                min(damaged),
            )
        return damaged

    @classmethod
    def read(cls, path: Path) -> "Records":
        """Read records without writing to them; damaged lines are left out, and spoken of in the log.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is of another format.
        """
        records = cls()
        records._read(path)
        return records

    @classmethod
    @contextmanager
    def on_disk(cls, path: Path) -> Iterator["Records"]:
        """Open records to add to, made where the file is missing.

        Only one process at a time has them open; the lock goes with the process, also with one that is killed. Damaged
        lines are taken out of the file, and spoken of in the log.

        Raises:
            RuntimeError: if another process has them open.
            ValueError: if the file is of another format.
        """
        lock, holder = path.with_name(f".{path.name}.lock"), path.with_name(f".{path.name}.holder.json")
        folder = str(path.parent).replace("{", "{{").replace("}", "}}")
        with locked(lock, holder, f"out: another evaluation is writing to {folder}{{who}}; choose another folder"):
            records = cls()
            if path.exists() and (damaged := records._read(path)):
                _take_out(damaged, path)
            with path.open("ab") as file:
                records._file = file
                try:
                    if path.stat().st_size == 0:
                        records._write({"records": FORMAT})
                    yield records
                finally:
                    records._file = None
                    records._sync(file)


def _take_out(damaged: set[int], path: Path) -> None:
    with path.open("rb") as stream:
        sound = [raw for number, raw in enumerate(stream, 1) if number not in damaged]
    head = [_text({"records": FORMAT})] if 1 in damaged else []
    write_bytes(path, b"".join([*head, *sound]))
