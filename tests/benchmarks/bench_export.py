"""Exports: the pre-filter's cost with cached maps, and whether memory stays flat.

    python tests/benchmarks/bench_export.py PHOTOS --model M [--out export.json]

*Throughput*: ``compress_dataset`` with a pre-filter and cached maps over ``compress_dataset`` with the codec alone,
with the same number of processes on the same photos, in turns; images a second from the first part that is done to
the last, so without the start of the processes. *Memory*: resident memory of this process and of its workers while
20,000 images (links to the photos at 160 pixels a side) are filtered and encoded.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from PIL import Image

from foveate import CachedSaliency, Compressor, GradCam, Prefilter, Progress
from foveate.export import cache_maps, compress_dataset
from foveate.models import Preprocess, preprocess_of


class Watch:
    """Notes when parts are done, and how much memory the processes hold."""

    def __init__(self, every: int = 0) -> None:
        self.times: list[float] = []
        self.units: list[int] = []
        self.memory: dict[int, float] = {}
        self._every, self._done = every, 0

    def __call__(self, progress: Progress) -> None:
        before, self._done = self._done, progress.done
        if self._done == before:
            return
        self.times.append(time.perf_counter())
        self.units.append(self._done - before)
        if self._every and before // self._every < self._done // self._every:
            self.memory[self._done] = resident()

    @property
    def rate(self) -> float:
        """Units a second from the end of the first part to that of the last."""
        return sum(self.units[2:]) / (self.times[-1] - self.times[1])


def resident() -> float:
    """Resident memory of this process and all below it, shared pages counted once for each, in MB."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):  # the name alone: a process may go while it is looked at
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        below.setdefault(int(fields[1]), []).append(int(entry.name))
    total, left = 0, [os.getpid()]
    while left:
        pid = left.pop()
        left += below.get(pid, [])
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total * os.sysconf("SC_PAGESIZE") / 1e6


def throughput(photos: Path, folder: Path, cache: Path, codec: str, workers: int, rounds: int) -> dict[str, object]:
    """Return images a second with and without the filter, and the ratio of each round."""
    plain, filtered = Compressor(codec), Compressor(codec, Prefilter(CachedSaliency(cache), 0.5))
    rates: dict[str, list[float]] = {"alone": [], "filtered": []}
    for k in range(rounds):
        for name, compressor in (("alone", plain), ("filtered", filtered)):
            watch = Watch()
            target = folder / f"{codec.replace(':', '-')}-{workers}-{name}-{k}"
            compress_dataset(photos, target, compressor, workers=workers, part=8, progress=watch)
            rates[name].append(watch.rate)
    ratios = [b / a for a, b in zip(rates["alone"], rates["filtered"], strict=True)]
    return {
        "codec": codec,
        "workers": workers,
        "alone": statistics.median(rates["alone"]),
        "filtered": statistics.median(rates["filtered"]),
        "ratio": statistics.median(ratios),
        "ratios": [round(r, 3) for r in ratios],
    }


def flat(photos: Path, folder: Path, saliency: GradCam, count: int, workers: int) -> dict[str, object]:
    """Return the memory held while ``count`` images are compressed."""
    small, repeated = folder / "small", folder / "many"
    small.mkdir()
    repeated.mkdir()
    paths = sorted(photos.rglob("*.JPEG"))
    for k, path in enumerate(paths):
        Image.open(path).convert("RGB").resize((160, 160)).save(small / f"{k}.png")
    cache_maps(small, folder / "maps", saliency)
    for k in range(count):
        (repeated / f"{k:06}.png").symlink_to(small / f"{k % len(paths)}.png")
    watch = Watch(count // 10)
    compressor = Compressor("jpeg:50", Prefilter(CachedSaliency(folder / "maps"), 0.5))
    compress_dataset(repeated, folder / "out", compressor, workers=workers, progress=watch)
    return {"images": count, "workers": workers, "megabytes": {k: round(v) for k, v in watch.memory.items()}}


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=5, help="of the throughput; 0 leaves it out")
    parser.add_argument("--count", type=int, default=20_000, help="of images for the memory; 0 leaves it out")
    parser.add_argument("--codec", action="append", help="default: webp:50, jpeg:50 and avif:50")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    preprocess = Preprocess(256) if ":" in args.model else preprocess_of(args.model).without_crop()
    saliency = GradCam(args.model, preprocess=preprocess)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.rounds:
            cache_maps(args.images, folder / "cache", saliency)
        results: dict[str, object] = {"throughput": [], "memory": {}}
        for codec in (args.codec or ["webp:50", "jpeg:50", "avif:50"]) if args.rounds else []:
            for workers in (1, 2):
                result = throughput(args.images, folder, folder / "cache", codec, workers, args.rounds)
                print(result, flush=True)
                results["throughput"].append(result)  # type: ignore[attr-defined]
        if args.count:
            results["memory"] = flat(args.images, folder, saliency, args.count, 2)
            print(results["memory"])
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
