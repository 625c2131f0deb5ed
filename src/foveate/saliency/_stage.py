"""Finding the last convolutional stage of a classifier, and the layout of a layer's output, by tracing it."""

import logging

import torch
from torch import Tensor, nn

from foveate.models import Call, trace

logger = logging.getLogger(__name__)

_SIDES = (224, 32, 28, 64, 96, 128, 160, 192, 256, 299, 384, 448, 512)
"""Sides of the square images that a model is tried with: the first that it takes counts."""

_PER_POSITION = ("activation", "batchnorm", "instancenorm", "normalization")


def last_convolutional_stage(model: nn.Module, x: Tensor) -> str:
    """Return the dotted name of the outermost module that ends with the last convolution's feature map.

    That convolution is the last with more than one output position that is not itself the classifier (SqueezeNet ends
    in a convolution to one channel per class). The search then climbs through enclosing modules whose output is still
    that map, so that a residual sum, normalization or activation at the end of the stage is included.

    Args:
        model: in eval mode.
        x: preprocessed images (B, 3, H, W). If the model also takes a 224x224 image, the layer does not depend on their
            size.

    Raises:
        ValueError: if no convolution gives a spatial map, or other layers process positions after the last one, as in a
            transformer.
    """
    size, calls = _trace_square(model, x)
    *inner, last = calls
    if len(last.shape) != 2:
        raise ValueError(f"model: expected logits (B, classes), got an output of shape {last.shape}")
    convolutions = [c for c in inner if isinstance(c.module, nn.Conv2d) and len(c.shape) == 4]
    # The image is so small that every map has one position: any layer will do.
    wide = [c for c in convolutions if c.spatial] or (convolutions if max(size) < 64 else [])
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


def check_channels_first(model: nn.Module, name: str, x: Tensor) -> None:
    """Raise unless a layer gives (B, C, h, w), as far as its output's shape shows.

    The model gets a square image and a wider one: the last dimension must grow, not the one before it as in the (B, h,
    w, C) of transformers. If the model takes only one size, the image's proportions decide.

    Args:
        model: in eval mode.
        name: the dotted name of the layer.
        x: as for :func:`last_convolutional_stage`.

    Raises:
        ValueError: if the channels come last.
    """
    (height, width), calls = _trace_square(model, x)
    shapes = [call.shape for call in calls if call.name == name]
    if not shapes or len(shapes[-1]) != 4:
        return  # rejected by its shape when the map is made
    _, channels, rows, columns = shapes[-1]
    wider = _try(model, x.new_zeros(1, x.shape[1], height, width + 64))
    grown = next((call.shape for call in reversed(wider or []) if call.name == name), ())
    if len(grown) == 4 and grown != shapes[-1]:
        last = grown[3] == columns
    else:  # a layer of fixed size, or a model that takes only one
        last = abs(rows * width - columns * height) >= (1 if height == width else max(height, width))
        if not last and channels == rows == columns:
            inside = [c for c in calls if c.name == name or c.name.startswith(f"{name}.")]
            last = not any(c.shape == shapes[-1] and isinstance(c.module, _CHANNELS_FIRST) for c in inside)
    if last:
        raise ValueError(
            f"layer: {name!r} of {type(model).__name__} has no spatial map (B, C, h, w): for an image of "
            f"{height}x{width} it gives {shapes[-1]}, channels last; name another layer, or wrap it in a module that "
            "permutes its output to that"
        )


_CHANNELS_FIRST = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.MaxPool2d, nn.AvgPool2d)


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
