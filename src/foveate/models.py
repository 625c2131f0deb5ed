"""Classifiers by recipe: built once a process from a short string, and fed as they were trained."""

import copy
import difflib
import importlib
import importlib.util
import re
import sys
import threading
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor, nn

from foveate._checks import check_count, is_hashable
from foveate.identity import identity, refuse_subclass
from foveate.images import check_tensor, to_float

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

ModelSource: TypeAlias = "nn.Module | str | Callable[[], nn.Module]"
"""A model, or how to build it: a short string (see :func:`build`) or a function without arguments."""

_locks: "weakref.WeakKeyDictionary[nn.Module, threading.RLock]" = weakref.WeakKeyDictionary()
_locks_lock = threading.Lock()


@dataclass(frozen=True)
class Preprocess:
    """What a classifier does to a picture first: resize the short side, crop the center, normalize.

    Args:
        resize: the short side in pixels after resizing, the aspect ratio kept; None leaves the size alone.
        crop: the side of the square cut from the center; None keeps the whole picture.
        mean: a number a channel, in units of [0, 1] images.
        std: a number a channel, positive.
        interpolation: ``"bilinear"`` or ``"bicubic"``, antialiased, as torchvision's pretrained weights say.

    Example:
        >>> Preprocess(resize=64, crop=56)(torch.zeros(1, 3, 100, 150, dtype=torch.uint8)).shape
        torch.Size([1, 3, 56, 56])
    """

    resize: int | None = None
    crop: int | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        for name in ("resize", "crop"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, check_count(name, getattr(self, name)))
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean, std: expected three numbers each, std positive, got {self.mean} and {self.std}")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"interpolation: expected 'bilinear' or 'bicubic', got {self.interpolation!r}")

    def __call__(self, images: Tensor) -> Tensor:
        """Return (B, 3, h, w) floats for the network from (B, 3, H, W), uint8 or float in [0, 1].

        Resizing and cropping are torchvision's, so uint8 images give what its own preprocessing gives. Half precision
        is worked on, and returned, in float32; float64 stays.
        """
        check_tensor(images)
        if images.dtype in (torch.float16, torch.bfloat16):
            images = images.float()
        if self.resize is not None or self.crop is not None:
            from torchvision.transforms.v2 import InterpolationMode
            from torchvision.transforms.v2 import functional as F

            if self.resize is not None:
                images = F.resize(images, [self.resize], InterpolationMode(self.interpolation), antialias=True)
            if self.crop is not None:
                images = F.center_crop(images, [self.crop])
        x = to_float(images)
        mean, std = (torch.tensor(v, dtype=x.dtype, device=x.device).view(-1, 1, 1) for v in (self.mean, self.std))
        return (x - mean) / std

    def batch(self, pictures: Sequence[Tensor]) -> Tensor:
        """Return (N, 3, h, w) floats for the network from N pictures (3, H, W) of any sizes.

        Raises:
            ValueError: if they differ in size after preprocessing.
        """
        views = [self(picture[None]) for picture in pictures]
        if len({view.shape for view in views}) > 1:
            raise ValueError("pictures: they differ in size after preprocessing; give the Preprocess a crop")
        return torch.cat(views)

    def whole(self) -> "Preprocess":
        """The same without the crop: for maps, which are to cover the whole picture."""
        return Preprocess(self.resize, None, self.mean, self.std, self.interpolation)


@dataclass(frozen=True)
class Classifier:
    """A model with a name for reports and the preprocessing that belongs to it."""

    name: str
    model: nn.Module
    preprocess: Preprocess

    def logits(self, pictures: Sequence[Tensor]) -> Tensor:
        """Return (N, classes) logits of N pictures (3, H, W) of any sizes, uint8 or float in [0, 1]; see :meth:`ask`.

        Raises:
            ValueError: if the model gives anything but logits, or the preprocessed pictures differ in size.
        """
        return self.ask(self.preprocess.batch(pictures))

    def ask(self, x: Tensor) -> Tensor:
        """Return (N, classes) logits of a preprocessed batch (N, 3, h, w), without gradients.

        The model is asked in eval mode, on its own device and in its own precision, and left as it was.

        Raises:
            ValueError: if the model gives anything but logits.
        """
        weight = first_weight(self.model)
        device, dtype = (x.device, x.dtype) if weight is None else (weight.device, weight.dtype)
        # Channels last: 1.3 to 2.7 times as fast on two CPU cores (MobileNetV2 and SqueezeNet, batches of 9 to 43).
        x = x.to(device, dtype, memory_format=torch.channels_last)
        with undisturbed(self.model), torch.inference_mode(), torch.autocast(device.type, enabled=False):
            logits = check_logits(self.model(x))
        return logits.clone()  # outside, so that it is an ordinary tensor

    @property
    def identity(self) -> str:
        """What its answers depend on, as one line of text: the weights and code of the model, and the preprocessing."""
        refuse_subclass(self, Classifier)
        return f"{identity(self.model)}, {identity(self.preprocess)}"

    def classes(self) -> int:
        """Return how many classes the model tells apart, from one forward pass of a black picture."""
        side = self.preprocess.crop or self.preprocess.resize or 224
        return self.logits([torch.zeros(3, side, side, dtype=torch.float32)]).shape[1]


def first_weight(model: nn.Module) -> Tensor | None:
    """Return the first floating point parameter or buffer of a model, whose device and precision its input is to have.

    Example:
        >>> first_weight(nn.Conv2d(3, 4, 1).double()).dtype, first_weight(nn.ReLU())
        (torch.float64, None)
    """
    return next((t for t in chain(model.parameters(), model.buffers()) if t.is_floating_point()), None)


def check_logits(out: Any) -> Tensor:
    """Return ``out`` if it is (B, classes) logits; raise a ValueError that says what to do if it is not."""
    if not isinstance(out, Tensor) or out.ndim != 2:
        got = f"a tensor {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(f"model: expected logits (B, classes), got {got}; wrap the model so that it returns them")
    return out


def load_classifier(spec: str, preprocess: Preprocess | None = None) -> Classifier:
    """Build the classifier that a short string names, in eval mode and frozen.

    Args:
        spec: see :func:`build`.
        preprocess: None takes that of the weights for torchvision's models, and resize 256, crop 224, ImageNet mean
            and std for all others.

    Returns:
        The classifier, named by the last part of ``spec``, after the last ``:`` or ``/``.

    Raises:
        ValueError: as :func:`build` does.

    Example:
        >>> load_classifier("torchvision.models:squeezenet1_1").name
        'squeezenet1_1'
    """
    model = Model(spec).get()
    if preprocess is None:
        preprocess = preprocess_of(spec)
    return Classifier(re.split(r"[:/]", spec)[-1], model, preprocess)


def preprocess_of(spec: str) -> Preprocess:
    """Return how a model, by its short string, wants its input: as its weights say where it is torchvision's.

    Raises:
        ValueError: if torchvision has no such model.

    Example:
        >>> preprocess_of("squeezenet1_1").crop, preprocess_of("net.py:make").resize
        (224, 256)
    """
    return _weights_preprocess(spec) if _is_torchvision(spec) else Preprocess(256, 224)


class Model:
    """A model by value or by recipe. A recipe is built at first use, once a process, whoever asks; it alone is pickled.

    So a transform that holds one costs a DataLoader worker a string, not weights.

    Args:
        source: a module, taken as it is, of one compiled by ``torch.compile`` the module itself; or a recipe, whose
            model is put in eval mode and frozen. The random numbers that building it draws are not missing from the
            user's generator afterwards.

    Raises:
        TypeError: if ``source`` is neither; when pickled, if it is a module.
    """

    _built: dict[Any, tuple[nn.Module, ModelSource]] = {}  # noqa: RUF012  (one for the process: that is its purpose)
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
        if isinstance(self.source, nn.Module):
            return self.source
        with Model._lock:
            # By the function itself where it cannot be hashed; kept beside the model, it keeps its id.
            key = self.source if is_hashable(self.source) else id(self.source)
            if key not in Model._built:
                # Outside inference mode, whose tensors would be of no use to any gradient later.
                with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
                    model = build(self.source) if isinstance(self.source, str) else self.source()
                if not isinstance(model, nn.Module):
                    raise ValueError(f"model: {self.source!r} gave a {type(model).__name__}, not a torch.nn.Module")
                Model._built[key] = eager(model).eval().requires_grad_(False), self.source
            return Model._built[key][0]

    @property
    def identity(self) -> str:
        """What its answers depend on, as one line of text, however it was given."""
        return identity(self.get())

    def __getstate__(self) -> dict[str, Any]:
        if isinstance(self.source, nn.Module):
            raise TypeError(
                f"model: a {type(self.source).__name__} would be copied by weight into every worker process; give its "
                "recipe instead (a torchvision name, 'package.module:function' or a function), or use workers that "
                "fork"
            )
        return {"source": self.source}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return copy.copy(self) if not isinstance(self.source, nn.Module) else self

    def __eq__(self, other: object) -> bool:
        """Whether both are of one recipe, or one module."""
        return self.source == other.source if isinstance(other, Model) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.source) if is_hashable(self.source) else id(self.source)

    def __repr__(self) -> str:
        return type(self.source).__name__ if isinstance(self.source, nn.Module) else repr(self.source)


def build(spec: str) -> nn.Module:
    """Build a model from a short string.

    Args:
        spec: a torchvision model name (``"resnet18"``: its default pretrained weights), or
            ``"package.module:function"`` or ``"path/to/file.py:function"``, each with ``":argument"`` behind it where
            the function takes one string. Naming a function runs its code.

    Returns:
        What was built, as it came.

    Raises:
        ValueError: if the name, file, module or function is not there, or building it fails.
    """
    if _is_torchvision(spec):
        from torchvision.models import get_model

        _weights_preprocess(spec)  # so that a wrong name is named before anything is downloaded
        try:
            return get_model(spec, weights="DEFAULT")
        except OSError as error:
            raise ValueError(f"model: the pretrained weights of {spec!r} could not be fetched: {error}") from error
    match = re.fullmatch(r"(?P<home>.+?\.py|[^:]+):(?P<function>[^:]+)(?::(?P<argument>.*))?", spec)
    if match is None:
        raise ValueError(f"model: cannot read {spec!r}; expected NAME, FILE.py:FUNCTION or package.module:FUNCTION")
    home, function, argument = match["home"], match["function"], match["argument"]
    module = _module_of(home)
    make = getattr(module, function, None)
    if not callable(make):
        raise ValueError(f"model: {home} has no function {function!r}")
    try:
        model: nn.Module = make() if argument is None else make(argument)
    except Exception as error:  # whatever the user's code raises, the user is to see which model it was
        raise ValueError(f"model: {spec!r} could not be built: {type(error).__name__}: {error}") from error
    return model


def refuse_cuda_in_worker(device: torch.device, what: str = "saliency") -> None:
    """Raise if ``device`` is a GPU and this process is a DataLoader worker, before CUDA itself fails obscurely.

    Raises:
        RuntimeError: naming the cures.
    """
    if device.type != "cpu" and torch.utils.data.get_worker_info() is not None:
        raise RuntimeError(
            f"{what} on {device} inside a DataLoader worker: a worker cannot share the GPU. Either keep the model on "
            "the CPU in the transform, or compress in the training loop after the batch is on the GPU (call the "
            "Compressor or Prefilter there), or compute the maps beforehand and pass them as maps="
        )


def eager(model: nn.Module) -> nn.Module:
    """Return the module itself of one that ``torch.compile`` returned; any other as it is.

    Example:
        >>> net = nn.ReLU()
        >>> eager(net) is net
        True
    """
    while type(model).__name__ == "OptimizedModule":  # by its name, as importing its class takes seconds
        model = model._orig_mod  # type: ignore[assignment]
    return model


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run the model in eval mode, uncompiled, one thread at a time; give back each submodule's mode and buffers after.

    Uncompiled, as hooks are not called by what was compiled before they were there.
    """
    with ExitStack() as stack:
        # Each submodule has a lock of its own, since two models may share one; in one order, so that none waits for
        # another for ever.
        for module in sorted(model.modules(), key=id):
            stack.enter_context(_lock_of(module))
        yield from _unchanged(model)


def _lock_of(module: nn.Module) -> threading.RLock:
    with _locks_lock:
        return _locks.setdefault(module, threading.RLock())


def _unchanged(model: nn.Module) -> Iterator[None]:
    modules = list(model.modules())
    modes = [(module, module.training) for module in modules]
    compiled = [(module, call) for module in modules if (call := module._compiled_call_impl) is not None]
    wrappers = [(module, module.__dict__["forward"]) for module in modules if eager(module) is not module]
    buffers = [
        (module, name, buffer, _version(buffer), buffer.clone())
        for module in modules
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        for module, training in modes:
            if training:  # the flag itself: a train() or eval() of the user's own may do more than set it
                module.training = False
        for module, _ in compiled:
            module._compiled_call_impl = None
        for module, _ in wrappers:
            module.__dict__["forward"] = eager(module).__call__
        yield
    finally:
        for module, training in modes:
            module.training = training
        for module, call in compiled:
            module._compiled_call_impl = call
        for module, forward in wrappers:
            module.__dict__["forward"] = forward
        for module, name, buffer, version, value in buffers:
            if _version(buffer) != version:  # written in place, as counters are whatever the mode
                with torch.no_grad():
                    buffer.copy_(value)
            module._buffers[name] = buffer


def _version(tensor: Tensor) -> int:
    """How often a tensor was written in place; one made under inference mode does not count, nor can be written."""
    return 0 if tensor.is_inference() else tensor._version


def named(spec: str) -> Any:
    """Return what ``"package.module:name"`` or ``"path/to/file.py:name"`` names.

    Raises:
        ValueError: if the file, the module or the name is not there.

    Example:
        >>> named("foveate.demo:PREPROCESS").mean
        (0.4, 0.4, 0.4)
    """
    home, colon, name = spec.rpartition(":")
    if not colon:
        raise ValueError(f"expected 'package.module:name' or 'file.py:name', got {spec!r}")
    module = _module_of(home)
    if not hasattr(module, name):
        raise ValueError(f"{home} has no {name!r}")
    return getattr(module, name)


def _is_torchvision(spec: str) -> bool:
    return ":" not in spec


def _weights_preprocess(name: str) -> Preprocess:
    """The preprocessing of a torchvision model's default weights."""
    from torchvision.models import get_model_weights, list_models

    try:
        weights = get_model_weights(name).DEFAULT
    except ValueError:
        near = difflib.get_close_matches(name, list_models(), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(
            f"model: torchvision has no {name!r}{hint} (for your own: FILE.py:FUNCTION or package.module:FUNCTION)"
        ) from None
    how = weights.transforms()
    try:
        return Preprocess(
            how.resize_size[0], how.crop_size[0], tuple(how.mean), tuple(how.std), how.interpolation.value
        )
    except AttributeError:
        raise ValueError(f"model: {name!r} is no image classifier") from None


def _module_of(home: str) -> ModuleType:
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
        raise ValueError(f"model: {home} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # Under its name before it runs, as import does: its dataclasses and pickles look it up; its folder on the path
    # meanwhile, as for a script, so that it finds its neighbors.
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
