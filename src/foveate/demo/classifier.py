"""The small classifier that ships with the demo, and the script that trained it.

``python -m foveate.demo.classifier --out weights.safetensors`` trains it again from generated scenes alone.
"""

import argparse
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from foveate.demo.scenes import CLASSES, Scenes
from foveate.images import from_array
from foveate.models import Preprocess

__all__ = ["PREPROCESS", "SceneNet", "scene_net", "train"]

PREPROCESS = Preprocess(mean=(0.4, 0.4, 0.4), std=(0.25, 0.25, 0.25))
"""The preprocessing of the classifier for scenes in [0, 1]: no resizing, no crop."""


class SceneNet(nn.Module):
    """Six 3x3 convolutions with batch normalization, global average pooling and a linear layer.

    It takes (B, 3, H, W) scenes, preprocessed by ``PREPROCESS``, to (B, 10) logits. Its last convolutional stage is
    ``features``, at an eighth of the resolution.

    Args:
        width: channels of the first layer.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for factor, stride in ((1, 2), (2, 2), (2, 1), (4, 2), (4, 1), (6, 1)):
            layers += [
                nn.Conv2d(channels, factor * width, 3, stride, 1, bias=False),
                nn.BatchNorm2d(factor * width),
                nn.ReLU(inplace=True),
            ]
            channels = factor * width
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, 10) of preprocessed scenes."""
        return self.head(self.features(x).mean((2, 3)))


def scene_net(weights: str = "scene_net") -> SceneNet:
    """Return a trained classifier that ships with the package, in eval mode.

    Args:
        weights: ``"scene_net"``, or ``"scene_net_small"``, which is narrower and was trained from another seed: a judge
            that did not make the map.

    Raises:
        ValueError: if there are no such weights.

    Example:
        >>> import torch
        >>> scene_net()(torch.zeros(1, 3, 160, 160)).shape
        torch.Size([1, 10])
    """
    path = files("foveate.demo") / f"{weights}.safetensors"
    if not path.is_file():
        raise ValueError(f"weights: expected 'scene_net' or 'scene_net_small', got {weights!r}")
    state = {k: v.float() if v.is_floating_point() else v for k, v in load_tensors(path.read_bytes()).items()}
    model = SceneNet(width=state["head.weight"].shape[1] // 6)
    model.load_state_dict(state)
    return model.eval()


def train(width: int, seed: int, scenes: int, epochs: int) -> SceneNet:
    """Train a classifier on generated scenes on the CPU and print its accuracy on unseen ones.

    Args:
        width: channels of the first layer.
        seed: of the weights and the batches; the scenes are those of seed 0 (and 1 for the check).
        scenes: the number to train on.
        epochs: passes over them, with a one-cycle learning rate.
    """
    torch.manual_seed(seed)
    loader = torch.utils.data.DataLoader(_Tensors(scenes, 0), batch_size=100, num_workers=2)
    images, labels = (torch.cat(parts) for parts in zip(*tqdm(loader, desc="scenes"), strict=True))
    model = SceneNet(width).to(memory_format=torch.channels_last)  # twice as fast on a CPU
    steps = epochs * (scenes // 64)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    bar = tqdm(total=steps, desc="training")
    for _ in range(epochs):
        for rows in torch.randperm(scenes)[: scenes // 64 * 64].view(-1, 64):
            # The undergrowth looks the same everywhere, so rolling it is valid.
            shift = torch.randint(-8, 9, (2,)).tolist()
            batch = PREPROCESS(images[rows].roll(shift, (2, 3))).contiguous(memory_format=torch.channels_last)
            loss = nn.functional.cross_entropy(model(batch), labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}")
    model.eval()
    check = torch.utils.data.DataLoader(_Tensors(1000, 1), batch_size=100, num_workers=2)
    with torch.inference_mode():
        right = sum(int((model(PREPROCESS(x)).argmax(1) == y).sum()) for x, y in check)
    bar.close()
    print(f"top-1 on 1000 unseen scenes: {right / 1000:.3f}")
    return model


class _Tensors(torch.utils.data.Dataset[tuple[Tensor, int]]):
    def __init__(self, length: int, seed: int) -> None:
        self.scenes = Scenes(length, seed)

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        scene, label = self.scenes[index]
        return from_array(np.asarray(scene)), label


def main() -> None:
    """Train and save weights as float16."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=8000)
    parser.add_argument("--epochs", type=int, default=12)
    args = parser.parse_args()
    state = train(args.width, args.seed, args.scenes, args.epochs).state_dict()
    save_file({k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}, args.out)


if __name__ == "__main__":
    main()
