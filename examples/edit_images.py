"""Edit images so that a network sees the same in fewer bytes, and see how that compares with a lower quality.

    python examples/edit_images.py [OUT.png]

With OUT.png it draws a scene, its edit and what changed.
"""

import sys
from pathlib import Path

import torch

import foveate
from foveate.demo import PREPROCESS, Scenes
from foveate.images import as_tensor, to_array
from foveate.models import LazyClassifier

SCENES, QUALITY = 12, 35


def answers(images: torch.Tensor, network: LazyClassifier) -> torch.Tensor:
    return network.classifier.logits([*images]).log_softmax(1)


def main(out: Path | None) -> None:
    scenes = torch.stack([as_tensor(scene) for scene, _ in Scenes(SCENES, seed=7)])
    network = LazyClassifier("foveate.demo:scene_net", PREPROCESS)
    clean = answers(scenes, network)
    edit = foveate.PreEdit([network], strength=0.5, steps=40)
    points = [foveate.Compressor(f"jpeg:{quality}") for quality in (12, 16, 20, 25, QUALITY)]
    for compressor in [*points, foveate.Compressor(f"jpeg:{QUALITY}", edit)]:
        encoded = compressor.encode(scenes)
        decoded = answers(torch.stack(compressor.decode(encoded)), network)
        divergence = (clean.exp() * (clean - decoded)).sum(1).mean()
        size = sum(len(image.data) for image in encoded) / SCENES
        kind = "edited, " if compressor.prefilter is not None else ""
        print(f"{kind}{compressor.codec}: {size:,.0f} bytes an image, {divergence:.3f} KL from the clean answer")
    if out is not None:
        draw(scenes[0], edit.before(foveate.Jpeg(QUALITY))(scenes[:1])[0], out)


def draw(scene: torch.Tensor, edited: torch.Tensor, out: Path) -> None:
    from matplotlib.figure import Figure

    change = 128 + 2 * (edited.float() - scene.float())
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = {"the scene": scene, "edited": edited, "what changed, twice": change.clamp(0, 255).byte()}
    for panel, (title, image) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        panel.imshow(to_array(image))
        panel.set_title(title)
        panel.axis("off")
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
