"""Small, deterministic images and a classifier for tests."""

import numpy as np
import numpy.typing as npt
import torch
from torch import nn


def wave_image(height: int, width: int, channels: int = 3) -> npt.NDArray[np.uint8]:
    """Return smooth waves, (height, width, channels) uint8.

    Example:
        >>> wave_image(4, 6).shape
        (4, 6, 3)
    """
    y, x = np.mgrid[:height, :width]
    planes = [128 + 90 * np.sin(x / (5 + k)) + 30 * np.cos(y / (3 + k)) for k in range(channels)]
    return np.stack(planes, -1).clip(0, 255).astype(np.uint8)


def noisy_image(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return waves with smooth noise, (height, width, 3) uint8, whose bytes grow with quality like a photo's.

    Example:
        >>> noisy_image(4, 6).shape
        (4, 6, 3)
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(3, height + 2, width + 2, generator=generator) * 45
    smooth = torch.nn.functional.avg_pool2d(noise, 3, 1).permute(1, 2, 0).numpy()
    return (wave_image(height, width) + smooth).clip(0, 255).astype(np.uint8)


def psnr(a: npt.NDArray[np.generic], b: npt.NDArray[np.generic]) -> float:
    """Return the PSNR of two images in 0..255, in dB.

    Example:
        >>> round(psnr(np.zeros((2, 2)), np.ones((2, 2))), 1)
        48.1
    """
    return float(10 * np.log10(255**2 / max(np.mean((a.astype(float) - b.astype(float)) ** 2), 1e-9)))


def tiny_classifier(classes: int = 5) -> nn.Module:
    """Return a convolutional classifier with a few hundred weights, the same at every call, in eval mode.

    Example:
        >>> tiny_classifier()(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 5])
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, 1, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, classes),
        )
    return network.eval()
