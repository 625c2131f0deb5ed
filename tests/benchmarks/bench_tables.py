"""JPEG's quantization tables for networks: searched for on half of the photos, measured on the others.

    python tests/benchmarks/bench_tables.py PHOTOS --network M [--network M ...] --search
    python tests/benchmarks/bench_tables.py PHOTOS --network M [--network M ...]

The search changes the tables of Annex K by four numbers: a factor for the lowest luma frequencies, the slope of the
luma steps over the frequency, a factor for the chroma steps, and their slope. It is a descent, one number at a time, on
the bytes saved at equal KL from the clean answers, on average over the networks and three qualities. Photos are taken
in an order drawn once: those of the search are in the first half of the folder, the others in the second.
"""

import argparse
import io
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from edit_section import Floats, share
from PIL import Image
from results_section import row
from torch import Tensor
from tqdm import tqdm

from foveate import Compressor
from foveate.codecs import Jpeg
from foveate.evaluation import SampleFolder
from foveate.evaluation._bootstrap import Bootstrap
from foveate.evaluation.curves import bd_rate, saved_or_beyond
from foveate.models import LazyClassifier, Preprocess

PREPROCESS = Preprocess(256, 224)
LADDER = (6, 9, 13, 18, 25, 35, 50, 70, 88)
SEARCHED = (15, 30, 55)
SCALES = (1.0, 0.5)
ROUNDS = 4
BATCH = 8

Tables = tuple[tuple[int, ...], ...]
Point = tuple[Tensor, Tensor]
"""Bytes (N,) and KL (judges, N) of the photos."""


def annex_k() -> list[npt.NDArray[np.float64]]:
    """Return the luma and the chroma table, (8, 8), as libjpeg writes them."""
    tables = Image.open(io.BytesIO(Jpeg(50).encode(np.zeros((16, 16, 3), np.uint8)))).quantization  # type: ignore[attr-defined]
    return [np.array(tables[k], float).reshape(8, 8) for k in (0, 1)]


def changed(low: float, slope: float, chroma_factor: float, chroma_slope: float) -> Tables:
    """Return the tables that four numbers stand for; (1, 0, 1, 0) are those of Annex K."""
    luma, chroma = annex_k()
    frequency = np.add.outer(np.arange(8), np.arange(8)) / 14 - 0.25
    luma *= np.exp(slope * frequency)
    luma[0, 0] *= low
    luma[0, 1] *= low**0.5
    luma[1, 0] *= low**0.5
    chroma *= chroma_factor * np.exp(chroma_slope * frequency)
    return tuple(tuple(int(v) for v in np.clip(np.rint(table), 1, 255).flatten()) for table in (luma, chroma))


class Bench:
    """Photos, judges and what they say of the photos as they are."""

    def __init__(self, specs: Sequence[str], photos: Sequence[Tensor]) -> None:
        self.judges = [LazyClassifier(spec, PREPROCESS).classifier for spec in specs]
        for judge in self.judges:
            judge.model.to(memory_format=torch.channels_last)
        self.photos = photos
        self.clean = self.ask(photos)

    def ask(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Return each judge's log-probabilities (N, classes)."""
        batches = [PREPROCESS.batch(images[k : k + BATCH]) for k in range(0, len(images), BATCH)]
        return [torch.cat([judge.forward(x).double().log_softmax(1) for x in batches]) for judge in self.judges]

    def point(self, quality: int, tables: Tables | None, scale: float = 1.0) -> Point:
        """Measure one compressor."""
        compressor = Compressor(Jpeg(quality, tables=tables), scale=scale)
        encoded = compressor.encode(self.photos)
        answers = self.ask(compressor.decode(encoded))
        kl = [(clean.exp() * (clean - x)).sum(1) for clean, x in zip(self.clean, answers, strict=True)]
        return torch.tensor([float(len(e.data)) for e in encoded]), torch.stack(kl)

    def search(self) -> list[float]:
        """Descend from Annex K; print what each step saves."""
        reference = [self.point(quality, None) for quality in LADDER]

        def saved(numbers: Sequence[float]) -> float:
            points = [self.point(quality, changed(*numbers)) for quality in SEARCHED]
            gains = np.array(
                [
                    [
                        saved_or_beyond(
                            [float(size.mean()) for size, _ in reference],
                            [-float(kl[judge].mean().log()) for _, kl in reference],
                            float(size.mean()),
                            -float(kl[judge].mean().log()),
                        )
                        for size, kl in points
                    ]
                    for judge in range(len(self.judges))
                ]
            )
            print([round(x, 3) for x in numbers], f"{gains.mean():+.2%}", (gains.mean(1) * 100).round(1), flush=True)
            return float(gains.mean())

        best, steps = [1.0, 0.0, 1.0, 0.0], [0.4, 0.6, 0.5, 0.6]
        gain = saved(best)
        for _ in range(ROUNDS):
            for k in range(4):
                for sign in (1, -1):
                    numbers = [*best]
                    numbers[k] = best[k] * float(np.exp(sign * steps[k])) if k in (0, 2) else best[k] + sign * steps[k]
                    if (gain_here := saved(numbers)) > gain:
                        gain, best = gain_here, numbers
                        break
            steps = [step / 1.8 for step in steps]
        return best


def compared(standard: Sequence[Point], machine: Sequence[Point], judge: int) -> Floats:
    """Return what a curve saves at equal KL, averaged over it; the first is measured, the others are resamples."""
    n = len(standard[0][0])
    draws = Bootstrap(n)

    def curve(points: Sequence[Point]) -> tuple[Floats, Floats]:
        rates, values = (torch.stack([p[0] for p in points]), torch.stack([p[1][judge] for p in points]))
        means = [np.concatenate([x.double().mean(1)[None].numpy(), draws.means(x)]) for x in (rates, values)]
        return means[0], -np.log(means[1])

    anchor, test = curve(standard), curve(machine)
    return np.array([-bd_rate(anchor[0][k], anchor[1][k], test[0][k], test[1][k]) for k in range(len(anchor[0]))])


def main(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    samples = SampleFolder(options.photos)
    order = [*range(len(samples))]
    random.Random(0).shuffle(order)
    half = len(order) // 2
    chosen = (order[:half] if options.search else order[half:])[: options.limit]
    bench = Bench(options.network, [samples[k].image for k in chosen])
    if options.search:
        best = bench.search()
        print(best, changed(*best))
        return
    machine = Jpeg(tables="machine").tables
    curves = {}
    for name, tables in (("standard", None), ("machine", machine)):
        for scale in SCALES:
            curves[name, scale] = [bench.point(q, tables, scale) for q in tqdm(LADDER, desc=f"{name}, scale {scale:g}")]
    names = [judge.name for judge in bench.judges]
    print(row([f"n = {len(chosen)}", *names]), "|---|" + "--:|" * len(names), sep="\n")
    for scale in SCALES:
        pair = curves["standard", scale], curves["machine", scale]
        print(row([f"scale {scale:g}", *(share(compared(*pair, judge)) for judge in range(len(names)))]))
    best = [[p for scale in SCALES for p in curves[name, scale]] for name in ("standard", "machine")]
    print(row(["best of all scales", *(share(compared(*best, judge)) for judge in range(len(names)))]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder with one subfolder of images a class")
    parser.add_argument("--network", action="append", required=True, help="a classifier whose answers count")
    parser.add_argument("--search", action="store_true", help="on the first half; otherwise measure on the second")
    parser.add_argument("--limit", type=int, default=250, help="at most this many photos")
    main(parser.parse_args())
