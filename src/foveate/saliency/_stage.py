"""Finding the last layer of a classifier that still has positions, and how its output is laid out, by tracing it."""

import logging

import torch
from torch import Tensor, nn

from foveate.models import Call, trace
from foveate.saliency._tokens import TokenLayout, in_raster_order, last_token_layer, layout_of

logger = logging.getLogger(__name__)

_SIDES = (224, 32, 28, 64, 96, 128, 160, 192, 256, 299, 384, 448, 512, 240, 336, 378, 518)
"""Sides of the square images that a model is tried with: the first that it takes counts."""

_PER_POSITION = ("activation", "batchnorm", "instancenorm", "normalization")


class _NoStageError(ValueError):
    """A model has no last convolutional stage."""


def find_layer(model: nn.Module, x: Tensor, tokens: int | None = None) -> tuple[str, TokenLayout | None]:
    """Return the last layer of a classifier that has positions, and how its tokens are laid out if it gives tokens.

    Args:
        model: in eval mode.
        x: preprocessed images (B, 3, H, W). If the model also takes a 224x224 image, the layer does not depend on their
            size.
        tokens: how many tokens come before those of positions; None takes the model's own.

    Returns:
        The dotted name of the last convolutional stage, or of the last layer of a transformer whose tokens of positions
        have a part in the answer.

    Raises:
        ValueError: if there is neither.
    """
    size, calls = _trace_square(model, x)
    if len(calls[-1].shape) != 2:
        raise ValueError(f"model: expected logits (B, classes), got an output of shape {calls[-1].shape}")
    try:
        return last_convolutional_stage(model, size, calls), None
    except _NoStageError as error:
        by_tokens = last_token_layer(model, calls, _noise(x, size), tokens)
        if by_tokens is None:
            raise ValueError(
                f"{error}; nor does it have a layer whose tokens are certain to be a grid of positions: name one by "
                "layer=, and by tokens= how many come before those of positions; or wrap a block in a module that "
                "returns (B, C, h, w)"
            ) from None
        return by_tokens


def last_convolutional_stage(model: nn.Module, size: tuple[int, int], calls: list[Call]) -> str:
    """Return the dotted name of the outermost module that ends with the last convolution's feature map.

    That convolution is the last with more than one output position that is not itself the classifier (SqueezeNet ends
    in a convolution to one channel per class). The search then climbs through enclosing modules whose output is still
    that map, so that a residual sum, normalization or activation at the end of the stage is included.

    Args:
        model: in eval mode.
        size: of an image.
        calls: of one forward pass of it.

    Raises:
        ValueError: if no convolution gives a spatial map, or other layers process positions after the last one, as in a
            transformer.
    """
    *inner, last = calls
    convolutions = [c for c in inner if isinstance(c.module, nn.Conv2d) and len(c.shape) == 4]
    # The image is so small that every map has one position: any layer will do.
    wide = [c for c in convolutions if c.spatial] or (convolutions if max(size) < 64 else [])
    stages = [c for c in wide if c.shape[1] != last.shape[1]] or wide
    if not stages:
        raise _NoStageError(f"layer: {type(model).__name__} has no convolution with a spatial map")
    stage = stages[-1]
    position = next(k for k, c in enumerate(calls) if c is stage)
    for k in range(position + 1, len(inner)):
        if _ends_stage(inner[k], stage):
            stage, position = inner[k], k
    for after in inner[position + 1 :]:
        per_position = after.spatial or (len(after.shape) == 3 and after.shape[1] > 1)
        if isinstance(after.module, nn.Linear) and per_position:
            raise _NoStageError(
                f"layer: after its last convolution ({stage.name!r}) {type(model).__name__} goes on to work on "
                f"positions ({after.name!r}, a Linear), so that its map would mean little"
            )
    if sum(c.name == stage.name for c in calls) > 1:
        raise ValueError(f"layer: {stage.name!r}, the last convolutional stage, runs more than once; name another")
    return stage.name


def find_layout(model: nn.Module, name: str, x: Tensor, tokens: int | None = None) -> TokenLayout | None:
    """Return how the tokens of a layer are laid out; None if it gives (B, C, h, w), as far as its output's shape shows.

    Args:
        model: in eval mode.
        name: the dotted name of the layer.
        x: as for :func:`find_layer`.
        tokens: likewise.

    Raises:
        ValueError: if it gives tokens, and it is not certain how they are laid out.
    """
    size, calls = _trace_square(model, x)
    named = [call for call in calls if call.name == name]
    if not named or len(named[-1].first) not in (3, 4):
        return None  # rejected by its shape when the map is made
    if len(named[-1].shape) == 4 and not _channels_last(model, named[-1], x, size, calls):
        return None
    layout = layout_of(named[-1], calls, model, tokens) if len(named) == 1 else None
    if layout is None or not in_raster_order(model, name, layout, _noise(x, size)):
        raise ValueError(
            f"layer: {name!r} of {type(model).__name__} has no spatial map (B, C, h, w): for an image of "
            f"{size[0]}x{size[1]} it gives {named[-1].first}, and it is not certain where its positions are; give "
            "tokens=, how many come before those of positions, name another layer, or wrap it in a module that returns "
            "that shape"
        )
    return layout


def _channels_last(model: nn.Module, call: Call, x: Tensor, size: tuple[int, int], calls: list[Call]) -> bool:
    """Return whether the channels of a layer that gives four dimensions come last.

    The model gets a square image and a wider one: the last dimension must grow, not the one before it as in the (B, h,
    w, C) of transformers. If the model takes only one size, the image's proportions decide.
    """
    (height, width), name = size, call.name
    _, channels, rows, columns = call.shape
    wider = _try(model, x.new_zeros(1, x.shape[1], height, width + 64))
    grown = next((call.shape for call in reversed(wider or []) if call.name == name), ())
    if len(grown) == 4 and grown != call.shape:
        return grown[3] == columns
    # A layer of fixed size, or a model that takes only one.
    if abs(rows * width - columns * height) >= (1 if height == width else max(height, width)):
        return True
    if not channels == rows == columns:
        return False
    inside = [c for c in calls if c.name == name or c.name.startswith(f"{name}.")]
    return not any(c.shape == call.shape and isinstance(c.module, _CHANNELS_FIRST) for c in inside)


def only_side(model: nn.Module, x: Tensor) -> int | None:
    """Return the side of the square that a model takes instead of images like ``x``.

    None stands for a model that takes ``x``, or none of the squares that are tried.
    """
    if _try(model, x[:1]) is not None:
        return None
    images = (x.new_zeros(1, x.shape[1], side, side) for side in _SIDES)
    return next((image.shape[-1] for image in images if _try(model, image) is not None), None)


_CHANNELS_FIRST = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.MaxPool2d, nn.AvgPool2d)


def _noise(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return one image like ``x`` of another size, in which no two parts are alike."""
    drawn = torch.randn(1, x.shape[1], *size, generator=torch.Generator().manual_seed(0))
    return drawn.to(x.device, x.dtype)


def _trace_square(model: nn.Module, x: Tensor) -> tuple[tuple[int, int], list[Call]]:
    """Trace the first square size that the model takes, else the size of ``x``; return the size and the calls."""
    if any(map(nn.parameter.is_lazy, model.parameters())):
        trace(model, x[:1])  # initializes lazy weights to fit these images
    for side in _SIDES:
        calls = _try(model, x.new_zeros(1, x.shape[1], side, side))
        if calls is not None:
            return (side, side), calls
    return (x.shape[-2], x.shape[-1]), trace(model, x[:1])


def _try(model: nn.Module, x: Tensor) -> list[Call] | None:
    """Return the calls of one forward pass; None if the model does not take images of this size."""
    devices = [x.device] if x.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            return trace(model, x)
    except Exception as error:  # whatever a model raises for an unsupported size
        logger.debug("saliency: %s takes no %s: %s", type(model).__name__, tuple(x.shape), error)
        return None


def _ends_stage(call: Call, stage: Call) -> bool:
    """Return whether a later call keeps the stage's map: an enclosing module, normalization or activation."""
    if len(call.shape) != 4 or call.spatial != stage.spatial:
        return False
    if stage.name.startswith(call.name + "."):
        return call.shape[2:] == stage.shape[2:] or call.shape[1] == stage.shape[1]
    kind = type(call.module).__module__
    return call.shape == stage.shape and kind.startswith("torch.nn.modules.") and kind.endswith(_PER_POSITION)
