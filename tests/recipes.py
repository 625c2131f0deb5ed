"""Models by recipe, as users name them: ``recipes.py:tiny``; the same in every process."""

import os
from pathlib import Path

import torch
from torch import nn


def tiny():
    """A little ResNet-like classifier with everything a careless attribution would disturb."""
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 12, 3, 2, 1),
        nn.BatchNorm2d(12),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(12, 5),
    )


def counted(folder):
    """``tiny``, leaving one file in ``folder`` each time it is built."""
    (Path(folder) / f"{os.getpid()}-{torch.randint(1 << 40, ()).item()}").touch()
    return tiny()


def thousand():
    """A classifier with ImageNet's number of classes."""
    torch.manual_seed(7)
    return nn.Sequential(nn.Conv2d(3, 8, 7, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1000))


def colors():
    """A classifier of 3 classes that is right by construction: which channel is the largest in the mean."""
    conv = nn.Conv2d(3, 3, 1, bias=False)
    conv.weight.data = torch.eye(3)[:, :, None, None]
    wide = nn.Conv2d(3, 6, 1, bias=False)
    wide.weight.data = torch.eye(3).repeat(2, 1)[:, :, None, None]
    head = nn.Linear(6, 3, bias=False)
    head.weight.data = torch.eye(3).repeat(1, 2)
    return nn.Sequential(conv, wide, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def broken():
    raise RuntimeError("no such checkpoint")


def number():
    return 3


def fussy():
    """A classifier of 10 classes that takes images of one size only, which the tests do not use."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(7, 10))


def small_scenes():
    """The demo's second judge."""
    from foveate.demo import scene_net

    return scene_net("scene_net_small")
