"""Layers that give tokens, as transformers have them, seen as maps (B, C, h, w)."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from foveate.models import Call

_PREFIX = re.compile(r"(^|_)(cls|class|dist|distillation|reg|register|storage)_(token|tokens|embedding)\d*$")
"""The names of parameters that are tokens before those of positions, in torchvision, timm and transformers."""


@dataclass(frozen=True)
class TokenLayout:
    """How the output of a layer is laid out.

    Attributes:
        patches: the dotted name of the convolution whose grid the positions are on, or a coarser one of it.
        prefix: how many tokens come before those of positions: class, distillation and register tokens.
        channels_last: whether it is (B, h, w, C), and not (B, prefix + h * w, C).
    """

    patches: str
    prefix: int = 0
    channels_last: bool = False


def last_token_layer(
    model: nn.Module, calls: Sequence[Call], x: Tensor, tokens: int | None = None
) -> tuple[str, TokenLayout] | None:
    """Return the last layer whose tokens of positions still matter to the answer, and how it is laid out.

    In a network that answers from its class token that is the normalization before the last attention: what the last
    block makes of the other tokens is read by nobody. In one that answers from their mean it is the last normalization.

    Args:
        model: in eval mode.
        calls: of one forward pass of ``x``.
        x: one preprocessed image (1, 3, H, W), in which no two parts are alike.
        tokens: how many tokens come before those of positions; None takes the model's own.

    Returns:
        None if there is no such layer, or it is not certain how what it gives is laid out.
    """
    runs = Counter(call.name for call in calls)
    layouts = {
        call.name: layout_of(call, calls, model, tokens)
        for call in calls[:-1]
        if runs[call.name] == 1 and len(call.first) in (3, 4) and call.first[0] == 1
    }
    matters = _that_matter(model, layouts, x)
    for call in reversed(calls):
        layout = layouts.get(call.name)
        if call.name not in matters or isinstance(call.module, nn.Linear | nn.Conv2d):
            continue
        if layout is not None:
            return (call.name, layout) if in_raster_order(model, call.name, layout, x) else None
        if len(call.first) == 3 and min(call.first[1:]) > 1:
            return None  # the answer follows from positions that are laid out in an unknown way
    return None


def _that_matter(model: nn.Module, layouts: Mapping[str, TokenLayout | None], x: Tensor) -> set[str]:
    """The layers whose positions have an effect on what the last linear layer is given, or on the answer.

    Of those without a known layout it is more tokens than the model has before those of positions.
    """
    outputs: dict[str, Tensor] = {}
    read: list[Tensor] = []

    def keep(name: str, _module: nn.Module, _args: Any, output: Any) -> Any:
        outputs[name] = _first(output) if _first(output).requires_grad else _first(output).requires_grad_()
        return _with_first(output, outputs[name].clone())  # a copy, as a later module may write into it

    def keep_input(_module: nn.Module, args: Any) -> None:
        if args and isinstance(args[0], Tensor) and args[0].ndim == 2:
            read.append(args[0])

    handles = [model.get_submodule(name).register_forward_hook(partial(keep, name)) for name in layouts]
    handles += [m.register_forward_pre_hook(keep_input) for m in model.modules() if isinstance(m, nn.Linear)]
    try:
        with torch.enable_grad():
            answer = model(x)
            last = read[-1] if read else answer  # the last layer may start with weights of zero
            if not outputs or not isinstance(last, Tensor) or not last.requires_grad:
                return set()
            weights = torch.randn(last.shape, generator=torch.Generator().manual_seed(0)).to(last)
            gradients = torch.autograd.grad((last * weights).sum(), list(outputs.values()), allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    few = max(1, _own_tokens(model))
    matters = set()
    for name, gradient in zip(outputs, gradients, strict=True):
        layout = layouts[name]
        if gradient is not None and (
            _positions(gradient, layout).any() if layout else gradient.flatten(2).any(-1).sum() > few
        ):
            matters.add(name)
    return matters


def in_raster_order(model: nn.Module, name: str, layout: TokenLayout, x: Tensor) -> bool:
    """Return whether the tokens of a layer follow one another as the positions of an image do, row by row.

    Some models sort them by windows. Whatever else a token has seen, a change in its own part of the image has most
    effect on it: so eight parts are changed, and for most of them the token that differs most must be where they are.

    Args:
        model: in eval mode.
        name: of the layer.
        layout: of its output.
        x: one preprocessed image (1, 3, H, W), in which no two parts are alike.
    """
    if layout.channels_last:
        return True
    with as_maps(model, model.get_submodule(name), layout) as probe, torch.no_grad():
        maps: list[Tensor] = []
        probe.register_forward_hook(lambda _module, _args, output: maps.append(output))
        model(x)
        _, _, rows, columns = maps[0].shape
        cells = [(int(rows * r), int(columns * c)) for r in (0.15, 0.4, 0.6, 0.85) for c in (0.3, 0.7)]
        changed = x.repeat(len(cells), 1, 1, 1)
        for image, (row, column) in zip(changed, cells, strict=True):
            top, bottom = (round(k * x.shape[2] / rows) for k in (row, row + 1))
            left, right = (round(k * x.shape[3] / columns) for k in (column, column + 1))
            image[:, top:bottom, left:right] *= -2
        model(changed)
    if len(maps) != 2 or maps[1].shape[1:] != maps[0].shape[1:]:
        return False
    effect = (maps[1] - maps[0]).square().sum(1)
    effect = effect / (effect.mean(0, keepdim=True) + effect.mean())  # some tokens answer to everything
    near = 1 if min(rows, columns) > 4 else 0
    at = [divmod(int(k), columns) for k in effect.flatten(1).argmax(1)]
    hits = [max(abs(a - b) for a, b in zip(*pair, strict=True)) <= near for pair in zip(cells, at, strict=True)]
    return sum(hits) > len(hits) / 2


def layout_of(call: Call, calls: Sequence[Call], model: nn.Module, tokens: int | None = None) -> TokenLayout | None:
    """Return how the output of a traced call is laid out, if that is certain.

    The grid is that of a convolution before it, or that with its sides divided by a whole number; what is left over are
    the model's own tokens, all or none of them.

    Args:
        call: the call.
        calls: all calls of the forward pass of one image, in the order in which they ended.
        model: the model.
        tokens: how many tokens come before those of positions; None takes the model's own.

    Returns:
        None if the output is of another kind, or could be laid out in several ways.
    """
    before = calls[: next(k for k, other in enumerate(calls) if other is call)]
    patches = [c for c in reversed(before) if isinstance(c.module, nn.Conv2d) and c.spatial and c.shape[0] == 1]
    if len(call.first) not in (3, 4) or call.first[0] != 1:
        return None
    if len(call.first) == 4:
        for c in patches:
            grids = _coarser(c.shape[-2], c.shape[-1])
            if call.first[1:3] in grids:
                return None if call.first[2:] in grids else TokenLayout(c.name, channels_last=True)
        return None
    own_tokens = _own_tokens(model) if tokens is None else tokens
    layouts = {
        (prefix, grid): TokenLayout(c.name, prefix)
        for c in reversed(patches)  # the nearest is kept
        for prefix in ({0, own_tokens} if tokens is None else {own_tokens})
        if (grid := _grid(c.shape[-2], c.shape[-1], call.first[1] - prefix)) is not None
    }
    return next(iter(layouts.values())) if len(layouts) == 1 else None


def _coarser(rows: int, columns: int) -> set[tuple[int, int]]:
    """The grids whose sides are those of another, divided by a whole number and rounded up, of several positions."""
    grids = {(-(-rows // by), -(-columns // by)) for by in range(1, max(rows, columns))}
    return {grid for grid in grids if grid != (1, 1)}


def _grid(rows: int, columns: int, positions: int) -> tuple[int, int] | None:
    """The grid of so many positions that is as fine as another or coarser; None if there is none, or several."""
    grids = [grid for grid in _coarser(rows, columns) if grid[0] * grid[1] == positions]
    return grids[0] if len(grids) == 1 else None


def _own_tokens(model: nn.Module) -> int:
    """How many tokens a model puts before those of the patches, by the names of its parameters."""
    return sum(
        parameter.shape[-2] if parameter.ndim > 1 else 1
        for name, parameter in model.named_parameters()
        if _PREFIX.search(name.rpartition(".")[2])
    )


@contextmanager
def as_maps(model: nn.Module, layer: nn.Module, layout: TokenLayout) -> Iterator[nn.Module]:
    """Yield a module through which the output of a layer goes as maps (B, C, h, w), in every forward pass meanwhile.

    Captum's methods take it for the layer. Tokens before those of positions pass it by.

    Raises:
        ValueError: in the forward pass, if the output is not laid out so.
    """
    probe = nn.Identity()
    sides: list[tuple[int, int]] = []

    def at_patches(_module: nn.Module, _args: Any, output: Tensor) -> None:
        sides[:] = [(output.shape[-2], output.shape[-1])]

    def at_layer(_module: nn.Module, _args: Any, output: Any) -> Any:
        tokens = _first(output)
        if layout.channels_last:
            return _with_first(output, probe(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        grid = _grid(*sides[0], tokens.shape[1] - layout.prefix) if sides else None
        if grid is None:
            raise ValueError(
                f"tokens: the layer gives {tuple(tokens.shape)}, of which {layout.prefix} come before the positions; "
                f"the rest is no grid like that of {layout.patches!r}, {sides}; give tokens="
            )
        prefix, positions = tokens[:, : layout.prefix], tokens[:, layout.prefix :]
        maps = probe(positions.transpose(1, 2).unflatten(2, grid))
        return _with_first(output, torch.cat([prefix, maps.flatten(2).transpose(1, 2)], 1))

    hooked = [(model.get_submodule(layout.patches), at_patches), (layer, at_layer)]
    handles = [module.register_forward_hook(hook) for module, hook in hooked]
    try:
        yield probe
    finally:
        for handle in handles:
            handle.remove()


def _positions(tokens: Tensor, layout: TokenLayout) -> Tensor:
    return tokens if layout.channels_last else tokens[:, layout.prefix :]


def _first(output: Any) -> Any:
    """The output of a module, or the first part of a tuple."""
    return output[0] if isinstance(output, tuple) else output


def _with_first(output: Any, tensor: Tensor) -> Any:
    """An output like another, with its first part replaced."""
    return (tensor, *output[1:]) if isinstance(output, tuple) else tensor
