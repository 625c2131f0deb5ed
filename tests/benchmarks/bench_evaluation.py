"""What the evaluation costs beside its work: its time over that of encoding, decoding and forward passes alone.

    python tests/benchmarks/bench_evaluation.py PHOTOS --model M --judge J [--limit 24]

The parts are measured in the same process on the same images, with the same threads and the same batches, and take
turns with the whole. Maps, filters, preprocessing and records are what the ratio is above 1 for.
"""

import argparse
import statistics
import time
from pathlib import Path

from torch import Tensor

from foveate import Compressor, GradCam, Prefilter
from foveate._threads import parallel_map
from foveate.evaluation import Judge, SampleFolder, measure
from foveate.images import from_array, to_array
from foveate.models import load_classifier


def main() -> None:
    """Print the medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--judge", required=True)
    parser.add_argument("--limit", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    folder = SampleFolder(args.images, args.limit)
    folder.number_classes(1000)
    samples = [folder[k] for k in range(len(folder))]
    judges = [Judge(load_classifier(spec), spec == args.model) for spec in (args.model, args.judge)]
    maker = judges[0].classifier
    prefilter = Prefilter(GradCam(maker.model, preprocess=maker.preprocess.without_crop()))
    points = [
        Compressor(f"{name}:{q}", p)
        for p in (None, prefilter)
        for name, qualities in (("jpeg", (12, 25, 50, 75)), ("webp", (5, 20, 50, 80)))
        for q in qualities
    ]
    # Filtered beforehand: the parts are then the codec's and the networks' time alone.
    stored = [[to_array(stored_image(point, sample.image)) for point in points] for sample in samples]
    codecs = [p.codec for p in points]

    def alone() -> dict[str, float]:
        spent = dict.fromkeys(("encode", "decode", "forward"), 0.0)
        for sample, arrays in zip(samples, stored, strict=True):
            began = time.perf_counter()
            data = parallel_map(lambda job: job[0].encode(job[1]), zip(codecs, arrays, strict=True))
            encoded = time.perf_counter()
            images = parallel_map(lambda job: job[0].decode(job[1]), zip(codecs, data, strict=True))
            decoded = time.perf_counter()
            views = maker.preprocess.batch([sample.image, *map(from_array, images)])
            ready = time.perf_counter()
            for judge in judges:
                judge.classifier.forward(views)
            spent["encode"] += encoded - began
            spent["decode"] += decoded - encoded
            spent["forward"] += time.perf_counter() - ready
        return spent

    def whole() -> float:
        began = time.perf_counter()
        measure(samples, judges, points)
        return time.perf_counter() - began

    alone(), whole()
    parts, totals = [], []
    for _ in range(args.rounds):
        parts.append(alone())
        totals.append(whole())
    ratios = [total / sum(part.values()) for total, part in zip(totals, parts, strict=True)]
    cells = len(samples) * len(points)
    for name in parts[0]:
        print(f"{name:10} {1000 * statistics.median(p[name] for p in parts) / cells:7.2f} ms per image and point")
    print(f"evaluation {1000 * statistics.median(totals) / cells:7.2f} ms per image and point")
    print(f"ratio      {statistics.median(ratios):7.2f} ({min(ratios):.2f} to {max(ratios):.2f}, {args.rounds} rounds, n = {len(samples)})")  # fmt: skip # noqa: E501


def stored_image(point: Compressor, image: Tensor) -> Tensor:
    """The image (3, H, W) that an operating point hands to its codec."""
    return image if point.prefilter is None else point.prefilter(image[None])[0]


if __name__ == "__main__":
    main()
