"""A saliency from what a configuration file can hold."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from foveate.models import ModelSource, Preprocess, import_object
from foveate.saliency._cache import CachedSaliency
from foveate.saliency._captum import CaptumAttribution
from foveate.saliency._layer import ActivationMap, GradCam
from foveate.saliency._protocol import Maps, Saliency, as_saliency

_OWN: dict[str, type] = {"GradCam": GradCam, "ActivationMap": ActivationMap}


def from_spec(spec: "str | Mapping[str, Any] | Maps", model: "ModelSource | None" = None) -> Saliency:
    """Return the saliency that a JSON-able description stands for.

    Args:
        spec: a model's recipe (``"resnet18"``, ``"package.module:function"``), for its Grad-CAM; or a mapping of
            ``method`` (``"GradCam"``, the default, ``"ActivationMap"``, or any that :class:`CaptumAttribution` knows by
            name), ``model`` (a recipe) and whatever else the method takes (``layer``, ``target``, ``arguments``...),
            ``preprocess`` being the arguments of :class:`foveate.models.Preprocess` or ``"package.module:name"``;
            ``{"method": "CachedSaliency", "cache": ...}`` reads maps that were made before. A saliency is returned as
            it is.
        model: what to explain where ``spec`` names no model.

    Returns:
        The saliency; its model is not built yet.

    Raises:
        TypeError: if ``spec`` is none of these, or the method does not take what it is given.
        ValueError: if there is no such method, or nothing to explain.

    Example:
        >>> from_spec("foveate.demo:scene_net")
        GradCam('foveate.demo:scene_net', layer=None)
        >>> from_spec({"method": "Saliency", "model": "resnet18", "preprocess": {"resize": 256}, "grid": 7})
        CaptumAttribution('Saliency', 'resnet18', layer=None)
    """
    if isinstance(spec, str):
        spec = {"model": spec}
    if not isinstance(spec, Mapping):
        if not callable(spec):
            raise TypeError(f"saliency: expected a recipe, a mapping or a Saliency, got {type(spec).__name__}")
        return as_saliency(spec)
    settings = dict(spec)
    method = settings.pop("method", "GradCam")
    if method == "CachedSaliency":
        return CachedSaliency(**settings)
    source = settings.pop("model", model)
    if source is None:
        raise ValueError(f"saliency: {dict(spec)!r} names no model; add its recipe as 'model'")
    settings["preprocess"] = _preprocess(settings.get("preprocess"))
    try:
        return _OWN[method](source, **settings) if method in _OWN else CaptumAttribution(method, source, **settings)
    except TypeError as error:
        raise TypeError(f"saliency: {method!r}: {error}") from error


def _preprocess(given: Any) -> Callable[[Tensor], Tensor] | None:
    if isinstance(given, Mapping):
        arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        return Preprocess(**arguments)
    return import_object(given) if isinstance(given, str) else given
