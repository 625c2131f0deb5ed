"""Learn the pre-filter's strength curve through the codec, and see whether it beats the default.

    python examples/train_strength.py                  # a quick look
    python examples/train_strength.py 300 120 1        # scenes to judge on, steps of training, price of a bit

Three numbers say how strongly a pixel of a given saliency is smoothed. They are trained by gradient through the filter
and Kornia's differentiable JPEG, for a classifier that stays as it is: divergence from its own answers on the untouched
scenes, plus a price on bits. The proxy counts no bits, so they are estimated from DCT coefficients. What comes out is
judged with real JPEG on other scenes, by that classifier and by one that had no part, beside the default curve at
several strengths. Labels play no part.

What it shows: after 80 steps at price 1 the learned curve ties with the default on 240 scenes and does not beat it
(geometric means of 1,542 and 1,541 bytes an image for the classifier that made the map, 1,136 and 1,139 for the
other).
"""

import io
import math
import sys

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import kl_div

import foveate
from foveate.demo import PREPROCESS, Scenes, scene_net
from foveate.evaluation import rate_at
from foveate.filters import resize
from foveate.images import as_tensor, to_uint8
from foveate.integrations.kornia import Jpeg, Prefilter, StrengthCurve
from foveate.prefilter import strength_map
from foveate.saliency import saliency_maps

QUALITIES = (5, 8, 13, 20, 32, 50)


def scenes(count: int, seed: int) -> Tensor:
    data = Scenes(count, seed)
    return torch.stack([as_tensor(data[k][0]) for k in range(count)])


def estimated_bits(images: Tensor, quality: int) -> Tensor:
    """Bits a pixel, roughly: the logarithm of each quantized luma coefficient's size."""
    data = foveate.Jpeg(quality).encode(np.zeros((8, 8, 3), np.uint8))
    table = torch.tensor(Image.open(io.BytesIO(data)).quantization[0]).view(8, 8)
    n = torch.arange(8.0)
    dct = torch.cos(math.pi / 8 * (n[None] + 0.5) * n[:, None]) * (2 / 8) ** 0.5
    dct[0] /= 2**0.5
    luma = 255 * (images * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1)
    blocks = luma.unfold(1, 8, 8).unfold(2, 8, 8)
    return torch.log2(1 + (dct @ blocks @ dct.T / table).abs()).mean()


def train(steps: int, price: float, batch: int = 8) -> StrengthCurve:
    """Return the curve after so many steps; it starts at the default."""
    model = scene_net().requires_grad_(False)
    images = scenes(48, seed=5).float() / 255
    clean = model(PREPROCESS(images)).log_softmax(1)
    curve = StrengthCurve(0.5)
    augment = Prefilter(foveate.GradCam(model, preprocess=PREPROCESS), curve=curve)
    optimizer = torch.optim.Adam(curve.parameters(), 0.05)
    for _ in range(steps):
        chosen = torch.randperm(len(images))[:batch]
        quality = int(torch.randint(6, 40, ()))
        filtered = augment(images[chosen])
        answers = model(PREPROCESS(Jpeg(quality)(filtered))).log_softmax(1)
        changed = kl_div(answers, clean[chosen], reduction="batchmean", log_target=True)
        loss = changed + price * estimated_bits(filtered, quality)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return curve


def main(judged: int = 32, steps: int = 8, price: float = 1.0) -> None:
    torch.manual_seed(0)
    curve = train(steps, price).requires_grad_(False)
    print(
        f"learned: amount {curve.amount:.2f}, threshold {curve.threshold:.3f}, exponent {curve.exponent:.2f}", end="; "
    )
    print("the default at strength 0.5: amount 1, threshold 0.25, exponent 1")
    images = scenes(judged, seed=6)
    judges = {"made the map": scene_net(), "had no part": scene_net("scene_net_small")}
    with torch.inference_mode():
        clean = {judge: model(PREPROCESS(images)).argmax(1) for judge, model in judges.items()}
    cam = foveate.GradCam(judges["made the map"], preprocess=PREPROCESS)
    prefilter = foveate.Prefilter(cam)
    maps, size = saliency_maps(cam, images), (160, 160)
    strengths = {f"default, strength {s:g}": strength_map(maps, size, s) for s in (0.3, 0.5, 0.7, 0.9)}
    strengths |= {"learned": curve(resize(maps, size).clamp(0, 1))}
    sources = {"JPEG alone": images, **{k: prefilter.smooth(images, v) for k, v in strengths.items()}}
    curves: dict[str, dict[str, tuple[list[float], list[float]]]] = {judge: {} for judge in judges}
    for name, source in sources.items():
        sizes, answers = [], {judge: [] for judge in judges}
        for quality in QUALITIES:
            compressor = foveate.Compressor(f"jpeg:{quality}")
            encoded = compressor.encode(to_uint8(source))
            decoded = torch.stack(compressor.decode(encoded))
            sizes.append(sum(len(e.data) for e in encoded) / judged)
            with torch.inference_mode():
                for judge, model in judges.items():
                    same = model(PREPROCESS(decoded)).argmax(1) == clean[judge]
                    answers[judge].append(float(same.float().mean()))
        for judge in judges:
            curves[judge][name] = (sizes, answers[judge])
    floors = (0.8, 0.85, 0.9, 0.95)
    print(f"bytes an image of real JPEG for 80, 85, 90 and 95 % unchanged answers, on {judged} other scenes:")
    for judge, rows in curves.items():
        print(f"  the classifier that {judge}")
        for name, points in rows.items():
            needed = [rate_at(*points, floor) for floor in floors]
            mean = sum(math.log(v) for v in needed) / len(needed)
            print(
                f"    {name:22}" + "".join(f"{v:8,.0f}" for v in needed) + f"   geometric mean {math.exp(mean):7,.0f}"
            )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]), *map(float, sys.argv[3:4]))
