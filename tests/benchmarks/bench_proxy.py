"""How close the differentiable codecs are to the real ones: ``python tests/benchmarks/bench_proxy.py PHOTOS``.

For each codec and quality: the PSNR between what the proxy and the codec decode, the steps of blocks of 8x8 that leave
the codec's error in luma and chroma (those in ``foveate.codecs.proxy``), and how the estimated bits go with the real
ones: their ratio over all photos, and the correlation over photos.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from foveate.codecs import Codec, as_codec
from foveate.codecs.proxy import Proxy, proxy_for
from foveate.evaluation import SampleFolder
from foveate.filters import resize
from foveate.images import to_array, to_float, to_uint8

QUALITIES = {
    "jpeg": (10, 20, 35, 60, 80),
    "webp": (5, 20, 40, 60, 80, 95),
    "avif": (15, 30, 45, 60, 75, 90),
    "hevc": (48, 42, 36, 30, 24, 18),
}
SIDE = 8


def flat(luma: float, chroma: float) -> Proxy:
    """Blocks of 8x8 with one step for all coefficients, and one unit a bit."""
    return Proxy(((luma,) * SIDE,) * SIDE, ((chroma,) * SIDE,) * SIDE)


def decoded(codec: Codec, images: Sequence[Tensor]) -> tuple[list[Tensor], list[int]]:
    data = [codec.encode(to_array(image[0])) for image in images]
    arrays = [codec.decode(stream) for stream in data]
    return [torch.from_numpy(a.copy()).permute(2, 0, 1)[None] / 255 for a in arrays], [8 * len(d) for d in data]


def errors(planes: Sequence[Sequence[Tensor]], others: Sequence[Sequence[Tensor]]) -> list[float]:
    """The mean squared error of luma and of chroma, over all images."""
    return [
        float(np.mean([float((a[k] - b[k]).square().mean()) for a, b in zip(planes, others, strict=True)]))
        for k in (0, 1)
    ]


def fitted(targets: Sequence[float], planes: Sequence[Sequence[Tensor]]) -> list[float]:
    """The steps of luma and chroma that leave given errors, by bisection."""
    steps = []
    for k in (0, 1):
        low, high = 0.3, 500.0
        for _ in range(20):
            middle = (low * high) ** 0.5
            coded = [flat(middle, middle).code(p)[0] for p in planes]
            low, high = (middle, high) if errors(coded, planes)[k] < targets[k] else (low, middle)
        steps.append(low)
    return steps


def main(photos: Path, limit: int, side: int) -> None:
    samples = [sample.image for sample in SampleFolder(photos, limit)]
    if side:
        scales = [side / min(image.shape[-2:]) for image in samples]
        sizes = [(round(i.shape[-2] * s), round(i.shape[-1] * s)) for i, s in zip(samples, scales, strict=True)]
        samples = [to_uint8(resize(to_float(i)[None], size))[0] for i, size in zip(samples, sizes, strict=True)]
    images = [to_float(image)[None] for image in samples]
    planes = [flat(1, 1).planes(image) for image in images]
    print("codec | PSNR to the codec | luma and chroma step | bits a unit | correlation")
    for name, qualities in QUALITIES.items():
        for quality in qualities:
            codec = as_codec(f"{name}:{quality}")
            real, bits = decoded(codec, images)
            coded = [proxy_for(codec)(image) for image in images]
            psnr = np.mean(
                [-10 * np.log10(float((a - b).square().mean())) for (a, _), b in zip(coded, real, strict=True)]
            )
            steps = "as the codec's"
            if name != "jpeg":
                targets = errors([flat(1, 1).planes(image) for image in real], planes)
                fit = flat(*fitted(targets, planes))
                steps = f"{fit.luma[0][0]:.1f} {fit.chroma[0][0]:.1f}"
                units = np.array([float(fit.code(p)[1]) for p in planes])
            else:
                units = np.array([float(b) for _, b in coded]) / proxy_for(codec).bits_per_unit
            ratio, correlation = sum(bits) / units.sum(), np.corrcoef(bits, units)[0, 1]
            print(f"{codec} | {psnr:.1f} dB | {steps} | {ratio:.2f} | {correlation:.3f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder with subfolders of images")
    parser.add_argument("--limit", type=int, default=10)
    parser.add_argument("--side", type=int, default=256, help="the short side of the images; 0 leaves them as they are")
    options = parser.parse_args()
    with torch.no_grad():
        main(options.photos, options.limit, options.side)
