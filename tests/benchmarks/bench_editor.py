"""What an editor saves, and its time: ``python tests/benchmarks/bench_editor.py [PHOTOS EDITOR --network M ...]``.

Without arguments, the editor of the demo on generated scenes, before the network that it was trained for and before
another. With them, an editor that ``foveate fit`` trained, on photos that it did not see; networks not in its loss are
told by its file. Bytes saved are at equal KL from the clean answers, against the cheapest scale and quality of JPEG
alone, with 95 % intervals of a paired bootstrap over the images. The edit by gradient (``--gradient N``, of the first N
images) has the networks of the editor in its loss. Times are ratios in one run, on one thread.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from timing import alternate
from torch import Tensor
from tqdm import tqdm

from foveate import Compressor, GradCam, PreEdit, Prefilter, Sweep
from foveate.demo import PREPROCESS, Scenes
from foveate.demo.editor import scene_editor
from foveate.evaluation import SampleFolder
from foveate.evaluation._bootstrap import Bootstrap, interval
from foveate.evaluation.curves import saved_or_beyond
from foveate.evaluation.report import span
from foveate.images import as_tensor
from foveate.models import Classifier, LazyClassifier, Preprocess
from foveate.preedit import Editor

LADDER = (3, 5, 8, 12, 16, 20, 27, 35, 50, 70)
SCALES = (1.0, 0.7)
QUALITIES = (12, 20, 35)
"""Of the edits."""
STRENGTHS = (0.5, 1.0)


class Judges:
    """Networks, and how far their answers on decoded images are from those on the images as they are."""

    def __init__(self, networks: Sequence[Classifier], images: Sequence[Tensor]) -> None:
        self.networks, self.images = networks, images
        self.clean = [self._ask(network, images) for network in networks]

    def _ask(self, network: Classifier, images: Sequence[Tensor]) -> Tensor:
        parts = [network.logits(images[k : k + 32]) for k in range(0, len(images), 32)]
        return torch.cat(parts).double().log_softmax(1)

    def measure(self, compressor: Compressor) -> tuple[Tensor, Tensor]:
        """Return the bytes (N,) of the images, and the KL of each network, (networks, N)."""
        encoded = compressor.encode(Sweep(self.images, None))
        decoded = compressor.decode(encoded)
        answers = [self._ask(network, decoded) for network in self.networks]
        divergences = [
            (clean.exp() * (clean - answer)).sum(1) for clean, answer in zip(self.clean, answers, strict=True)
        ]
        return torch.tensor([float(len(e.data)) for e in encoded]), torch.stack(divergences)


def saved(plain: Sequence[tuple[Tensor, Tensor]], edit: tuple[Tensor, Tensor], judge: int) -> str:
    """Return the bytes that an edit saves at equal KL of a judge, with their interval."""
    n = len(edit[0])
    rates = torch.stack([size[:n] for size, _ in plain] + [edit[0]])
    divergences = torch.stack([kl[judge, :n] for _, kl in plain] + [edit[1][judge]])
    draws = Bootstrap(n)
    rate, divergence = (
        np.concatenate([x.double().mean(1)[None].numpy(), draws.means(x)]) for x in (rates, divergences)
    )
    accuracy = -np.log(divergence)
    savings = [saved_or_beyond(r[:-1], a[:-1], r[-1], a[-1]) for r, a in zip(rate, accuracy, strict=True)]
    return f"{100 * savings[0]:.0f} % ({span(interval(np.array(savings[1:])))})"


def main(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    if options.photos is None:
        editor = scene_editor()
        specs = ["foveate.demo:scene_net", "foveate.demo:scene_net:scene_net_small"]
        networks = [LazyClassifier(spec, PREPROCESS) for spec in specs]
        images = [as_tensor(image) for image, _ in Scenes(options.limit, seed=77)]
    else:
        editor = Editor.load(options.editor)
        networks = [LazyClassifier(spec, Preprocess(options.resize, options.crop)) for spec in options.network]
        images = [sample.image for sample in SampleFolder(options.photos, options.limit)]
    judges = Judges([network.classifier for network in networks], images)
    plain = [
        judges.measure(Compressor(f"jpeg:{quality}", scale=scale))
        for scale in SCALES
        for quality in tqdm(LADDER, desc=f"scale {scale:g}")
    ]
    names = [f"{n.name} ({'in' if n.name in editor.networks else 'not in'} its loss)" for n in networks]
    print(f"| n = {len(images)} | bytes | {' | '.join(names)} |\n|---|--:|{'--:|' * len(names)}")
    for strength in STRENGTHS:
        for quality in QUALITIES:
            edit = judges.measure(Compressor(f"jpeg:{quality}", PreEdit(editor, strength)))
            cells = " | ".join(saved(plain, edit, k) for k in range(len(names)))
            print(f"| editor, strength {strength:g}, jpeg:{quality} | {edit[0].mean():,.0f} | {cells} |", flush=True)
    if options.gradient:
        few = Judges(judges.networks, images[: options.gradient])
        in_loss = [network for network in networks if network.name in editor.networks]
        edit = few.measure(Compressor("jpeg:20", PreEdit(in_loss)))
        cells = " | ".join(saved(plain, edit, k) for k in range(len(names)))
        print(f"| by gradient, strength 0.5, jpeg:20, n = {options.gradient} | {edit[0].mean():,.0f} | {cells} |")
        edit = few.measure(Compressor("jpeg:20", PreEdit(editor)))
        cells = " | ".join(saved(plain, edit, k) for k in range(len(names)))
        print(f"| editor, strength 0.5, jpeg:20, n = {options.gradient} | {edit[0].mean():,.0f} | {cells} |")
    batch = torch.nn.functional.interpolate(torch.rand(8, 3, 50, 63), (400, 500), mode="bilinear").mul(255).byte()
    blend, maps = Prefilter(GradCam("foveate.demo:scene_net", preprocess=PREPROCESS)), torch.rand(8, 1, 13, 16)
    edit = PreEdit(editor, codec="jpeg:20")
    calls = {"blend": lambda: blend(batch, maps), "editor": lambda: edit(batch)}
    for name, timing in alternate(calls, 20, "blend", len(batch)).items():
        quartiles = " to ".join(map(str, timing["ratio_quartiles"]))
        print(f"{name}: {timing['ms']} ms an image of 500x400, {timing['ratio']} ({quartiles}) times the blend")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="?", help="a folder with one subfolder of images a class")
    parser.add_argument("editor", type=Path, nargs="?", help="a file from foveate fit")
    parser.add_argument("--network", action="append", default=[], help="a judge")
    parser.add_argument("--resize", type=int, default=256)
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--limit", type=int, default=200, help="at most this many images")
    parser.add_argument("--gradient", type=int, default=0, help="images that are edited by gradient too")
    main(parser.parse_args())
