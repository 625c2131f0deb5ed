"""Any attribution method of Captum as a saliency."""

import copy
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from foveate._checks import check_count
from foveate.identity import describe, structure
from foveate.models import ModelSource, check_logits, eager
from foveate.saliency._layer import REDUCTIONS, LayerSaliency, check_target, chosen

_generators = threading.RLock()  # torch's are the process's: one method at a time runs from a seed

Arguments: TypeAlias = "Mapping[str, Any] | Callable[[Tensor], Mapping[str, Any]]"


class CaptumAttribution(LayerSaliency):
    r"""A map from any ``captum.attr.Attribution``: integrated gradients, occlusion, noise tunnels, layer methods...

    From attributions to a map, in this order: channels are reduced as ``reduce`` says, an image larger than ``grid``
    cells is averaged over them, and, as with every saliency, what is negative becomes 0 and each map is divided by its
    maximum. Cells matter where attributions are given for single pixels: a few of these stand out so far that, divided
    by the largest, all others are near 0.

    A method that draws random numbers is run one image at a time, each from the same seed, so that its maps are
    deterministic and each depends on its own image only; the user's random state is as before.

    Args:
        method: the name of a class of ``captum.attr`` (``"IntegratedGradients"``), or of one in another where the first
            wraps it (``"NoiseTunnel:Saliency"``); the class; or an instance on a module, with its model and its layer.
            Names and classes go with models by recipe. Not ``FeaturePermutation``, which compares images of a batch.
        model: see :class:`LayerSaliency`; None with an instance.
        layer: see :class:`LayerSaliency`; for methods on a layer only.
        target: the class number to explain; None takes each image's own prediction. Labels have no place here.
        arguments: what the method's ``attribute`` or its class takes beyond inputs, target, model and layer, by name
            (``{"n_steps": 20}``; lists count as tuples), or a function that gives them for a preprocessed batch
            (B, 3, h, w), for windows, masks and baselines of its size.
        reduce: (B, C, h, w) to (B, 1, h, w): ``"mean"``, ``"abs"`` (mean of absolute values), ``"max"``, ``"l2"``
            (root mean square), or a function. None leaves one channel as it is, so that Grad-CAM shows what speaks for
            the class, and takes ``"abs"`` of several, whose sign says little by itself.
        grid: the most cells along a map's short side; None for as many as there are pixels.
        preprocess: see :class:`LayerSaliency`.

    Raises:
        TypeError: if an argument is of the wrong kind, or an instance explains a function instead of a module.
        ValueError: if there is no such method, layer or reduction, or the method takes no layer.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
        >>> saliency = CaptumAttribution("IntegratedGradients", net, arguments={"n_steps": 8})
        >>> saliency(torch.rand(2, 3, 32, 48)).shape
        torch.Size([2, 1, 14, 21])
    """

    _derived = LayerSaliency._derived | {"_layered", "_random"}

    def __init__(
        self,
        method: Any,
        model: "ModelSource | None" = None,
        layer: str | nn.Module | None = None,
        *,
        target: int | None = None,
        arguments: "Arguments | None" = None,
        reduce: str | Callable[[Tensor], Tensor] | None = None,
        grid: int | None = 14,
        preprocess: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.method = method
        kinds = _kinds(method)
        if kinds is None:
            if not isinstance(method.forward_func, nn.Module):
                raise TypeError(f"method: this {type(method).__name__} explains a function; give it a torch.nn.Module")
            if eager(method.forward_func) is not method.forward_func:
                raise TypeError(
                    f"method: this {type(method).__name__} explains a compiled module; give it the module itself"
                )
            if model is not None and model is not method.forward_func:
                raise TypeError(f"model: this {type(method).__name__} has its own; leave it out")
            model = method.forward_func
        elif model is None:
            raise TypeError(f"model: {_name(method)} needs one, or its recipe")
        super().__init__(model, layer, preprocess=preprocess)
        self._layered = kinds is not None and "layer" in inspect.signature(kinds[-1]).parameters
        if layer is not None and not self._layered:
            raise ValueError(f"layer: {_name(method)} takes none here; leave it out")
        self.target = check_target(target)
        self.arguments: Arguments = {} if arguments is None else arguments
        if not isinstance(self.arguments, Mapping) and not callable(self.arguments):
            raise TypeError(f"arguments: expected a dictionary or a function, got {type(arguments).__name__}")
        if reduce is not None and not callable(reduce) and reduce not in REDUCTIONS:
            raise ValueError(f"reduce: expected {', '.join(REDUCTIONS)}, None or a function, got {reduce!r}")
        self.reduce = reduce
        self.grid = None if grid is None else check_count("grid", grid)
        self._random: bool | None = None  # shows when it is run

    @property
    def identity(self) -> str:
        """What its maps depend on, as one line of text; an instance of a method counts by all that it holds."""
        state = {k.lstrip("_"): v for k, v in self._settings().items()}
        if _kinds(self.method) is None:
            state["method"] = structure(self.method)
        return describe(self, state)

    def _find(self, model: nn.Module, x: Tensor) -> nn.Module:
        return super()._find(model, x) if self._layered else model  # which then stands for no layer

    def _attribute(self, model: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
        if x.dtype not in (torch.float16, torch.bfloat16):
            return self._maps(model, layer, x.detach())
        with _taking_float(model, x.dtype):
            return self._maps(model, layer, x.detach().float())

    def _maps(self, model: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
        x.requires_grad_()  # or Captum warns that it has to
        arguments = {
            k: _tuples(v) for k, v in (self.arguments(x) if callable(self.arguments) else self.arguments).items()
        }
        method = self._build(model, layer, arguments)
        if _takes(method, "target"):
            arguments["target"] = chosen(check_logits(model(x)), self.target)
        raw = None
        if not self._random:
            raw = self._first(method, x, arguments) if self._random is None else _run(method, x, arguments)
        if self._random:
            rows = []
            for k in range(len(x)):
                targets = {"target": arguments["target"][k : k + 1]} if "target" in arguments else {}
                with _seeded(x.device):
                    rows.append(_run(method, x[k : k + 1].detach().requires_grad_(), arguments | targets))
            raw = torch.cat(rows)
        if not isinstance(raw, Tensor) or raw.ndim != 4:
            return raw  # type: ignore[return-value]  # refused, with its shape, by the check that follows
        return self._cells(self._one_channel(raw.detach().float()))

    def _first(self, method: Any, x: Tensor, arguments: dict[str, Any]) -> Any:
        """Run a method of which it is not known yet whether it draws random numbers, and find out."""
        with _seeded(x.device) as states:
            before = states()
            raw = _run(method, x, arguments)
            self._random = any(not torch.equal(a, b) for a, b in zip(before, states(), strict=True))
        return raw

    def _build(self, model: nn.Module, layer: nn.Module, arguments: dict[str, Any]) -> Any:
        """The Captum object, with those of the arguments that its class takes moved out of them."""
        kinds = _kinds(self.method)
        if kinds is None:
            return self.method
        *wrappers, kind = kinds
        taken = inspect.signature(kind).parameters.keys() & arguments.keys()
        settings = {name: arguments.pop(name) for name in taken}
        method = kind(model, **settings) if layer is model else kind(model, layer, **settings)
        for wrapper in reversed(wrappers):
            method = wrapper(method)
        return method

    def _one_channel(self, raw: Tensor) -> Tensor:
        if self.reduce is None:
            return raw if raw.shape[1] == 1 else REDUCTIONS["abs"](raw)
        return self.reduce(raw) if callable(self.reduce) else REDUCTIONS[self.reduce](raw)

    def _cells(self, maps: Tensor) -> Tensor:
        height, width = maps.shape[-2:]
        if self.grid is None or min(height, width) <= self.grid:
            return maps
        share = self.grid / min(height, width)
        return F.adaptive_avg_pool2d(maps, (round(height * share), round(width * share)))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return copy.copy(self)  # an instance and its model belong together

    def __repr__(self) -> str:
        return f"CaptumAttribution({_name(self.method)!r}, {self._model!r}, layer={self.layer_name!r})"


def is_attribution(name: str) -> bool:
    """Whether captum.attr has a method of this name, or of every name joined by colons.

    Example:
        >>> is_attribution("NoiseTunnel:Saliency"), is_attribution("Sailency")
        (True, False)
    """
    from captum import attr

    kinds = [getattr(attr, part, None) for part in name.split(":")]
    return all(isinstance(kind, type) and issubclass(kind, attr.Attribution) for kind in kinds)


def _kinds(method: Any) -> tuple[type, ...] | None:
    """The classes of a method, the innermost last; None for an instance."""
    from captum import attr

    if isinstance(method, attr.Attribution):
        _refuse(type(method))
        return None
    names = method.split(":") if isinstance(method, str) else [method]
    kinds: list[type] = []
    for name in names:
        kind = getattr(attr, name, None) if isinstance(name, str) else name
        if not isinstance(kind, type) or not issubclass(kind, attr.Attribution):
            if not isinstance(method, str):
                raise TypeError(f"method: expected a captum.attr.Attribution or its name, got {method!r}")
            raise ValueError(f"method: captum.attr has no attribution {name!r} (in {method!r})")
        _refuse(kind)
        kinds.append(kind)
    wrap = [issubclass(kind, attr.NoiseTunnel) for kind in kinds]
    if not all(wrap[:-1]) or wrap[-1]:
        raise ValueError(
            f"method: {_name(method)} has to wrap another, as in 'NoiseTunnel:Saliency', or give an instance"
        )
    return tuple(kinds)


def _refuse(kind: type) -> None:
    from captum import attr

    if issubclass(kind, attr.FeaturePermutation):
        raise ValueError(f"method: {kind.__name__} compares the images of a batch; a map is of one image alone")


def _name(method: Any) -> str:
    return method if isinstance(method, str) else getattr(method, "__name__", type(method).__name__)


def _takes(method: Any, name: str) -> bool:
    """Whether the method, or the one it wraps, has an argument of this name."""
    inner = getattr(method, "attribution_method", None)
    return name in inspect.signature(method.attribute).parameters or (inner is not None and _takes(inner, name))


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _run(method: Any, x: Tensor, arguments: dict[str, Any]) -> Any:
    out = method.attribute(x, **arguments)
    return out[0] if isinstance(out, tuple) else out


@contextmanager
def _taking_float(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Let a model of half precision take float32, in which Captum's noise comes and its sums are exact enough."""
    handle = model.register_forward_pre_hook(
        lambda _, inputs: tree_map_only(Tensor, lambda x: x.to(dtype), inputs)  # DeepLift passes tuples
    )
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _seeded(device: torch.device) -> Iterator[Callable[[], list[Tensor]]]:
    """Run from a fixed seed and give the user's random states back; yields a function that reads the states inside."""
    cuda = [device] if device.type == "cuda" else []
    with _generators, torch.random.fork_rng(cuda):
        legacy = np.random.get_state()  # noqa: NPY002  # GradientShap draws from it
        np.random.seed(0)  # noqa: NPY002
        torch.default_generator.manual_seed(0)  # not torch.manual_seed, which also seeds GPUs that are not forked here
        for gpu in cuda:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(0)
        try:
            yield lambda: [
                torch.get_rng_state(),
                torch.from_numpy(np.random.get_state(legacy=False)["state"]["key"].copy()),  # noqa: NPY002
                *(torch.cuda.get_rng_state(gpu) for gpu in cuda),
            ]
        finally:
            np.random.set_state(legacy)  # noqa: NPY002
