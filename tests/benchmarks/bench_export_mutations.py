"""Exports of mutated images: how each format fares, what the workers hold, and which image takes longest.

    python tests/benchmarks/bench_export_mutations.py [--count 100000] [--seed 0] [--workers 2] [--out mutations.json]

Each thousand images is exported from a folder by worker processes with the memory that is given; every run is to end,
every image to be counted, and the target to verify. Then each image is read alone in this process, and timed.
"""

import argparse
import json
import multiprocessing
import re
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from mutations import mutations, sound

from foveate import Compressor, Progress
from foveate.export import compress_dataset, manifest, verify
from foveate.images import read

TOGETHER = 1000


class Watch:
    """Notes the most memory that a worker has held, in KB, whenever one has done a part."""

    def __init__(self) -> None:
        self.peak = 0

    def __call__(self, progress: Progress) -> None:
        for worker in multiprocessing.active_children():
            with suppress(OSError):
                status = Path(f"/proc/{worker.pid}/status").read_text()
                self.peak = max(self.peak, *map(int, re.findall(r"VmHWM:\s+(\d+) kB", status)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=100_000, help="mutations (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--memory", type=int, default=2 << 30, help="bytes that each may hold (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="file for the numbers as JSON")
    args = parser.parse_args()
    kinds: dict[str, Counter[str]] = {name: Counter() for name in sound()}
    reasons: Counter[str] = Counter()
    slowest, problems, done, began = (0.0, ""), 0, 0, time.perf_counter()
    drawn, watch = mutations(args.count, args.seed), Watch()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(-(-args.count // TOGETHER)):
            source, target = Path(folder) / f"in-{number}", Path(folder) / f"out-{number}"
            source.mkdir()
            images = dict(next(drawn) for _ in range(min(TOGETHER, args.count - done)))
            for name, data in images.items():
                (source / name).write_bytes(data)
                start = time.perf_counter()
                try:
                    read(data)
                except Exception as error:
                    reasons[type(error).__name__] += 1
                slowest = max(slowest, (time.perf_counter() - start, name))
            summary = compress_dataset(
                source,
                target,
                Compressor("webp:40,method=0"),
                shards=bool(number % 2),
                workers=args.workers,
                memory=args.memory,
                progress=watch,
            )
            assert sum(summary.kinds.values()) == len(images), summary
            failed = {reason.partition(":")[0] for reason in summary.failed}
            for line in manifest(target):
                kinds[line["source"].partition("-")[2]][line["kind"]] += 1
            for name in failed:
                kinds[name.partition("-")[2]]["failed"] += 1
            problems += len(verify(target))
            done += len(images)
            print(f"{done:,} of {args.count:,}: {summary}", file=sys.stderr)
    report = {
        "images": done,
        "kinds": {name: dict(sorted(counts.items())) for name, counts in kinds.items()},
        "problems": problems,
        "refused_as": dict(reasons.most_common()),
        "slowest": {"s": round(slowest[0], 3), "name": slowest[1]},
        "peak_MB_of_a_worker": round(watch.peak / 1024),
        "s": round(time.perf_counter() - began, 1),
    }
    width = max(map(len, kinds))
    for name, counts in kinds.items():
        print(f"{name:{width}}  " + "  ".join(f"{count:6,} {kind}" for kind, count in sorted(counts.items())))
    print(json.dumps({name: value for name, value in report.items() if name != "kinds"}, indent=1))
    if args.out is not None:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
