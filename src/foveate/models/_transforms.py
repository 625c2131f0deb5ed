"""Preprocessing as users have it: of torchvision, timm and transformers, or a function."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from foveate.models._preprocess import INTERPOLATIONS, PictureTransform, Preprocess
from foveate.models._processors import is_image_processor, of_image_processor

_CONVERSIONS = {"ToTensor", "MaybeToTensor", "PILToTensor", "MaybePILToTensor", "ToImage", "ToPureTensor", "RGB"}
_TO_DTYPE = {"ToDtype", "ConvertImageDtype"}
_DRAWS = ("Rand", "AutoAugment", "TrivialAugment", "AugMix", "ColorJitter", "GaussianBlur", "ElasticTransform")
"""How the names of transforms begin that draw at random."""


def as_preprocess(transforms: object) -> Preprocess:
    """Return the preprocessing that something stands for.

    Args:
        transforms: one of

            - a :class:`Preprocess`;
            - the transforms of torchvision's weights, as ``weights.transforms()`` gives them;
            - a ``Compose`` (of torchvision, v1 or v2, as timm's ``create_transform`` makes it too) or an
              ``nn.Sequential`` of a resize, a center crop, conversions and a normalization, in this order;
            - timm's data configuration, a mapping with ``input_size``, ``mean``, ``std``, ``interpolation``,
              ``crop_pct`` and ``crop_mode``;
            - an image processor of transformers, as ``AutoImageProcessor`` loads it;
            - any other function from a ``PIL.Image`` to a tensor (3, h, w): see :class:`PictureTransform`.

    Raises:
        TypeError: if it is none of these.
        ValueError: if it draws at random, or a configuration has something else than the above.

    Example:
        >>> from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor
        >>> print(as_preprocess(Compose([Resize(128), CenterCrop(112), ToTensor()])))
        resize 128 (bilinear), crop 112, mean 0 0 0, std 1 1 1
        >>> print(as_preprocess({"input_size": (3, 224, 224), "crop_pct": 0.9, "interpolation": "bicubic"}))
        resize 248 (bicubic), crop 224, ImageNet's mean and std
    """
    if isinstance(transforms, Preprocess):
        return transforms
    if isinstance(transforms, Mapping):
        return _of_timm(transforms)
    if is_image_processor(transforms):
        return of_image_processor(transforms)
    if not callable(transforms):
        raise TypeError(
            f"preprocess: expected a foveate.models.Preprocess, transforms or a function from a picture to a tensor, "
            f"got {type(transforms).__name__}"
        )
    if all(hasattr(transforms, name) for name in ("resize_size", "crop_size", "mean", "std", "interpolation")):
        return _of_weights(transforms)
    steps = _steps(transforms)
    drawn = next((step for step in steps if type(step).__name__.startswith(_DRAWS)), None)
    if drawn is not None:
        raise ValueError(
            f"preprocess: {type(drawn).__name__} draws at random; give the transforms of validation, not of training"
        )
    return _of_steps(steps) or PictureTransform(function=transforms)


def _steps(transforms: Any) -> list[Any]:
    """Return the parts of a chain, of chains in it too; what applies some of its parts is a step itself."""
    kind = type(transforms).__name__
    parts = {"Compose": getattr(transforms, "transforms", None), "Sequential": transforms}.get(kind)
    return [transforms] if not isinstance(parts, Iterable) else [step for part in parts for step in _steps(part)]


def _of_steps(steps: list[Any]) -> Preprocess | None:
    """Return the preprocessing of a chain of torchvision's transforms, or None if there is any other step in it."""
    settings: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    done = -1  # how far in the order: resize, crop, normalize
    scaled = False
    for step in steps:
        name = type(step).__name__
        if not type(step).__module__.startswith(("torchvision.", "timm.")):
            return None
        if name in _CONVERSIONS:
            scaled |= name in ("ToTensor", "MaybeToTensor")
            continue
        if name in _TO_DTYPE:
            to_float = isinstance(step.dtype, torch.dtype) and step.dtype.is_floating_point
            scaled |= to_float and (name == "ConvertImageDtype" or step.scale)
            continue
        place = ("Resize", "CenterCrop", "Normalize").index(name) if name in _READERS else -1
        values = _READERS[name](step) if place > done else None
        if values is None:
            return None
        settings |= values
        done = place
    return Preprocess(**settings) if scaled else None


def _resize(step: Any) -> dict[str, Any] | None:
    mode = getattr(step.interpolation, "value", step.interpolation)
    if mode not in INTERPOLATIONS or getattr(step, "max_size", None) is not None or step.antialias is False:
        return None
    sides = [step.size] if isinstance(step.size, int) else [*(step.size or ())]
    if len(sides) not in (1, 2):
        return None
    return {"resize": sides[0] if len(sides) == 1 else tuple(sides), "interpolation": mode}


def _crop(step: Any) -> dict[str, Any] | None:
    sides = [step.size] if isinstance(step.size, int) else [*step.size]
    return {"crop": int(sides[0])} if len({*sides}) == 1 else None


def _normalize(step: Any) -> dict[str, Any] | None:
    mean, std = (tuple(round(float(number), 7) for number in values) for values in (step.mean, step.std))
    return {"mean": mean, "std": std} if len(mean) == len(std) == 3 else None


_READERS: dict[str, Callable[[Any], dict[str, Any] | None]] = {
    "Resize": _resize,
    "CenterCrop": _crop,
    "Normalize": _normalize,
}


def _of_weights(preset: Any) -> Preprocess:
    """Return the preprocessing of torchvision's ``ImageClassification``."""
    resize, crop = preset.resize_size, preset.crop_size
    return Preprocess(
        resize[0] if len(resize) == 1 else tuple(resize),
        crop[0],
        tuple(preset.mean),
        tuple(preset.std),
        preset.interpolation.value,
    )


def _of_timm(config: Mapping[str, Any]) -> Preprocess:
    """Return the preprocessing of timm's data configuration, as its ``create_transform`` does it for evaluation."""
    keys = {"input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode"}
    if "input_size" not in config:
        raise ValueError(f"preprocess: expected timm's data configuration with input_size, got {sorted(config)}")
    unknown = sorted({*config} - keys)
    if unknown:
        raise ValueError(f"preprocess: {unknown[0]!r} is not in timm's data configuration; it has {sorted(keys)}")
    _, height, width = config["input_size"]
    mode = config.get("crop_mode") or "center"
    if mode not in ("center", "squash") or height != width:
        raise ValueError(
            f"preprocess: crop_mode {mode!r} of {height}x{width} is not one that can be read; give the function that "
            "timm's create_transform returns"
        )
    side = int(height / (config.get("crop_pct") or 0.875))  # as timm rounds
    return Preprocess(
        (side, side) if mode == "squash" else side,
        height,
        tuple(config.get("mean") or Preprocess().mean),
        tuple(config.get("std") or Preprocess().std),
        config.get("interpolation") or "bilinear",
    )
