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

_generators = threading.RLock()  # torch's generators are global: only one seeded method runs at a time

Arguments: TypeAlias = "Mapping[str, Any] | Callable[[Tensor], Mapping[str, Any]]"


class CaptumAttribution(LayerSaliency):
    r"""A map from any ``captum.attr.Attribution``: integrated gradients, occlusion, noise tunnels, layer methods...

    Attributions become a map in this order: channels are reduced by ``reduce``, maps larger than ``grid`` cells are
    averaged within cells, and, as with every saliency, negative values become 0 and each map is divided by its maximum.
    Cells matter for per-pixel attributions: a few pixels stand out so far that, after division by the largest, all
    others are near 0.

    A method that draws random numbers is run one image at a time, each from the same seed, so that its maps are
    deterministic and each depends only on its own image. The user's random state is restored.

    Args:
        method: the name of a class in ``captum.attr`` (``"IntegratedGradients"``), with the class it wraps after a
            colon (``"NoiseTunnel:Saliency"``); the class itself; or an instance, which has its own model and layer. Use
            names or classes with model recipes. ``FeaturePermutation`` is not supported, as it compares the images of a
            batch.
        model: see :class:`LayerSaliency`; None with an instance.
        layer: see :class:`LayerSaliency`; only for layer methods.
        target: the class index to explain; None takes the model's prediction for each image. Do not pass labels.
        arguments: further keyword arguments of the method's ``attribute`` or its class (``{"n_steps": 20}``; lists
            become tuples), or a function that returns them for a preprocessed batch (B, 3, h, w), for windows, masks
            and baselines of its size.
        reduce: (B, C, h, w) to (B, 1, h, w): ``"mean"``, ``"abs"`` (mean of absolute values), ``"max"``, ``"l2"``
            (root mean square), or a function. None keeps a single channel as it is, so that Grad-CAM shows the evidence
            for the class, and uses ``"abs"`` for several, whose sign means little.
        grid: the maximum number of cells along a map's short side; None for one cell per pixel.
        tokens: see :class:`LayerSaliency`; only for layer methods.
        normalise: see :class:`LayerSaliency`.
        preprocess: see :class:`LayerSaliency`.

    Raises:
        TypeError: if an argument is of the wrong kind, or an instance explains a function instead of a module.
        ValueError: if the method, layer or reduction does not exist, or the method takes no layer.

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
        tokens: int | None = None,
        normalise: str = "peak",
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
        super().__init__(model, layer, tokens=tokens, normalise=normalise, preprocess=preprocess)
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
        self._random: bool | None = None  # found out on the first run

    @property
    def identity(self) -> str:
        """Everything its maps depend on, as one line of text; a method instance counts with all its attributes."""
        state = {k.lstrip("_"): v for k, v in self._settings().items()}
        if _kinds(self.method) is None:
            state["method"] = structure(self.method)
        return describe(self, state)

    def _find(self, model: nn.Module, x: Tensor) -> nn.Module:
        return super()._find(model, x) if self._layered else model  # stands for no layer

    def _attribute(self, model: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
        if x.dtype not in (torch.float16, torch.bfloat16):
            return self._maps(model, layer, x.detach())
        with _taking_float(model, x.dtype):
            return self._maps(model, layer, x.detach().float())

    def _maps(self, model: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
        x.requires_grad_()  # else Captum warns
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
            return raw  # type: ignore[return-value]  # the next check rejects it by its shape
        return self._cells(self._one_channel(raw.detach().float()))

    def _first(self, method: Any, x: Tensor, arguments: dict[str, Any]) -> Any:
        """Run a method for the first time and find out whether it draws random numbers."""
        with _seeded(x.device) as states:
            before = states()
            raw = _run(method, x, arguments)
            self._random = any(not torch.equal(a, b) for a, b in zip(before, states(), strict=True))
        return raw

    def _build(self, model: nn.Module, layer: nn.Module, arguments: dict[str, Any]) -> Any:
        """Return the Captum object; arguments that its class takes are popped from ``arguments``."""
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
    """Return whether captum.attr has this method, or all methods of a name joined by colons.

    Example:
        >>> is_attribution("NoiseTunnel:Saliency"), is_attribution("Sailency")
        (True, False)
    """
    from captum import attr

    kinds = [getattr(attr, part, None) for part in name.split(":")]
    return all(isinstance(kind, type) and issubclass(kind, attr.Attribution) for kind in kinds)


def _kinds(method: Any) -> tuple[type, ...] | None:
    """Return the classes of a method, innermost last; None for an instance."""
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
    """Return whether the method, or the one it wraps, has an argument with this name."""
    inner = getattr(method, "attribution_method", None)
    return name in inspect.signature(method.attribute).parameters or (inner is not None and _takes(inner, name))


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _run(method: Any, x: Tensor, arguments: dict[str, Any]) -> Any:
    try:
        out = method.attribute(x, **arguments)
    except AssertionError as error:  # by which Captum refuses arguments
        raise ValueError(f"arguments: {type(method).__name__} refuses them: {error}") from error
    return out[0] if isinstance(out, tuple) else out


@contextmanager
def _taking_float(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Let a half-precision model take float32, the type of Captum's noise, precise enough for its sums."""
    handle = model.register_forward_pre_hook(
        lambda _, inputs: tree_map_only(Tensor, lambda x: x.to(dtype), inputs)  # DeepLift passes tuples
    )
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _seeded(device: torch.device) -> Iterator[Callable[[], list[Tensor]]]:
    """Run from a fixed seed and restore the random states after; yields a function that reads the current states."""
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
