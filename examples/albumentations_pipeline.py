"""Compress inside an Albumentations pipeline, with boxes, and keep the pipeline in a file.

    python examples/albumentations_pipeline.py

Scenes are generated, so it needs no data. The saliency's model is a recipe: the file holds its name, and each worker
builds it once.
"""

import json
import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no look-up of newer versions
import albumentations as A
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from torch.utils.data import DataLoader, Dataset

import foveate
from foveate.demo import PREPROCESS, Scenes
from foveate.integrations.albumentations import Compress


class Boxed(Dataset):
    """Scenes through a pipeline, each with a box around it, and with the bytes that it would take."""

    def __init__(self, scenes: Scenes, chain: A.Compose) -> None:
        self.scenes, self.chain = scenes, chain

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        scene, label = self.scenes[index]
        out = self.chain(image=np.asarray(scene), bboxes=np.array([[40.0, 40, 120, 120]]), labels=[label])
        return out["image"], torch.as_tensor(out["bboxes"][0]), label


def main(scenes: int = 96) -> None:
    torch.manual_seed(0)
    saliency = {"model": "foveate.demo:scene_net", "preprocess": "foveate.demo:PREPROCESS"}
    chain = A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            Compress("jpeg", quality=(15, 60), saliency=saliency, strength=(0.2, 0.6)),
            A.Normalize(PREPROCESS.mean, PREPROCESS.std),
            ToTensorV2(),
        ],
        bbox_params=A.BboxParams("pascal_voc", label_fields=["labels"]),
    )
    kept = json.dumps(A.to_dict(chain))  # what A.save writes
    chain = A.from_dict(json.loads(kept))
    loader = DataLoader(Boxed(Scenes(scenes, seed=3), chain), batch_size=32, num_workers=2)
    model = foveate.demo.scene_net()
    right = 0
    with torch.inference_mode():
        for images, _boxes, labels in loader:
            right += int((model(images).argmax(1) == labels).sum())
    # What one operating point of the pipeline costs, by the compressor underneath.
    compressor = foveate.Compressor("jpeg:40", foveate.Prefilter(foveate.saliency.as_saliency(saliency), 0.4))
    encoded = compressor.encode([Scenes(1, seed=3)[0][0]])[0]
    print(f"{right / scenes:.1%} right on {scenes} compressed scenes; one at jpeg:40: {encoded.bpp:.3f} bits a pixel")


if __name__ == "__main__":
    main()
