"""Compress batches inside Kornia's AugmentationSequential, with masks, and with gradients.

    python examples/kornia_sequential.py

Scenes are generated, so it needs no data.
"""

import kornia.augmentation as K
import torch

from foveate import Compressor
from foveate.demo import PREPROCESS, Scenes, scene_net
from foveate.images import as_tensor
from foveate.integrations.kornia import Jpeg, Prefilter


def main(scenes: int = 48) -> None:
    torch.manual_seed(0)
    samples = [Scenes(scenes, seed=3)[k] for k in range(scenes)]
    images = torch.stack([as_tensor(scene) for scene, _ in samples]).float() / 255
    labels = torch.tensor([label for _, label in samples])
    masks = (images.mean(1, keepdim=True) > 0.5).float()
    saliency = {"model": "foveate.demo:scene_net", "preprocess": "foveate.demo:PREPROCESS"}
    augment = K.AugmentationSequential(
        K.RandomHorizontalFlip(p=0.5),
        Prefilter(saliency, strength=(0.2, 0.6)),
        Jpeg(quality=(15, 60), straight_through=True, p=0.8),
        data_keys=["input", "mask"],
    )
    images.requires_grad_()
    decoded, flipped = augment(images, masks)
    model = scene_net().requires_grad_(False)
    logits = model(PREPROCESS(decoded.clamp(0, 1)))
    torch.nn.functional.cross_entropy(logits, labels).backward()
    right, whole = (logits.argmax(1) == labels).float().mean(), bool(flipped.sum() == masks.sum())
    print(f"{right:.1%} right; masks are whole: {whole}")
    print(f"the loss reaches the images through the codec: gradient {images.grad.norm():.4f}")
    filtered = Prefilter(saliency, strength=0.4)(images.detach())
    for name, batch in (("as they are", images.detach()), ("filtered", filtered)):
        encoded = Compressor("jpeg:40").encode(batch.clamp(0, 1))
        print(f"{name}: {sum(e.bpp for e in encoded) / scenes:.3f} bits a pixel at jpeg:40")


if __name__ == "__main__":
    main()
