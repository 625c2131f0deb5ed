"""What the saliency and the pre-filter cost, as ratios in one run: ``python tests/benchmarks/bench_core.py``.

Every pair is run in turn, A B A B ..., and the ratio is taken pair by pair, so that a machine whose speed drifts does
not bend it. Prints one JSON object: medians, and the quartiles of the ratios.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from kornia.filters import gaussian_blur2d

from foveate import GradCam, Prefilter
from foveate.models import Preprocess


def compare(ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> dict[str, float]:
    """Time two calls in turn and return the medians in milliseconds and the ratio ours / theirs."""
    for warm_up in (ours, theirs, ours, theirs):
        warm_up()
    pairs = []
    for _ in range(repeats):
        times = []
        for call in (ours, theirs):
            began = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - began))
        pairs.append(times)
    low, middle, high = statistics.quantiles((a / b for a, b in pairs), n=4)
    return {
        "ours_ms": round(statistics.median(a for a, _ in pairs), 2),
        "theirs_ms": round(statistics.median(b for _, b in pairs), 2),
        "ratio": round(middle, 3),
        "ratio_quartiles": [round(low, 3), round(high, 3)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--batch", type=int, default=16)
    args = parser.parse_args()

    images = torch.rand(args.batch, 3, 224, 224)
    model = torchvision.models.mobilenet_v2(weights=None).eval()
    preprocess, cam = Preprocess(), GradCam(model)

    def forward() -> None:
        with torch.no_grad():
            model(preprocess(images))

    maps = cam(images)
    prefilter = Prefilter(cam, 0.5)
    # At this size a sigma of 3 pixels on the pictures themselves, like the blur it is compared with.
    prefilter_sigma_3 = Prefilter(cam, 0.5, sigma=3.0 * 256 / 224)

    print(
        json.dumps(
            {
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
                "batch": args.batch,
                "repeats": args.repeats,
                "GradCam / forward (mobilenet_v2)": compare(lambda: cam(images), forward, args.repeats),
                "Prefilter with a given map / kornia gaussian_blur2d, sigma 3": compare(
                    lambda: prefilter_sigma_3(images, maps),
                    lambda: gaussian_blur2d(images, (19, 19), (3.0, 3.0)),
                    args.repeats,
                ),
                "the same on uint8 images": compare(
                    lambda: prefilter((images * 255).byte(), maps),
                    lambda: gaussian_blur2d(images, (19, 19), (3.0, 3.0)),
                    args.repeats,
                ),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
