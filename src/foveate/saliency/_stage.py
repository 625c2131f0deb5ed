"""Finding the last convolutional stage of a classifier by watching one forward pass."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_PER_POSITION = ("activation", "batchnorm", "instancenorm", "normalization")


@dataclass
class _Call:
    """One finished call of a submodule: its dotted name, and the shape of its output where that is one tensor."""

    name: str
    module: nn.Module
    shape: tuple[int, ...]

    @property
    def spatial(self) -> bool:
        return len(self.shape) == 4 and self.shape[2] * self.shape[3] > 1


def last_convolutional_stage(model: nn.Module, x: Tensor) -> str:
    """Return the dotted name of the outermost module that ends with the last convolution's feature map.

    The convolution is the last that gives more than one position and is not itself the classifier (SqueezeNet ends in
    a convolution to one channel a class). From it the search climbs to every enclosing module whose output is still
    that map, so that a residual sum, normalisation or activation at the end of the stage is included.

    Args:
        model: in eval mode.
        x: one preprocessed picture (1, 3, H, W).

    Raises:
        ValueError: if no convolution gives a spatial map, or something else works on positions after the last one, as
            in a transformer.
    """
    calls = _trace(model, x)
    *inner, last = calls
    if len(last.shape) != 2:
        raise ValueError(f"model: expected logits (B, classes), got an output of shape {last.shape}")
    convolutions = [c for c in inner if isinstance(c.module, nn.Conv2d) and len(c.shape) == 4]
    # A picture so small that every map has one position: any layer will do, its map is flat.
    wide = [c for c in convolutions if c.spatial] or (convolutions if max(x.shape[-2:]) < 64 else [])
    stages = [c for c in wide if c.shape[1] != last.shape[1]] or wide
    if not stages:
        raise ValueError(
            f"layer: {type(model).__name__} has no convolution with a spatial map; name a layer that gives (B, C, h, w)"
        )
    stage = stages[-1]
    position = next(k for k, c in enumerate(calls) if c is stage)
    for k in range(position + 1, len(inner)):
        if _ends_stage(inner[k], stage):
            stage, position = inner[k], k
    for after in inner[position + 1 :]:
        per_position = after.spatial or (len(after.shape) == 3 and after.shape[1] > 1)
        if isinstance(after.module, nn.Linear) and per_position:
            raise ValueError(
                f"layer: after its last convolution ({stage.name!r}) {type(model).__name__} goes on to work on "
                f"positions ({after.name!r}, a Linear), as transformers do, so that map would mean little; name a "
                "layer that gives (B, C, h, w), or wrap a block in a module that returns its tokens in that shape"
            )
    if sum(c.name == stage.name for c in calls) > 1:
        raise ValueError(f"layer: {stage.name!r}, the last convolutional stage, runs more than once; name another")
    return stage.name


def _ends_stage(call: _Call, stage: _Call) -> bool:
    """Whether a later call still gives the stage's map: an enclosing module, or its normalisation or activation."""
    if len(call.shape) != 4 or call.spatial != stage.spatial:
        return False
    if stage.name.startswith(call.name + "."):
        return call.shape[2:] == stage.shape[2:] or call.shape[1] == stage.shape[1]
    kind = type(call.module).__module__
    return call.shape == stage.shape and kind.startswith("torch.nn.modules.") and kind.endswith(_PER_POSITION)


def _trace(model: nn.Module, x: Tensor) -> list[_Call]:
    """Run one forward pass and return the calls of all submodules as they end, the model's own last."""
    calls: list[_Call] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, _args: Any, output: Any) -> None:
            calls.append(_Call(name, module, tuple(output.shape) if isinstance(output, Tensor) else ()))

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules()]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return calls
