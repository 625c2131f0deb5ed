"""What it costs that an export is on the disk: its time over that of the same export without syncs.

    python tests/benchmarks/bench_export_sync.py [--folder FOLDER] [--images 600] [--pairs 9] [--out sync.json]

Both are timed in turns on the file system that FOLDER is on, in parts of 64, from the end of the first part to the
return of the call, so without the start of the workers. The interval of a median is that of the sign test: order
statistics that hold it with at least 95 %.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from math import comb
from pathlib import Path
from typing import Any

from foveate import Compressor, Progress
from foveate.demo import Scenes
from foveate.export import compress_dataset

WITHOUT = "BENCH_WITHOUT_SYNCS"
_fsync = os.fsync


def set_syncs() -> None:
    """Leave syncs out where the environment says so, in this process; workers run this module too."""
    os.fsync = (lambda descriptor: None) if os.environ.get(WITHOUT) else _fsync  # type: ignore[assignment]


set_syncs()


def make_source(root: Path, count: int) -> Path:
    """Samples' stand-ins of about 500x400, in ten folders."""
    scenes = Scenes(min(count, 60), 3)
    for k in range(count):
        path = root / f"{k % 10}" / f"{k:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if k < len(scenes):
            scenes[k][0].resize((500 - k % 7, 400 + k % 5)).save(path, quality=92)
        else:
            shutil.copy(root / f"{k % len(scenes) % 10}" / f"{k % len(scenes):05}.jpg", path)
    return root


def seconds(source: Path, target: Path, codec: str, shards: bool, workers: int) -> float:
    """Export; return the time from the first part's end to that of the call."""
    ends: list[float] = []

    def progress(step: Progress) -> None:
        if step.done:
            ends.append(time.perf_counter())

    compress_dataset(source, target, Compressor(codec), shards=shards, part=64, workers=workers, progress=progress)
    return time.perf_counter() - ends[0]


def interval(values: list[float]) -> tuple[float, float]:
    """The interval of a median that the sign test gives with at least 95 %, or all there is."""
    ordered, n = sorted(values), len(values)
    outside, k = 0.0, 0
    while 2 * (outside + comb(n, k) / 2**n) <= 0.05:
        outside += comb(n, k) / 2**n
        k += 1
    k = max(0, k - 1)
    return ordered[k], ordered[-1 - k]


def measure(folder: Path, source: Path, codec: str, shards: bool, pairs: int, workers: int) -> dict[str, Any]:
    """Time both in turns; return the medians, and that of the ratio with its interval."""
    spent: dict[str, list[float]] = {"with": [], "without": []}
    for pair in range(pairs):
        for name in ("with", "without") if pair % 2 else ("without", "with"):
            os.environ[WITHOUT] = "" if name == "with" else "1"
            set_syncs()
            os.sync()  # what others left is not ours to wait for
            spent[name].append(seconds(source, folder / "out", codec, shards, workers))
            shutil.rmtree(folder / "out")
    ratios = [a / b for a, b in zip(spent["with"], spent["without"], strict=True)]
    return {
        "codec": codec,
        "kind": "shards" if shards else "tree",
        **{name: round(statistics.median(times), 2) for name, times in spent.items()},
        "ratio": round(statistics.median(ratios), 3),
        "ratio_interval": [round(end, 3) for end in interval(ratios)],
        "n": pairs,
    }


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, help="on the file system to be measured; default: that for temporary files"
    )
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--codec", action="append", help="default: webp:60 and jpeg:60")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=args.folder) as name, tempfile.TemporaryDirectory() as photos:
        source = make_source(Path(photos), args.images)
        for codec in args.codec or ["webp:60", "jpeg:60"]:
            for shards in (False, True):
                rows.append(measure(Path(name), source, codec, shards, args.pairs, args.workers))
                print(rows[-1], flush=True)
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
