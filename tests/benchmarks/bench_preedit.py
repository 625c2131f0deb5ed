"""What an edit saves, before the networks in its loss and before others.

``python tests/benchmarks/bench_preedit.py PHOTOS --network M [--network M ...] [--trunk M] [--leave-out]``

Every network judges. ``--trunk`` is only in the loss, and need not have a head. With ``--leave-out`` each network is
left out of the loss in turn and judged; without, all are in it. Bytes are compared at equal mean KL from the clean
answer, with the cheapest (scale, quality) of the codec alone that does as well, and with full size alone; 95 %
intervals by a bootstrap over the photos. ``--limit N --offset K`` takes photos K to K + N in an order drawn once, so
that settings are chosen on some and reported on others.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from foveate import Compressor, PreEdit, Sweep
from foveate.evaluation import SampleFolder
from foveate.models import Classifier, LazyClassifier, Preprocess

SCALES = (1.0, 0.7, 0.5)
Point = dict[str, Any]


class Bench:
    """Photos, judges and their clean answers."""

    def __init__(self, images: Sequence[Tensor], judges: dict[str, Classifier]) -> None:
        self.images, self.judges = images, judges
        self.sweeps = [Sweep([image]) for image in images]
        self.clean = [self.ask(image) for image in images]

    def ask(self, image: Tensor) -> dict[str, Tensor]:
        return {name: judge.logits([image])[0].double().log_softmax(0) for name, judge in self.judges.items()}

    def point(self, compressor: Compressor) -> Point:
        """Bytes, and KL and agreement of each judge, one value a photo."""
        sizes: list[int] = []
        kl: dict[str, list[float]] = {name: [] for name in self.judges}
        same: dict[str, list[float]] = {name: [] for name in self.judges}
        started = time.monotonic()
        for clean, sweep in zip(self.clean, tqdm(self.sweeps, desc=str(compressor.codec), leave=False), strict=True):
            encoded = compressor.encode(sweep)
            sizes.append(len(encoded[0].data))
            for name, answer in self.ask(compressor.decode(encoded)[0]).items():
                kl[name].append(float((clean[name].exp() * (clean[name] - answer)).sum()))
                same[name].append(float(answer.argmax() == clean[name].argmax()))
        seconds = (time.monotonic() - started) / len(self.images)
        return {"bytes": np.array(sizes), "kl": _arrays(kl), "same": _arrays(same), "seconds": seconds}


def _arrays(values: dict[str, list[float]]) -> dict[str, NDArray[np.float64]]:
    return {name: np.array(column) for name, column in values.items()}


def bytes_at(points: Sequence[Point], judge: str, kl: float, rows: NDArray[np.int64]) -> float:
    """The bytes of the cheapest points that are at a KL, interpolated between them on logarithmic axes."""
    ranked = sorted((-np.log(p["kl"][judge][rows].mean()), np.log(p["bytes"][rows].mean())) for p in points)
    envelope: list[tuple[float, float]] = []
    for closeness, size in reversed(ranked):
        if not envelope or size < envelope[-1][1]:
            envelope.append((closeness, size))
    closeness, sizes = zip(*reversed(envelope), strict=True)
    return float(np.exp(np.interp(-np.log(kl), closeness, sizes)))


def saved(points: Sequence[Point], edited: Point, judge: str, resamples: int = 1000) -> tuple[float, float, float]:
    """The share of bytes saved at equal KL, and its interval."""
    count = len(edited["bytes"])
    generator = np.random.default_rng(0)

    def of(rows: NDArray[np.int64]) -> float:
        at = bytes_at(points, judge, edited["kl"][judge][rows].mean(), rows)
        return float(1 - edited["bytes"][rows].mean() / at)

    draws = [of(generator.integers(0, count, count)) for _ in range(resamples)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return of(np.arange(count)), float(low), float(high)


def main(options: argparse.Namespace) -> None:
    samples = SampleFolder(options.photos)
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0)).tolist()
    images = [samples[k].image for k in order[options.offset : options.offset + options.limit]]
    preprocess = Preprocess(256, 224)
    networks = {LazyClassifier(spec).name: LazyClassifier(spec, preprocess) for spec in options.network}
    trunks = [LazyClassifier(spec, preprocess) for spec in options.trunk]
    bench = Bench(images, {name: network.classifier for name, network in networks.items()})
    plain = {
        (scale, quality): bench.point(Compressor(f"{options.codec}:{quality}", scale=scale))
        for scale in SCALES
        for quality in options.plain
    }
    rows = []
    for left_out in [*networks] if options.leave_out else [None]:
        models = [network for name, network in networks.items() if name != left_out] + trunks
        for scale in options.scale:
            for quality in options.quality:
                edit = PreEdit(
                    models,
                    options.strength,
                    codec=f"{options.codec}:{quality}",
                    steps=options.steps,
                    limit=options.edit_limit,
                    objective=options.objective,
                    cache=options.cache,
                )
                point = bench.point(Compressor(f"{options.codec}:{quality}", edit, scale=scale))
                for judge in [left_out] if left_out else networks:
                    row = _row(plain, point, judge) | {
                        "in the loss": left_out is None,
                        "scale": scale,
                        "quality": quality,
                        "n": len(images),
                    }
                    rows.append(row)
                    print(json.dumps(row), flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps(rows, indent=1))


def _row(plain: dict[tuple[float, float], Point], point: Point, judge: str) -> dict[str, Any]:
    full = [p for (scale, _), p in plain.items() if scale == 1]
    return {
        "judge": judge,
        "bytes": round(float(point["bytes"].mean())),
        "kl": round(float(point["kl"][judge].mean()), 3),
        "agreement": round(float(point["same"][judge].mean()), 3),
        "saved against quality": [round(v, 3) for v in saved(full, point, judge)],
        "saved against quality and scale": [round(v, 3) for v in saved([*plain.values()], point, judge)],
        "seconds a photo": round(point["seconds"], 2),
    }


def _numbers(text: str) -> list[float]:
    return [int(part) if part.isdigit() else float(part) for part in text.split(",")]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder with one subfolder of images a class")
    parser.add_argument("--network", action="append", required=True, help="judges, and is in the loss")
    parser.add_argument("--trunk", action="append", default=[], help="in the loss alone")
    parser.add_argument("--leave-out", action="store_true")
    parser.add_argument("--codec", default="jpeg")
    parser.add_argument("--plain", type=_numbers, default=[5, 7, 10, 14, 20, 28, 40, 55, 75])
    parser.add_argument("--quality", type=_numbers, default=[20, 35])
    parser.add_argument("--scale", type=_numbers, default=[1.0, 0.5])
    parser.add_argument("--strength", type=float, default=0.5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--edit-limit", type=float, default=30.0)
    parser.add_argument("--objective", default="features")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--offset", type=int, default=0)
    parser.add_argument("--out", type=Path)
    main(parser.parse_args())
