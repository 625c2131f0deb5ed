"""Foveate: compress images for the neural network that will look at them.

A saliency map shows where a classifier looks, and a pre-filter keeps the image there and smooths the rest.
Any standard codec then needs fewer bytes, and any standard decoder reads them.

Names are imported on first use, so ``import foveate`` alone loads none of its dependencies.

Example:
    >>> import torch, foveate
    >>> images = torch.rand(2, 3, 48, 64)
    >>> encoded = foveate.Compressor("jpeg:30").encode(images)
    >>> [e.size for e in encoded]
    [(48, 64), (48, 64)]
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "ActivationMap": "saliency",
    "CachedSaliency": "saliency",
    "CaptumAttribution": "saliency",
    "GradCam": "saliency",
    "Saliency": "saliency",
    "as_saliency": "saliency",
    "register_saliency": "saliency",
    "PreEdit": "preedit",
    "Prefilter": "prefilter",
    "register_filter": "prefilter",
    "Progress": "_progress",
    "Codec": "codecs",
    "CodecError": "codecs",
    "Avif": "codecs",
    "Hevc": "codecs",
    "Jpeg": "codecs",
    "Jpeg2000": "codecs",
    "Jxl": "codecs",
    "TargetSize": "codecs",
    "WebP": "codecs",
    "as_codec": "codecs",
    "register_codec": "codecs",
    "Compressor": "compressor",
    "Encoded": "compressor",
    "Sweep": "sweep",
    "Calibration": "rate_control",
    "RateControl": "rate_control",
    "Witness": "rate_control",
    "register_criterion": "rate_control",
}
_MODULES = (
    "codecs",
    "compressor",
    "demo",
    "draws",
    "evaluation",
    "export",
    "filters",
    "identity",
    "images",
    "integrations",
    "models",
    "preedit",
    "prefilter",
    "rate_control",
    "saliency",
    "sweep",
    "testing",
    "transforms",
)
__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from foveate._progress import Progress as Progress
    from foveate.codecs import Avif as Avif
    from foveate.codecs import Codec as Codec
    from foveate.codecs import CodecError as CodecError
    from foveate.codecs import Hevc as Hevc
    from foveate.codecs import Jpeg as Jpeg
    from foveate.codecs import Jpeg2000 as Jpeg2000
    from foveate.codecs import Jxl as Jxl
    from foveate.codecs import TargetSize as TargetSize
    from foveate.codecs import WebP as WebP
    from foveate.codecs import as_codec as as_codec
    from foveate.codecs import register_codec as register_codec
    from foveate.compressor import Compressor as Compressor
    from foveate.compressor import Encoded as Encoded
    from foveate.preedit import PreEdit as PreEdit
    from foveate.prefilter import Prefilter as Prefilter
    from foveate.prefilter import register_filter as register_filter
    from foveate.rate_control import Calibration as Calibration
    from foveate.rate_control import RateControl as RateControl
    from foveate.rate_control import Witness as Witness
    from foveate.rate_control import register_criterion as register_criterion
    from foveate.saliency import ActivationMap as ActivationMap
    from foveate.saliency import CachedSaliency as CachedSaliency
    from foveate.saliency import CaptumAttribution as CaptumAttribution
    from foveate.saliency import GradCam as GradCam
    from foveate.saliency import Saliency as Saliency
    from foveate.saliency import as_saliency as as_saliency
    from foveate.saliency import register_saliency as register_saliency
    from foveate.sweep import Sweep as Sweep


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"foveate.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'foveate' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"foveate.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
