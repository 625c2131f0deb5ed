"""Tracing the calls of a model's submodules."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foveate.models._running import logits_in


@dataclass
class Call:
    """A finished call of a submodule.

    Attributes:
        name: dotted.
        module: that was called.
        shape: of its output if that is one tensor, or of the logits in it, else empty.
        first: of the first tensor of its output, if that is a tuple; else ``shape``.
    """

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    first: tuple[int, ...]

    @property
    def spatial(self) -> bool:
        """Whether the output is (B, C, h, w) with more than one position."""
        return len(self.shape) == 4 and self.shape[2] * self.shape[3] > 1


def trace(model: nn.Module, x: Tensor) -> list[Call]:
    """Run one forward pass and return the calls of all submodules in the order they end, the model's own last.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        >>> [(call.name, call.shape) for call in trace(net, torch.zeros(1, 3, 8, 8))]
        [('0', (1, 4, 6, 6)), ('1', (1, 4, 6, 6)), ('', (1, 4, 6, 6))]
    """
    calls: list[Call] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, _args: Any, output: Any) -> None:
            answer = output if name else logits_in(output)  # the model's own may be a dictionary
            shape = tuple(answer.shape) if isinstance(answer, Tensor) else ()
            first = output[0] if isinstance(output, tuple) and output else None
            calls.append(Call(name, module, shape, tuple(first.shape) if isinstance(first, Tensor) else shape))

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules()]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return calls
