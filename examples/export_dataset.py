"""Compress a dataset into another that any loader reads: maps once, then files, then plain torchvision.

    python examples/export_dataset.py            # generated scenes

The same for your own photos is a command: ``foveate compress PHOTOS OUT --model resnet18 --cache MAPS``.
"""

import tempfile
from pathlib import Path

from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from foveate import Compressor, GradCam, Prefilter
from foveate.demo import CLASSES, PREPROCESS, Scenes
from foveate.export import compress_dataset, manifest, verify


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for k, (scene, label) in enumerate(Scenes(40, seed=3)):
            path = folder / "photos" / CLASSES[label] / f"{k:03}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            scene.save(path, quality=95)

        cam = GradCam("foveate.demo:scene_net", preprocess=PREPROCESS)  # by recipe: each worker builds its own
        compressor = Compressor("webp:50", Prefilter(cam, 0.5))
        # Stopped, the same call goes on. The maps serve again, at another quality or in training.
        summary = compress_dataset(folder / "photos", folder / "small", compressor, cache=folder / "maps", workers=2)
        print(summary)
        assert verify(folder / "small") == []

        transform = v2.Compose([v2.ToImage(), v2.Resize(64), v2.CenterCrop(64)])
        data = ImageFolder(folder / "small", transform)
        batches = [(tuple(images.shape), len(labels)) for images, labels in DataLoader(data, 20, shuffle=True)]
        print(f"{len(data)} images of {len(data.classes)} classes, in batches of {batches[0][0]}")
        count = sum(line["kind"] == "compressed" for line in manifest(folder / "small"))
        print(f"{summary.source_bytes / count:,.0f} bytes an image before, {summary.bytes / count:,.0f} after")


if __name__ == "__main__":  # worker processes import this file
    main()
