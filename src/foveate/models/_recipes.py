"""Models by recipe: a short string or a function, from which a model is built once a process."""

import copy
import difflib
import importlib
import importlib.util
import inspect
import re
import sys
import threading
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Self, TypeAlias

import torch
from torch import nn

from foveate._checks import is_hashable
from foveate.identity import identity
from foveate.models._hubs import BuiltModel, is_hub_name, load_from_hub
from foveate.models._preprocess import PictureTransform, Preprocess
from foveate.models._running import eager
from foveate.models._transforms import as_preprocess

ModelSource: TypeAlias = "nn.Module | str | Callable[[], nn.Module | tuple[nn.Module, Any]]"
"""A model, or how to build it: a short string (see :func:`build_model`) or a function without arguments, which may
return the model's preprocessing too."""


DEFAULT_PREPROCESS = Preprocess(256, 224)
"""What is assumed of a model that brings no preprocessing."""


class LazyModel:
    """A model by value or by recipe. A recipe is built at first use, once a process, and pickled as the recipe.

    So a transform that holds one costs a DataLoader worker a string, not weights.

    Args:
        source: a module, taken as it is (of one compiled by ``torch.compile``, the module itself); or a recipe, whose
            model is put in eval mode and frozen. Building it leaves the user's random state as it was. What it
            returns is the model, or the model and its preprocessing (see :func:`as_preprocess`).

    Raises:
        TypeError: if ``source`` is neither; when pickled, if it is a module.

    Example:
        >>> LazyModel("foveate.demo:scene_net").get().training
        False
    """

    _built: dict[Any, tuple[BuiltModel, ModelSource]] = {}  # noqa: RUF012  (shared by the whole process on purpose)
    _lock = threading.RLock()

    def __init__(self, source: ModelSource) -> None:
        if not isinstance(source, str) and not callable(source):
            raise TypeError(
                f"model: expected a module, a string such as 'resnet18' or a function, got {type(source).__name__}"
            )
        self.source: ModelSource = eager(source) if isinstance(source, nn.Module) else source

    def get(self) -> nn.Module:
        """Return the model, built on the first call in this process.

        Raises:
            ValueError: if the recipe does not give a model.
        """
        return self.source if isinstance(self.source, nn.Module) else self._build().model

    @property
    def brought(self) -> Preprocess | None:
        """The preprocessing that a model of one's own brings; None if it brings none, or is named in torchvision.

        That is what its recipe returns beside it, or has as an attribute ``preprocess``; or what the model has as such
        an attribute, if that is neither a method nor a part of the network.

        Raises:
            TypeError, ValueError: if what it brings is not a preprocessing; see :func:`as_preprocess`.
        """
        return _attribute_of(self.source) if isinstance(self.source, nn.Module) else self._build().preprocess

    @property
    def preprocess(self) -> Preprocess | None:
        """The preprocessing that a model brings, or that timm knows of it; None if there is neither.

        Raises:
            TypeError, ValueError: as :attr:`brought` does.
        """
        return self.brought or _timm_preprocess(self.get())

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes that a model from a hub has, in the order of its outputs; empty if it has none."""
        return () if isinstance(self.source, nn.Module) else self._build().class_names

    def _build(self) -> BuiltModel:
        source = self.source
        with LazyModel._lock:
            # By its id if it cannot be hashed; the source is kept beside the model, so that the id stays its own.
            key = source if is_hashable(source) else id(source)
            if key not in LazyModel._built:
                # Outside inference mode, since gradients could not pass its tensors later.
                with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
                    built = _build(source)
                preprocess = _attribute_of(built.model) if built.preprocess is None else built.preprocess
                model = eager(built.model).eval().requires_grad_(False)
                LazyModel._built[key] = replace(built, model=model, preprocess=preprocess), source
            return LazyModel._built[key][0]

    @property
    def identity(self) -> str:
        """All that its output depends on, as one line of text; the same for a model and its recipe."""
        return identity(self.get())

    def __getstate__(self) -> dict[str, Any]:
        if isinstance(self.source, nn.Module):
            raise TypeError(
                f"model: the weights of a {type(self.source).__name__} would be copied to every worker process; give "
                "its recipe instead (a torchvision name, 'package.module:function' or a function), or use workers that "
                "fork"
            )
        return {"source": self.source}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return copy.copy(self) if not isinstance(self.source, nn.Module) else self

    def __eq__(self, other: object) -> bool:
        """Whether both are of one recipe, or one module."""
        return self.source == other.source if isinstance(other, LazyModel) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.source) if is_hashable(self.source) else id(self.source)

    def __repr__(self) -> str:
        return type(self.source).__name__ if isinstance(self.source, nn.Module) else repr(self.source)


def short_name(source: ModelSource) -> str:
    """Return the name of a model for reports: the last part of its short string, or its function's or class's name.

    Example:
        >>> short_name("timm:resnet18.a1_in1k"), short_name("hf:models/vit/"), short_name(nn.ReLU())
        ('resnet18.a1_in1k', 'vit', 'ReLU')
    """
    if isinstance(source, str):
        return re.split(r"[:/]", source.rstrip("/"))[-1]
    return str(getattr(source, "__name__", type(source).__name__))


def build_model(spec: str) -> nn.Module:
    """Build a model from a short string.

    Args:
        spec: a torchvision model name (``"resnet18"``, with its default pretrained weights); ``"timm:NAME"`` or
            ``"hf:ORG/NAME"``, pretrained too, see :func:`foveate.models.load_from_hub`; or
            ``"package.module:function"`` or ``"path/to/file.py:function"``, followed by ``":argument"`` if the function
            takes one string. Naming a function runs its code.

    Returns:
        The model, as it was built.

    Raises:
        ValueError: if there is no such name, file, module or function, or building the model fails.

    Example:
        >>> build_model("torchvision.models:squeezenet1_1").training
        True
    """
    return _build(spec).model


def _build(source: "str | Callable[[], Any]") -> BuiltModel:
    """Return the model of a recipe, and what the recipe has beside it."""
    if isinstance(source, str) and is_hub_name(source):
        return load_from_hub(source)
    if isinstance(source, str) and _is_torchvision(source):
        from torchvision.models import get_model

        _weights_preprocess(source)  # so that a wrong name is reported before anything is downloaded
        try:
            return BuiltModel(get_model(source, weights="DEFAULT"))
        except OSError as error:
            raise ValueError(f"model: the pretrained weights of {source!r} could not be fetched: {error}") from error
    if not isinstance(source, str):
        built, function = source(), source
    else:
        function, argument = _function_of(source)
        try:
            built = function() if argument is None else function(argument)
        except Exception as error:  # whatever the user's code raises, the message should say which model it was
            raise ValueError(f"model: {source!r} could not be built: {type(error).__name__}: {error}") from error
    model, transforms = built if isinstance(built, tuple) and len(built) == 2 else (built, None)
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: {source!r} gave a {type(model).__name__}, not a torch.nn.Module")
    transforms = getattr(function, "preprocess", None) if transforms is None else transforms
    return BuiltModel(model, None if transforms is None else as_preprocess(transforms))


def _function_of(spec: str) -> tuple[Callable[..., Any], str | None]:
    """Return the function that a short string names, and its argument."""
    match = re.fullmatch(r"(?P<home>.+?\.py|[^:]+):(?P<function>[^:]+)(?::(?P<argument>.*))?", spec)
    if match is None:
        raise ValueError(
            f"model: cannot read {spec!r}; expected NAME, timm:NAME, hf:ORG/NAME, FILE.py:FUNCTION or "
            "package.module:FUNCTION"
        )
    function = getattr(_import_module(match["home"]), match["function"], None)
    if not callable(function):
        raise ValueError(f"model: {match['home']} has no function {match['function']!r}")
    return function, match["argument"]


def _attribute_of(model: nn.Module) -> Preprocess | None:
    """Return the preprocessing that a module has as an attribute."""
    model = eager(model)
    transforms = getattr(model, "preprocess", None)
    if "preprocess" in model._modules and not type(transforms).__module__.startswith("torchvision.transforms"):
        return None  # a part of the network itself
    return None if transforms is None or inspect.ismethod(transforms) else as_preprocess(transforms)


def _timm_preprocess(model: nn.Module) -> Preprocess | None:
    """Return the preprocessing that timm knows of a model of its own."""
    if not type(model).__module__.startswith("timm.") or not getattr(model, "pretrained_cfg", None):
        return None
    from timm.data.config import resolve_model_data_config

    return as_preprocess(resolve_model_data_config(model))


def import_object(spec: str) -> Any:
    """Return what ``"package.module:name"`` or ``"path/to/file.py:name"`` names.

    Raises:
        ValueError: if there is no such file, module or name.

    Example:
        >>> import_object("foveate.demo:PREPROCESS").mean
        (0.4, 0.4, 0.4)
    """
    home, colon, name = spec.rpartition(":")
    if not colon:
        raise ValueError(f"expected 'package.module:name' or 'file.py:name', got {spec!r}")
    module = _import_module(home)
    if not hasattr(module, name):
        raise ValueError(f"{home} has no {name!r}")
    return getattr(module, name)


def preprocess_of(spec: str) -> Preprocess:
    """Return the preprocessing of a model, by its short string: that of the weights for torchvision's models.

    Of others, what the model brings, as those of timm and Hugging Face do (see :attr:`LazyModel.preprocess`), for which
    it is built; if it brings none, resize 256, crop 224 and ImageNet's mean and std.

    Raises:
        ValueError: if there is no such model, or what it brings cannot be read.

    Example:
        >>> preprocess_of("squeezenet1_1").crop, preprocess_of("torchvision.models:squeezenet1_1").resize
        (224, 256)
    """
    return _weights_preprocess(spec) if _is_torchvision(spec) else LazyModel(spec).preprocess or DEFAULT_PREPROCESS


def _is_torchvision(spec: str) -> bool:
    return ":" not in spec


def _weights_preprocess(name: str) -> Preprocess:
    """Return the preprocessing of a torchvision model's default weights."""
    from torchvision.models import get_model_weights, list_models

    try:
        weights = get_model_weights(name).DEFAULT
    except ValueError:
        similar = difflib.get_close_matches(name, list_models(), n=3)
        hint = f"; did you mean {' or '.join(similar)}?" if similar else ""
        raise ValueError(
            f"model: torchvision has no {name!r}{hint} (of others: timm:NAME, hf:ORG/NAME; for your own: "
            "FILE.py:FUNCTION or package.module:FUNCTION)"
        ) from None
    preprocess = as_preprocess(weights.transforms())
    if isinstance(preprocess, PictureTransform):  # of images for other tasks
        raise ValueError(f"model: {name!r} is not an image classifier")
    return preprocess


def _import_module(home: str) -> ModuleType:
    """Import a module by its dotted name, or a file by its path."""
    if not home.endswith(".py"):
        try:
            return importlib.import_module(home)
        except ImportError as error:
            raise ValueError(f"model: cannot import {home!r}: {error}") from error
    path = Path(home).expanduser().resolve()
    if not path.is_file():
        raise ValueError(f"model: there is no file {home}")
    name = f"_foveate_{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"model: {home} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # In sys.modules before it runs, as import does, since its dataclasses and pickles look it up; and with its folder
    # on the path meanwhile, as for a script, so that it can import its neighbors.
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"model: {home} could not be run: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module
