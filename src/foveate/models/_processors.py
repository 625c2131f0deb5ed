"""Preprocessing as the image processors of transformers do it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from foveate.identity import describe
from foveate.models._preprocess import PictureTransform, Preprocess

_MODES = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers for the interpolations of :class:`Preprocess`."""
_ALIKE = 0.06
"""Two ways to resize a smooth picture differ by less, in units of the standard deviation that normalizes it."""


def is_image_processor(transforms: object) -> bool:
    """Return whether something is an image processor of transformers, which is not imported for it.

    Example:
        >>> from transformers import CLIPImageProcessor
        >>> is_image_processor(CLIPImageProcessor()), is_image_processor(Preprocess())
        (True, False)
    """
    return any(
        kind.__name__ == "ImageProcessingMixin" and kind.__module__.startswith("transformers.")
        for kind in type(transforms).__mro__
    )


@dataclass(frozen=True)
class TransformersProcessor:
    """What an image processor of transformers makes of a picture."""

    processor: Any

    def __call__(self, picture: Image.Image) -> Tensor:
        """Return (3, h, w)."""
        return torch.as_tensor(np.asarray(self.processor(picture, return_tensors="np")["pixel_values"][0]))

    @property
    def identity(self) -> str:
        """The processor's class and settings."""
        return describe(self, {"class": type(self.processor).__name__, "settings": self.processor.to_json_string()})


def of_image_processor(processor: Any) -> Preprocess:
    """Return the preprocessing of an image processor of transformers.

    Its settings are read, and what they say is compared with what it does to a tall and a wide picture: where no
    reading fits, it is called with each picture, see :class:`PictureTransform`.

    Example:
        >>> from transformers import CLIPImageProcessor
        >>> print(of_image_processor(CLIPImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3)))
        resize 224 (bicubic), crop 224, mean 0.5 0.5 0.5, std 0.5 0.5 0.5
    """
    processed = TransformersProcessor(processor)
    rows, columns = np.mgrid[:400, :300] / 400
    values = np.stack([rows, columns, 0.5 + 0.4 * np.sin(5 * rows) * np.cos(4 * columns)], 2)
    tall = Image.fromarray((255 * values).astype(np.uint8))
    pictures = [tall, tall.transpose(Image.Transpose.ROTATE_90)]
    outputs = [processed(picture) for picture in pictures]
    for preprocess in _readings(processor):
        views = [preprocess(torch.from_numpy(np.array(p)).movedim(-1, 0)[None])[0] for p in pictures]
        if all(a.shape == b.shape and (a - b).abs().max() < _ALIKE for a, b in zip(views, outputs, strict=True)):
            return preprocess
    return PictureTransform(function=processed)


def _readings(processor: Any) -> Iterator[Preprocess]:
    """Yield what the settings of a processor may mean."""
    settings: dict[str, Any] = {
        name: getattr(processor, name, None)
        for name in (
            *("do_resize", "size", "crop_pct", "resample", "do_center_crop", "crop_size"),
            *("do_normalize", "image_mean", "image_std"),
        )
    }
    size, crop_size = dict(settings["size"] or {}), dict(settings["crop_size"] or {})
    mode = _MODES.get(settings["resample"])
    if mode is None or {*crop_size.values()} - {crop_size.get("height")}:
        return
    normalized = bool(settings["do_normalize"])
    mean = tuple(settings["image_mean"]) if normalized else (0.0,) * 3
    std = tuple(settings["image_std"]) if normalized else (1.0,) * 3
    crop = crop_size.get("height") if settings["do_center_crop"] else None
    if not settings["do_resize"]:
        yield Preprocess(None, crop, mean, std, mode)
        return
    side = size.get("shortest_edge") or min(size.get("height", 0), size.get("width", 0))
    if not side:
        return
    if "height" in size:
        yield Preprocess((size["height"], size["width"]), crop, mean, std, mode)
    else:
        yield Preprocess(side, crop, mean, std, mode)
    if settings["crop_pct"]:
        yield Preprocess(int(side / settings["crop_pct"]), crop or side, mean, std, mode)
        yield Preprocess((side, side), None, mean, std, mode)
