"""Making a saliency from an object, a function, a recipe or a mapping from a configuration file."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

from torch import Tensor

from foveate._checks import is_hashable
from foveate._registry import Registry
from foveate.models import ModelSource, Preprocess, import_object
from foveate.saliency._cached import CachedSaliency
from foveate.saliency._captum import CaptumAttribution, is_attribution
from foveate.saliency._layer import ActivationMap, GradCam
from foveate.saliency._protocol import FunctionSaliency, Saliency

SaliencySpec: TypeAlias = Saliency | Callable[[Tensor], Tensor] | str | Mapping[str, Any]
"""What stands for a saliency; see :func:`as_saliency`."""

Factory: TypeAlias = Callable[..., Saliency]
AnyFactory = TypeVar("AnyFactory", bound=Factory)


def _checked(name: str, factory: Any) -> Factory:
    if not callable(factory):
        raise TypeError(
            f"saliency: expected a subclass of foveate.Saliency, or a function that makes one, got {factory!r}"
        )
    return factory


SALIENCIES: Registry[Factory] = Registry("saliency", "foveate.saliencies", _checked)
"""Methods by name, besides those of Captum."""

SALIENCIES.add("GradCam", GradCam)
SALIENCIES.add("ActivationMap", ActivationMap)
SALIENCIES.add("CachedSaliency", CachedSaliency)


def register_saliency(factory: AnyFactory) -> AnyFactory:
    """Register a saliency by its class name, as a decorator, for use in specs and on the command line.

    To make it available on the command line and in other processes, also declare an entry point in your package::

        [project.entry-points."foveate.saliencies"]
        EdgeEnergy = "my_package:EdgeEnergy"

    Args:
        factory: a subclass of :class:`Saliency`, or a function that returns one. An argument ``model`` receives the
            model's recipe and ``preprocess`` the model's preprocessing; others are passed by name.

    Returns:
        The class.

    Raises:
        TypeError: if it cannot be called.
        ValueError: if another saliency has its name.

    Example:
        >>> @register_saliency
        ... class Brightness(Saliency):
        ...     def __call__(self, images):
        ...         return images.float().mean(1, keepdim=True)
        >>> type(as_saliency({"method": "Brightness"})).__name__
        'Brightness'
    """
    SALIENCIES.add(_checked("", factory).__name__, factory)
    return factory


def as_saliency(
    saliency: SaliencySpec,
    *,
    model: "ModelSource | None" = None,
    preprocess: Callable[[Tensor], Tensor] | None = None,
) -> Saliency:
    """Return the saliency for an object, function, recipe or mapping.

    Args:
        saliency: a :class:`Saliency`, which is returned unchanged; a function of images or another callable; a model's
            recipe (``"resnet18"``, ``"package.module:function"``), for its Grad-CAM; the name of a registered method
            that takes no model; or a mapping of ``method`` (``"GradCam"``, the default, ``"ActivationMap"``, a
            registered one, or any name that :class:`CaptumAttribution` accepts), ``model`` (a recipe) and other
            arguments of the method (``layer``, ``target``, ``arguments``...). ``preprocess`` is a mapping of the
            arguments of :class:`foveate.models.Preprocess` or ``"package.module:name"``. ``{"method": "CachedSaliency",
            "cache": ...}`` reads precomputed maps.
        model: the model to explain if a mapping does not name one.
        preprocess: the preprocessing of that model, if a mapping does not name one.

    Returns:
        The saliency; its model is not built yet.

    Raises:
        TypeError: if ``saliency`` is of another type, or the method does not accept an argument.
        ValueError: if the method does not exist, or there is no model to explain.

    Example:
        >>> as_saliency("foveate.demo:scene_net")
        GradCam('foveate.demo:scene_net', layer=None)
        >>> as_saliency({"method": "Saliency", "model": "resnet18", "preprocess": {"resize": 256}, "grid": 7})
        CaptumAttribution('Saliency', 'resnet18', layer=None)
        >>> as_saliency(lambda images: images[:, :1]).uses_labels
        False
    """
    if isinstance(saliency, Saliency):
        return saliency if is_hashable(saliency) else FunctionSaliency(saliency)
    if isinstance(saliency, str):
        return _from_mapping({"method": saliency} if saliency in SALIENCIES else {"model": saliency}, model, preprocess)
    if isinstance(saliency, Mapping):
        return _from_mapping(saliency, model, preprocess)
    if not callable(saliency) or isinstance(saliency, type):
        name = f"the class {saliency.__name__}" if isinstance(saliency, type) else type(saliency).__name__
        raise TypeError(f"saliency: expected a Saliency, a function of images, a recipe or a mapping, got {name}")
    return FunctionSaliency(saliency)


def _from_mapping(
    spec: Mapping[str, Any], model: "ModelSource | None", preprocess: Callable[[Tensor], Tensor] | None
) -> Saliency:
    settings = dict(spec)
    method = settings.pop("method", "GradCam")
    registered = isinstance(method, str) and method in SALIENCIES
    if isinstance(method, str) and not registered and not is_attribution(method):
        raise ValueError(
            f"saliency: there is no method {method!r}; choose one of {', '.join(SALIENCIES.names())} or captum.attr, "
            "or add it by foveate.register_saliency"
        )
    factory = SALIENCIES[method] if registered else CaptumAttribution
    takes = inspect.signature(factory).parameters
    if "model" in takes:
        settings.setdefault("model", model)
        if settings["model"] is None and registered and takes["model"].default is not inspect.Parameter.empty:
            del settings["model"]  # it can do without
        elif settings["model"] is None:
            raise ValueError(f"saliency: {dict(spec)!r} names no model; add its recipe as 'model'")
    if "preprocess" in takes and (wanted := settings.pop("preprocess", preprocess)) is not None:
        settings["preprocess"] = _preprocess(wanted)
    try:
        saliency = factory(**settings) if registered else factory(method, **settings)
    except TypeError as error:
        raise TypeError(f"saliency: {method!r}: {error}") from error
    if not isinstance(saliency, Saliency):
        raise TypeError(f"saliency: {method!r} made a {type(saliency).__name__}, which is not a foveate.Saliency")
    return saliency


def _preprocess(preprocess: Any) -> Callable[[Tensor], Tensor] | None:
    if isinstance(preprocess, Mapping):
        arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in preprocess.items()}
        return Preprocess(**arguments)
    return import_object(preprocess) if isinstance(preprocess, str) else preprocess
