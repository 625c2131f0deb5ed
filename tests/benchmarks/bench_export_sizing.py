"""What a dataset of a million or a billion images takes, from what one image takes here.

    python tests/benchmarks/bench_export_sizing.py PHOTOS --model M [--page examples/clusters.md] [--limit N]

For each photo: its bytes and those of the compressed one, and the time to read and decode it, to make its map, to
filter it with a given map, and to encode it: CPU time of one thread, the median of three rounds. Sizes and hours are
the means over the photos times their number. The tables are printed and, with ``--page``, put between its markers.
"""

import argparse
import platform
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from foveate import Compressor, GradCam, Prefilter
from foveate.evaluation import SampleFolder
from foveate.images import read
from foveate.models import Preprocess, preprocess_of

SETS = (("1.28 M", 1_281_167), ("1 B", 1_000_000_000))
CORES = {"1.28 M": 64, "1 B": 2048}
GPU_RATE = 2000  # images a second, assumed


def timed(job: Callable[[], Any], rounds: int = 3) -> tuple[float, Any]:
    """Return the median of the CPU seconds that a job takes, and what it returns."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        figures = job()
        times.append(time.process_time() - start)
    return statistics.median(times), figures


def measure(paths: list[Path], model: str, codecs: list[str], strength: float) -> dict[str, list[float]]:
    """Return what each photo took: seconds by step, and bytes."""
    preprocess = preprocess_of(model) if ":" not in model else Preprocess()
    prefilter = Prefilter(GradCam(model, preprocess=preprocess.without_crop()), strength)
    compressors = {codec: Compressor(codec, prefilter) for codec in codecs}
    figures: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        figures.setdefault(name, []).append(value)

    prefilter(read(paths[0])[None])  # the model is built
    for path in paths:
        seconds, image = timed(lambda path=path: read(path.read_bytes()))
        note("read", seconds)
        note("source", path.stat().st_size)
        batch = image[None]
        seconds, maps = timed(lambda batch=batch: prefilter.saliency(batch))
        note("saliency", seconds)
        note("map", maps.numel() + 16 + 8 + 8)  # with its key, size and place
        seconds, filtered = timed(lambda batch=batch, maps=maps: prefilter(batch, maps))
        note("filter", seconds)
        for codec, compressor in compressors.items():
            seconds, encoded = timed(lambda c=compressor, f=filtered: c.store(f))
            note(f"encode {codec}", seconds)
            note(f"bytes {codec}", len(encoded[0].data))
    return figures


def tables(figures: dict[str, list[float]], codecs: list[str], model: str, strength: float) -> str:
    """Return the tables as markdown."""
    mean = {name: statistics.fmean(values) for name, values in figures.items()}
    steps = ["read", "saliency", "filter", *(f"encode {codec}" for codec in codecs)]
    lines = [
        f"Measured on {len(figures['read'])} photos, one thread of a processor that calls itself {processor()}, maps "
        f"by `{model.rpartition(':')[2]}`, strength {strength:g}:",
        "",
        "| an image, CPU time of one thread | mean | median |",
        "|---|---|---|",
    ]
    names = {
        "read": "read and decode",
        "saliency": "saliency, forward pass and all",
        "filter": "pre-filter, given a map",
    }
    for step in steps:
        middle = statistics.median(figures[step])
        lines.append(f"| {names.get(step, step)} | {mean[step] * 1e3:.1f} ms | {middle * 1e3:.1f} ms |")
    for name in ("source", *(f"bytes {codec}" for codec in codecs)):
        middle = statistics.median(figures[name])
        lines.append(
            f"| {name.replace('source', 'bytes, source')} | {mean[name] / 1e3:.1f} kB | {middle / 1e3:.1f} kB |"
        )
    lines += ["", f"| | {' | '.join(name for name, _ in SETS)} |", f"|---|{'---|' * len(SETS)}"]

    def row(name: str, cell: Callable[[str, int], str]) -> None:
        lines.append(f"| {name} | {' | '.join(cell(which, count) for which, count in SETS)} |")

    row("source", lambda _, n: size(n * mean["source"]))
    for codec in codecs:
        row(f"target, {codec}", lambda _, n, c=codec: size(n * mean[f"bytes {c}"]))
    row("cache of maps", lambda _, n: size(n * mean["map"]))
    row("saliency on CPUs, core hours", lambda _, n: hours(n * mean["saliency"]))
    for codec in codecs:
        work = mean["read"] + mean["filter"] + mean[f"encode {codec}"]
        row(f"read, filter, encode {codec}, core hours", lambda _, n, w=work: hours(n * w))
        row(
            f"all of it, {codec}, hours on {' or '.join(f'{CORES[name]:,}' for name, _ in SETS)} cores",
            lambda which, n, w=work: hours(n * (w + mean["saliency"]) / CORES[which]),
        )
    row(
        f"*saliency on GPUs, GPU hours at an **assumed** {GPU_RATE:,} images a second each; not measured here*",
        lambda _, n: f"*{hours(n / GPU_RATE)}*",
    )
    feeding = GPU_RATE * mean["read"]
    lines += [
        "",
        f"A GPU at the assumed rate needs {feeding:.0f} cores that read and decode for it ({GPU_RATE:,} x "
        f"{mean['read'] * 1e3:.1f} ms).",
    ]
    return "\n".join(lines)


def size(count: float) -> str:
    """Bytes in the unit that suits."""
    for unit in ("kB", "MB", "GB", "TB"):
        count /= 1000
        if count < 1000:
            return f"{count:.3g} {unit}"
    return f"{count:,.0f} TB"


def hours(seconds: float) -> str:
    """Seconds as hours."""
    value = seconds / 3600
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def processor() -> str:
    """The name of this machine's processor."""
    try:
        names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--codec", action="append", help="default: webp:60 and jpeg:60")
    parser.add_argument("--strength", type=float, default=0.5)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--page", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    codecs = args.codec or ["webp:60", "jpeg:60"]
    paths = SampleFolder(args.photos, args.limit).paths
    text = tables(measure(paths, args.model, codecs, args.strength), codecs, args.model, args.strength)
    print(text)
    if args.page is not None:
        before, begin, rest = args.page.read_text(encoding="utf-8").partition("<!-- sizing -->\n")
        _, end, after = rest.partition("<!-- end of sizing -->\n")
        if not begin or not end:
            raise SystemExit(f"{args.page} has no markers <!-- sizing --> and <!-- end of sizing -->")
        args.page.write_text(f"{before}{begin}\n{text}\n\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
