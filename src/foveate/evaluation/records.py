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
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

FORMAT = 2


def hash_of(text: str) -> str:
    """Return 12 hexadecimal digits for a text."""
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


class Records:
    """The values of all pictures, in memory and, where there is a file, line by line on disk.

    Attributes:
        pictures: by the picture's hash: ``name``, ``label``, ``size``, ``clean`` and ``points``.
    """

    def __init__(self) -> None:
        self.pictures: dict[str, dict[str, Any]] = {}
        self._keys: dict[str, str] = {}
        self._file: IO[str] | None = None

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
            self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
            self._file.flush()

    def _read(self, path: Path) -> int:
        """Take over what a file holds; return how many of its bytes are whole lines."""
        whole = 0
        with path.open("rb") as stream:
            for number, raw in enumerate(stream, 1):
                if not raw.endswith(b"\n"):
                    break  # the line that was being written when the run was killed
                try:
                    line = json.loads(raw)
                    if number == 1 and line["records"] != FORMAT:
                        raise ValueError(f"format {line['records']}, expected {FORMAT}")
                    if "picture" in line:
                        self._merge(line.pop("picture"), line)
                    elif "key" in line:
                        self._keys[line["key"]] = line["is"]
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise ValueError(
                        f"records: line {number} of {path} is damaged ({error}); delete the file to measure anew"
                    ) from error
                whole += len(raw)
        return whole

    @classmethod
    def read(cls, path: Path) -> "Records":
        """Read records without writing to them.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if a line of it is damaged.
        """
        records = cls()
        records._read(path)
        return records

    @classmethod
    @contextmanager
    def on_disk(cls, path: Path) -> Iterator["Records"]:
        """Open records to add to, made where the file is missing.

        Only one process at a time has them open; the lock goes with the process, also with one that is killed.

        Raises:
            RuntimeError: if another process has them open.
            ValueError: if a line of the file is damaged.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise RuntimeError(f"out: another evaluation is writing to {path.parent}; choose another folder") from None
        try:
            records = cls()
            if path.exists():
                os.truncate(path, records._read(path))
            with path.open("a", encoding="utf-8") as records._file:
                if path.stat().st_size == 0:
                    records._write({"records": FORMAT})
                yield records
            records._file = None
        finally:
            lock.release()
