"""Normalization: how the images of a batch were normalized, and undoing it."""

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any, NoReturn

import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from foveate._checks import check_number
from foveate.models import Preprocess


@dataclass(frozen=True)
class Normalization:
    """A normalization of images in [0, 1]: ``(x - mean) / std``, with a number per channel or one for all.

    Example:
        >>> undone = Normalization((0.5,), (0.25,)).undo(torch.tensor([[[[-2.0, 0.0, 2.0]]]]))
        >>> undone.flatten().tolist()
        [0.0, 0.5, 1.0]
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise ValueError(f"mean, std: expected one or three numbers each, got {self.mean} and {self.std}")
        for value in self.mean:
            check_number("mean", value, -10)
        for value in self.std:
            check_number("std", value, 0, above=True)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalize (B, C, H, W) floats in [0, 1]."""
        mean, std = self._like(images)
        return (images - mean) / std

    def undo(self, images: Tensor) -> Tensor:
        """Return normalized images (B, C, H, W) as float32 images in [0, 1].

        Raises:
            ValueError: if the result leaves [0, 1] by more than half-precision rounding, so that the images were
                normalized differently.
        """
        if images.dtype == torch.uint8:
            return images.float() / 255
        x = images.detach().float()
        mean, std = self._like(x)
        images = x * std + mean
        if images.numel():
            low, high = (float(v) for v in torch.aminmax(images))
            if not (low > -0.02 and high < 1.02):
                raise ValueError(
                    f"mean, std: with {self.mean} and {self.std} undone the batch holds {low:.3g} to {high:.3g}, not "
                    "images in [0, 1]; give the mean and std that it was normalized with"
                )
        return images.clamp_(0, 1)

    def _like(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(v, dtype=x.dtype, device=x.device).view(-1, 1, 1) for v in (self.mean, self.std))
        return mean, std


def chosen(mean: Any, std: Any) -> Normalization | None:
    """Return the normalization given by the user, or None.

    Raises:
        ValueError: if only one of the two is given, or they do not fit.
    """
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise ValueError(f"mean, std: expected both or neither, got {mean!r} and {std!r}")
    return Normalization(_numbers("mean", mean, -10), _numbers("std", std, 0))


def _numbers(name: str, value: Any, low: float) -> tuple[float, ...]:
    values = value.tolist() if isinstance(value, Tensor | np.ndarray | np.generic) else value
    return tuple(check_number(name, v, low) for v in (values if isinstance(values, list | tuple) else (values,)))


def normalization_of(data: Any) -> Normalization | None:
    """Return the normalization of a loader or data set, read from its transforms; None if there is none.

    All attributes are searched, including those of composed transforms. It recognizes ``Normalize`` of torchvision,
    Kornia and Albumentations, the transforms of torchvision's weights and :class:`foveate.models.Preprocess`. It skips
    attributes whose names begin with ``target``, networks and long lists.

    Raises:
        ValueError: if no single mean and std can undo the transforms: they normalize at random, twice, differently in
            different places, or by a custom formula.

    Example:
        >>> from torchvision.transforms import v2
        >>> normalization_of(v2.Compose([v2.CenterCrop(8), v2.Normalize([0.5], [0.25])]))
        Normalization(mean=(0.5,), std=(0.25,))
    """
    return _Search().read(data)


_FORMULAS = {"Normalize", "ImageClassification", "SemanticSegmentation", "VideoClassification"}
"""Classes that subtract ``mean`` and divide by ``std``; the last three are what torchvision's weights come with."""
_LIBRARIES = {"torchvision", "kornia", "albumentations"}
_HOOKS = ("__call__", "forward", "transform", "apply", "apply_to_images", "apply_transform")
# Recognized by name: their formulas are unknown.
_NORMALISES = re.compile(r"[Nn]ormali[sz]|Norm(?![a-z])|Whiten|LinearTransformation")
_CHANCE = re.compile(r"Random|OneOf|SomeOf|OneOrOther|SelectiveChannel|PatchSequential")
_PLAIN = (str, bytes, int, float, complex, np.generic, np.ndarray, Tensor, PIL.Image.Image, type, ModuleType)
_OF_A_MODULE = set(vars(nn.Module())) - {"_modules"}
_LONG, _DEEP, _MANY = 100, 40, 2000  # long lists hold samples or tables, not transforms


def _refuse(reason: str) -> NoReturn:
    raise ValueError(
        f"mean, std: {reason}; give mean= and std= where (x - mean) / std is what was done, or else an adapter= that "
        "returns images in [0, 1], with mean=0 and std=1"
    )


class _Search:
    """Searches objects for normalizations."""

    def __init__(self) -> None:
        self._seen: dict[int, Normalization | None] = {}  # None while a part is being read: it may contain itself
        self._depth = 0

    def read(self, part: Any) -> Normalization | None:
        if part is None or isinstance(part, _PLAIN) or self._depth == _DEEP:
            return None
        if id(part) not in self._seen and len(self._seen) < _MANY:
            self._seen[id(part)] = None
            self._depth += 1
            self._seen[id(part)] = self._look(part)
            self._depth -= 1
        return self._seen.get(id(part))

    def _look(self, part: Any) -> Normalization | None:
        if isinstance(part, Preprocess):
            return Normalization(part.mean, part.std)
        if isinstance(part, FunctionType | BuiltinFunctionType | MethodType | functools.partial):
            return self._function(part)
        if isinstance(part, DataLoader):
            return self._chain([part.dataset, part.collate_fn])
        kind, is_data = type(part), hasattr(type(part), "__getitem__")
        base = next((c for c in kind.__mro__ if c.__name__ in _FORMULAS and _root(c) in _LIBRARIES), None)
        if base is not None:
            normalization: Normalization | None = _formula(part, base)
        elif not is_data and any(_root(c) == "foveate" for c in kind.__mro__):
            return None  # its saliency's preprocessing does not apply to the data
        elif isinstance(part, nn.Module) and next(part.parameters(), None) is not None:
            return None
        elif callable(part) and not is_data and _NORMALISES.search(kind.__name__):
            _refuse(f"what {kind.__name__} does is not known")
        elif isinstance(part, list | tuple | nn.Sequential | nn.ModuleList | Mapping) and len(part) >= _LONG:
            return None
        elif isinstance(part, Mapping):
            normalization = self._either(v for k, v in part.items() if not str(k).startswith("target"))
        elif isinstance(part, list | tuple | nn.Sequential | nn.ModuleList):
            normalization = self._chain(part) if all(map(callable, part)) else self._either(part)
        else:
            normalization = self._either(_attributes(part))
        if normalization is not None and callable(part):
            _check_certain(part)
        return normalization

    def _chain(self, parts: Iterable[Any]) -> Normalization | None:
        """Return the normalization of parts applied in sequence."""
        steps = [step for step in map(self.read, parts) if step is not None]
        if len(steps) > 1:
            _refuse(f"the transforms normalize {len(steps)} times, one after another or one of them by chance")
        return steps[0] if steps else None

    def _either(self, parts: Iterable[Any]) -> Normalization | None:
        """Return the normalization of alternative parts, which must agree."""
        kinds = {(n.mean * 3)[:3] + (n.std * 3)[:3]: n for n in map(self.read, parts) if n is not None}
        if len(kinds) > 1:
            _refuse(f"the transforms normalize in several ways ({', '.join(map(repr, kinds.values()))})")
        return next(iter(kinds.values()), None)

    def _function(self, function: Any) -> Normalization | None:
        name = getattr(function, "__name__", "")
        if isinstance(function, functools.partial):
            keywords = {k: v for k, v in function.keywords.items() if k != "inplace"}
            name = getattr(function.func, "__name__", "")
            by_torchvision = name == "normalize" and _root(function.func) == "torchvision"
            if by_torchvision and keywords.keys() == {"mean", "std"} and not function.args:
                return _spread(**keywords)
            inner: list[Any] = [function.func, *function.args, *function.keywords.values()]
        elif isinstance(function, MethodType):
            inner = [function.__self__]
        else:
            cells = getattr(function, "__closure__", None) or ()
            inner = [getattr(function, "__wrapped__", None), *(c.cell_contents for c in cells if c != CellType())]
        if re.fullmatch("_*normali[sz]e", name):
            _refuse(f"what the function {name} does is not known")
        return self._either(inner)


def _root(kind: Any) -> str:
    return (getattr(kind, "__module__", None) or "").partition(".")[0]


def _attributes(part: Any) -> list[Any]:
    """Return the attributes of an object and its classes; containers, which may be large, come last."""
    values: dict[str, Any] = {}
    for kind in reversed(type(part).__mro__):
        values |= {k: v for k, v in vars(kind).items() if not isinstance(v, FunctionType) and not k.startswith("__")}
        slots = kind.__dict__.get("__slots__", ())
        values |= {k: getattr(part, k, None) for k in ((slots,) if isinstance(slots, str) else slots)}
    values |= getattr(part, "__dict__", {})
    skipped = _OF_A_MODULE if isinstance(part, nn.Module) else set()
    kept = [v for k, v in values.items() if k not in skipped and not k.startswith("target")]
    return sorted(kept, key=lambda v: isinstance(v, list | tuple | Mapping))


def _check_certain(part: Any) -> None:
    """Raise if a normalization is not applied to every image."""
    name, values = type(part).__name__, getattr(part, "__dict__", {})
    if _CHANCE.match(name):
        _refuse(f"{name} does not normalize every image, or not all of it")
    if values.get("random_apply"):
        _refuse(f"{name} does not normalize every image (random_apply={values['random_apply']})")
    for key in ("p", "p_batch"):
        share = values.get(key)
        if isinstance(share, int | float) and share < 1:
            _refuse(f"{name} does not normalize every image ({key}={share})")


def _formula(part: Any, base: type) -> Normalization:
    """Return the mean and std of an object whose class is, or derives from, one of the libraries'."""
    kind = type(part)
    if any(getattr(kind, hook, None) is not getattr(base, hook, None) for hook in _HOOKS):
        _refuse(f"what {kind.__name__} does, which overrides {base.__name__} of {_root(base)}, is not known")
    mode, most = getattr(part, "normalization", "standard"), getattr(part, "max_pixel_value", 255)
    if mode != "standard":
        _refuse(f"{kind.__name__}(normalization={mode!r}) treats each image on its own")
    if most not in (1, 255):
        _refuse(f"{kind.__name__}(max_pixel_value={most}) takes images that are neither in 0..255 nor in [0, 1]")
    flags = getattr(part, "flags", None)
    source = flags if isinstance(flags, Mapping) else {key: getattr(part, key) for key in ("mean", "std")}
    return _spread(source["mean"], source["std"])


def _spread(mean: Any, std: Any) -> Normalization:
    """Return a normalization with ``mean`` and ``std`` broadcast to equal length, as the libraries do."""
    numbers = [torch.as_tensor(v, dtype=torch.float64) for v in (mean, std)]
    if any(v.numel() != v.shape[-1] for v in map(torch.atleast_1d, numbers)):
        _refuse(f"each image of a batch is normalized in a way of its own, by a mean {tuple(numbers[0].shape)}")
    m, s = (tuple(v.flatten().tolist()) for v in numbers)
    channels = max(len(m), len(s))
    m, s = (v * channels if len(v) == 1 else v for v in (m, s))
    if len(m) != len(s) or channels not in (1, 3):
        _refuse(f"the transforms normalize {channels} channels, not 1 or 3")
    return Normalization(m, s)
