"""Train on compressed images: Foveate in a DataLoader's transform chain, with the bytes each sample cost.

    python examples/dataloader.py

Scenes are generated, so it needs no data. The saliency is given its model by recipe, so each worker builds it once.
"""

import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

import foveate
from foveate.demo import PREPROCESS, SceneNet, Scenes
from foveate.transforms import Compress


def main(scenes: int = 400, epochs: int = 2) -> None:
    torch.manual_seed(0)
    cam = foveate.GradCam("foveate.demo:scene_net", preprocess=PREPROCESS)
    chain = v2.Compose(
        [
            Compress("jpeg", quality=(15, 60), prefilter=foveate.Prefilter(cam), strength=(0.2, 0.6), return_rate=True),
            v2.RandomHorizontalFlip(),  # what follows takes the pair (image, rate) as it is
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(PREPROCESS.mean, PREPROCESS.std),
        ]
    )
    loader = DataLoader(Scenes(scenes, seed=3, transform=chain), batch_size=32, shuffle=True, num_workers=2)
    model = SceneNet(width=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for epoch in range(epochs):
        bits = pixels = 0
        for (images, rate), labels in loader:
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            bits += 8 * int(rate["bytes"].sum())
            pixels += int(rate["pixels"].sum())
        print(f"epoch {epoch}: loss {loss.item():.3f}, {bits / pixels:.3f} bits a pixel")


if __name__ == "__main__":
    main()
