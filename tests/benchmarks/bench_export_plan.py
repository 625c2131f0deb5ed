"""Whether memory stays flat and time linear when a dataset of a million files is planned, finished and verified.

    python tests/benchmarks/bench_export_plan.py [--counts 10000 100000 1000000] [--out plan.json]

The source is a listing, and the target's images are one small JPEG by many names: neither is on the disk. The plan,
the records of the parts, the manifest and the summary are. For each step: seconds, and the highest resident memory of
the process in it; each count has a process of its own.
"""

import argparse
import gc
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch

from foveate import Compressor
from foveate.export import _planning, _verify
from foveate.export._folder import Folder
from foveate.export._manifest import finish
from foveate.export._plan import Done, Head, Part, joined, write_record
from foveate.export._planning import planned
from foveate.export._store import Store

STEPS = ("plan", "parts", "resume", "finish", "again", "added", "verify")
"""Plan all; go through the parts; plan when all are done; finish; call again with nothing to do, and with one new file
in a hundred; verify."""


class Listing:
    """A source of so many images in a thousand folders, of which none is there."""

    url, label, local, lists_stamps = "listing", "listing", None, True

    def __init__(self, count: int) -> None:
        self.count = count

    def files(self) -> Iterator[tuple[str, str]]:
        for k in range(self.count):
            yield f"{k % 1000:03}/{k:09}.png", f"{k:x}-{k:x}"


class OneForAll(Store):
    """A target whose images all are the same one."""

    jpeg = Compressor("jpeg").encode([torch.zeros(3, 8, 8, dtype=torch.uint8)])[0].data
    count = 0

    def read(self, name: str) -> bytes:
        return self.jpeg if name.endswith(".jpg") else super().read(name)

    def size(self, name: str) -> int | None:
        return len(self.jpeg) if name.endswith(".jpg") else super().size(name)

    def files(self, links: bool = True) -> Iterator[tuple[str, str]]:
        yield from super().files(links)
        if not self.url.endswith("parts"):
            for name, _ in Listing(self.count).files():
                yield name.replace(".png", ".jpg"), ""


def do(target: Store, part: Part) -> None:
    """Write the record of a part as a worker does."""
    jpeg = OneForAll.jpeg
    put = {"bytes": len(jpeg), "sha256": hashlib.sha256(jpeg).hexdigest(), "size": [8, 8]}
    about = {"settings": {"codec": "jpeg:75", "scale": 1.0}, "met": True}
    lines = [
        {"source": unit.name, "kind": "compressed", "source_bytes": 100, "target": f"{unit.stem}.jpg", **put, **about}
        for unit in part.units
    ]
    done = Done(part, len(lines), hashlib.sha256(joined(lines)).hexdigest())
    write_record(target, part, lines, done)


@contextmanager
def watched(figures: dict[str, Any], name: str) -> Iterator[None]:
    """Note the seconds and the highest resident memory, in MB, of what is done in the block."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the highest
    before, began = memory("VmRSS"), time.perf_counter()
    yield
    figures[name] = {
        "seconds": round(time.perf_counter() - began, 2),
        "peak_MB": round(memory("VmHWM")),
        "grown_MB": round(memory("VmHWM") - before),
    }


def memory(name: str) -> float:
    """A line of the process's status, in MB."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) / 1000


def measure(count: int, folder: Path) -> dict[str, Any]:
    """Take all steps with so many images."""
    figures: dict[str, Any] = {}
    source, target = Folder(cast(Store, Listing(count))), OneForAll(folder)
    settings = {"codec": "jpeg:75", "shards": False, "others": "copy", "part": 64}
    head = Head(settings, source.label)

    def plan() -> Any:
        return planned(source, target, head, ".jpg", 64)

    with watched(figures, "plan"):
        todo = plan()
    with watched(figures, "parts"):
        assert sum(len(part.units) for part in todo.parts()) == count
    fsync = os.fsync
    os.fsync = lambda descriptor: None  # type: ignore[assignment]
    for part in todo.parts():
        do(target, part)
    os.fsync = fsync
    OneForAll.count = count
    with watched(figures, "resume"):
        todo = plan()
    assert todo.units == 0
    with watched(figures, "finish"):
        assert finish(target, todo.plan).kinds == {"compressed": count}
    with watched(figures, "again"):
        assert plan() is None
    with watched(figures, "verify"):
        assert _verify.verify(folder) == []
    source.store.count += count // 100  # type: ignore[attr-defined]
    with watched(figures, "added"):
        assert plan().units == count // 100
    return figures


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--here", action="store_true", help="measure the first count in this process")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.here:
        _planning.Store = _verify.Store = OneForAll  # type: ignore[attr-defined,misc]
        with tempfile.TemporaryDirectory() as name:
            print(json.dumps(measure(args.counts[0], Path(name))))
        return
    tables = {}
    print(f"{'files':>9}  " + "  ".join(f"{step:>14}" for step in STEPS), "   (seconds, highest MB)")
    for count in args.counts:
        command = [sys.executable, __file__, "--here", "--counts", str(count)]
        table = tables[count] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        cells = (f"{table[step]['seconds']:8.1f} {table[step]['peak_MB']:5}" for step in STEPS)
        print(f"{count:9,}  " + "  ".join(cells), flush=True)
    if args.out:
        args.out.write_text(json.dumps(tables, indent=1) + "\n")


if __name__ == "__main__":
    main()
