"""Networks that end in global average pooling and one linear layer: their Grad-CAM needs no backward pass.

In such networks a logit is linear in the channel means of the last feature map, so a class's gradient is its row of the
linear layer's weights at every position. Grad-CAM then equals the class activation map of Zhou et al., "Learning Deep
Features for Discriminative Localization" (CVPR 2016).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TOLERANCE = 1e-4  # relative to the largest value: single-precision rounding


@dataclass
class _Pass:
    """Records of one forward pass: the layer's outputs, each linear layer's name, input and output, and the result."""

    layer: list[Any]
    linear: list[tuple[str, Any, Any]]
    out: Any


def linear_head(model: nn.Module, layer: nn.Module, x: Tensor) -> str | None:
    """Return the name of the linear layer that computes the logits from the means of ``layer``'s output, or None.

    This is tested by experiment: the layer's output is replaced by noise of both signs, small and large. The linear
        layer must then receive its mean over positions and return the logits. This detects any activation,
        normalization or other pooling in between, whether module or function.

    Args:
        model: in eval mode, without gradients.
        layer: a submodule of it.
        x: preprocessed images (B, 3, H, W); only one is used.
    """
    if x.dtype not in (torch.float32, torch.float64):
        return None
    noise: list[Tensor] = []

    def replace(out: Any) -> Any:
        if not isinstance(out, Tensor) or out.ndim != 4:
            return out
        generator = torch.Generator().manual_seed(0)  # leaves the user's generator alone
        drawn = torch.randn(out.shape, generator=generator, dtype=out.dtype).to(out.device)
        noise.append(drawn * torch.tensor([1.0, 1e3], dtype=out.dtype, device=out.device).view(2, 1, 1, 1))
        return noise[-1].clone()  # later modules may write into it

    names = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    seen = _watch(model, layer, names, torch.cat([x[:1], x[:1]]), replace)
    if len(noise) != 1 or not seen.linear:
        return None
    name = seen.linear[-1][0]
    return name if _fits(model, name, noise[0], seen) else None


def class_activation_map(
    model: nn.Module, layer: nn.Module, head: str, x: Tensor, choose: Callable[[Any], Tensor]
) -> Tensor | None:
    """Return the Grad-CAM (B, 1, h, w), not rectified, of a network with a :func:`linear_head`, in one pass.

    Args:
        model: in eval mode, without gradients.
        layer: as for :func:`linear_head`.
        head: the result of :func:`linear_head`.
        x: preprocessed images (B, 3, H, W).
        choose: from the model's logits to the classes (B,) to explain.

    Returns:
        The maps, or None if this pass did not lead from the layer's means through that linear layer to the logits.
    """
    seen = _watch(model, layer, [head], x, None)
    classes = choose(seen.out)
    if len(seen.layer) != 1 or not _fits(model, head, seen.layer[0], seen):
        return None
    maps: Tensor = seen.layer[0]
    linear = model.get_submodule(head)
    weights = linear.weight[classes] / (maps.shape[2] * maps.shape[3])  # type: ignore[index]
    return torch.einsum("bk,bkhw->bhw", weights, maps)[:, None]


def _watch(
    model: nn.Module, layer: nn.Module, linear: list[str], x: Tensor, replace: Callable[[Any], Any] | None
) -> _Pass:
    seen = _Pass([], [], None)

    def at_layer(_module: nn.Module, _args: Any, out: Any) -> Any:
        seen.layer.append(out)
        return None if replace is None else replace(out)

    def at_linear(name: str, _module: nn.Module, args: Any, out: Any) -> None:
        seen.linear.append((name, args[0] if args else None, out))

    handles = [layer.register_forward_hook(at_layer)]
    try:
        for name in linear:
            handles.append(model.get_submodule(name).register_forward_hook(partial(at_linear, name)))
        seen.out = model(x)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _fits(model: nn.Module, name: str, maps: Any, seen: _Pass) -> bool:
    """Return whether a pass led from the means of ``maps`` only through this linear layer, once, to the logits."""
    if not isinstance(maps, Tensor) or maps.ndim != 4 or [n for n, _, _ in seen.linear].count(name) != 1:
        return False
    _, pooled, logits = seen.linear[-1]
    linear = model.get_submodule(name)
    if seen.linear[-1][0] != name or type(linear) is not nn.Linear or not isinstance(pooled, Tensor):
        return False
    return (
        _close(pooled, maps.mean((-2, -1)))
        and _close(logits, F.linear(pooled, linear.weight, linear.bias))
        and isinstance(seen.out, Tensor)
        and torch.equal(seen.out, logits)
    )


def _close(a: Any, b: Tensor) -> bool:
    """Return whether two matrices are equal up to rounding, row by row."""
    if not isinstance(a, Tensor) or a.shape != b.shape:
        return False
    return bool(((a - b).abs().amax(1) <= _TOLERANCE * b.abs().amax(1)).all())
