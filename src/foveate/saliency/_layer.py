"""Saliency from one layer of a classifier, using Captum."""

import logging
from abc import abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from foveate._checks import check_count
from foveate.identity import describe
from foveate.images import check_tensor, to_float
from foveate.models import (
    LazyModel,
    ModelSource,
    Preprocess,
    answering_logits,
    check_logits,
    eager,
    first_weight,
    refuse_cuda_in_worker,
    undisturbed,
)
from foveate.saliency._head import class_activation_map, linear_head
from foveate.saliency._protocol import Saliency, check_normalization, normalize
from foveate.saliency._stage import find_layer, find_layout, only_side
from foveate.saliency._tokens import TokenLayout, as_maps

logger = logging.getLogger(__name__)


class LayerSaliency(Saliency):
    """A map from one layer of a classifier. Subclasses implement :meth:`_attribute`.

    Every call, even one that fails, restores the model: the mode of each submodule, gradients, ``requires_grad``,
    buffers and hooks. Calls are thread-safe: a model runs one at a time, since Captum's hooks are not thread-safe. (A
    thread that trains the same model meanwhile would find it in eval mode.) Calls work under ``no_grad``,
    ``inference_mode`` and autocast, with frozen weights and with a model in train mode.

    Args:
        model: a classifier (B, 3, h, w) -> logits (B, classes), or its recipe: a torchvision name,
            ``"package.module:function"``, ``"file.py:function:argument"`` or a function without arguments. A recipe is
            built once per process and pickled in place of the model, so use one with DataLoader workers.
        layer: the dotted name of a submodule, or the submodule, whose output is (B, C, h, w), or the tokens of a
            transformer: (B, N, C), or (B, h, w, C). None takes the last convolutional stage, or, of a transformer, the
            last layer whose tokens of positions have a part in the answer: found by tracing a forward pass of a 224x224
            image (or one of another size if the model requires it), so that it depends only on the model.
            ``layer_name`` is the result. Where tokens lie in the image is not guessed: their number must be that of a
            grid and of the tokens that the model has before them, and they must follow one another row by row, as
            changes to parts of an image show; else the layer is refused.
        tokens: how many tokens come before those of positions in (B, N, C): class, distillation and register tokens;
            None takes as many as the model has.
        normalise: how attributions become maps: ``"peak"`` divides by the maximum; ``"rank"`` takes how many are below,
            so that a pre-filter's ``strength`` touches as much of an image for every network; see
            :func:`foveate.saliency.normalize`.
        preprocess: the model's preprocessing of (B, 3, H, W) float images in [0, 1]: any picklable function that keeps
            the whole image in view. None takes what the model or its recipe brings, or timm knows of it (see
            :attr:`foveate.models.LazyModel.preprocess`), without its crop, and else normalizes with ImageNet's mean and
            std. For images larger than those the model was trained on, ``foveate.models.Preprocess(resize=256)`` saves
            time and shows objects at a familiar size. If a model does not take images of a size, as transformers with
            a table of positions do not, a :class:`foveate.models.Preprocess` or None resizes all of the image to the
            square that it takes; the map still covers the whole image.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if the model does not have the layer.
    """

    _derived: ClassVar[frozenset[str]] = frozenset({"layer_name", "_checked_layer", "_layout", "_sides"})
    """Attributes that follow from the others, or from what was met on the way: no part of the identity."""

    def __init__(
        self,
        model: ModelSource,
        layer: str | nn.Module | None = None,
        *,
        tokens: int | None = None,
        normalise: str = "peak",
        preprocess: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._model = LazyModel(model)
        self._preprocess = preprocess
        self.tokens = None if tokens is None else check_count("tokens", tokens, 0)
        self.normalise = check_normalization(normalise)
        self._layout: TokenLayout | None = None  # of the layer's output, once it was met
        self._sides: dict[tuple[int, int], int] = {}  # of the squares to which images are resized, by size
        if preprocess is not None and not callable(preprocess):
            raise TypeError(f"preprocess: expected a function of a batch, got {type(preprocess).__name__}")
        self.layer_name: str | None = _layer_name(layer, model)
        """The dotted name of the layer; None until a layer left open was found by the first call."""
        self._asked_layer = self.layer_name
        self._checked_layer: str | None = None
        self.target: int | None = None
        """The class number that the maps explain; None takes each image's own prediction."""

    @property
    def uses_labels(self) -> bool:
        """Whether the class to explain was given (it may be the label); evaluations reject such maps."""
        return self.target is not None

    @property
    def identity(self) -> str:
        """Everything its maps depend on, weights included, as one line of text that is the same in every process.

        All attributes except those in ``_derived`` count, including those added by a subclass.
        """
        settings = self._settings() | {"_preprocess": self._prepares()}
        return describe(self, {k.lstrip("_"): v for k, v in settings.items()})

    def _prepares(self) -> Callable[[Tensor], Tensor]:
        """Return the preprocessing: what was given, what the model brings, or ImageNet's normalization."""
        if self._preprocess is not None:
            return self._preprocess
        preprocess = self._model.preprocess
        return Preprocess() if preprocess is None else preprocess.without_crop()

    def _settings(self) -> dict[str, Any]:
        settings = {name: value for name, value in vars(self).items() if name not in self._derived}
        for name, default in (("tokens", None), ("normalise", "peak")):
            if settings[name] == default:
                del settings[name]  # maps that were made before there was this setting are still found
        return settings

    def __eq__(self, other: object) -> bool:
        """Whether both give the same maps, as far as their settings tell; the models are not run."""
        if type(other) is not type(self):
            return NotImplemented
        try:
            return bool(self._settings() == other._settings())
        except (RuntimeError, ValueError):  # comparing tensors or arrays among the settings gives no single bool
            return False

    def __hash__(self) -> int:
        return hash((type(self), self._model))

    def to(self, device: str | torch.device) -> Self:
        """Move the model to a device and return this saliency; a recipe is built now."""
        self._model.get().to(device)
        return self

    def __call__(self, images: Tensor) -> Tensor:
        """Return the maps of a batch.

        Args:
            images: (B, 3, H, W), uint8 or float in [0, 1], on any device; B may be 0.

        Returns:
            (B, 1, h, w) float32 in [0, 1], each map divided by its maximum, detached, on the images' device; h and w
            are those of the layer. A map in which nothing stands out is 1 everywhere.

        Raises:
            TypeError: if the images are not a uint8 or floating point tensor.
            ValueError: if their shape or range does not fit, the layer has no spatial map, or the model does not return
                finite logits (B, classes).
            RuntimeError: if the model is on a GPU and this is a DataLoader worker.
        """
        check_tensor(images)
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images: expected shape (B, 3, H, W), got {tuple(images.shape)}")
        refuse_cuda_in_worker(images.device)
        if images.shape[0] == 0:
            return torch.empty(0, 1, 1, 1, dtype=torch.float32, device=images.device)
        model = self._model.get()
        weight = first_weight(model)
        if weight is not None:
            refuse_cuda_in_worker(weight.device)
        with undisturbed(model), answering_logits(model), torch.inference_mode(False), torch.no_grad():
            # A copy outside inference mode: Captum marks its input, and a model may write into it.
            x = to_float(images).clone() if images.is_floating_point() else to_float(images)
            x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
            maps = self._attributed(model, x if weight is None else x.to(weight.device))
        self._check_maps(maps, len(x))
        return normalize(maps, self.normalise).to(images.device)

    def _attributed(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return raw attributions of images, which are resized to a square if the model does not take their size."""
        prepare = self._prepares()
        x = prepare(images)
        if not isinstance(prepare, Preprocess):  # of which not all is known
            return self._attribute_at_layer(model, x)
        size = (x.shape[-2], x.shape[-1])
        if size not in self._sides:
            try:
                return self._attribute_at_layer(model, x)
            except Exception as error:  # whatever a model raises for images of a size that it does not take
                side = only_side(model, x)
                if side is None:
                    raise
                logger.info("saliency: images are resized to %dx%d, as the model says: %s", side, side, error)
                self._sides[size] = side
        square = (self._sides[size], self._sides[size])
        return self._attribute_at_layer(model, replace(prepare, resize=square)(images))

    def _attribute_at_layer(self, model: nn.Module, x: Tensor) -> Tensor:
        weight = first_weight(model)
        x = x if weight is None else x.to(weight.dtype)
        with torch.autocast(x.device.type, enabled=False):
            layer = self._find(model, x)
            with nullcontext(layer) if self._layout is None else as_maps(model, layer, self._layout) as seen:
                return self._attribute(model, seen, x)

    def _find(self, model: nn.Module, x: Tensor) -> nn.Module:
        if self.layer_name is None:
            self.layer_name, self._layout = find_layer(model, x, self.tokens)
            self._checked_layer = self.layer_name
            logger.info("saliency: took layer %r of %s", self.layer_name, type(model).__name__)
        layer = _submodule(model, self.layer_name)
        if self._checked_layer != self.layer_name:
            self._layout = find_layout(model, self.layer_name, x, self.tokens)
            self._checked_layer = self.layer_name
        return layer

    @abstractmethod
    def _attribute(self, model: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
        """Return raw attributions (B, 1, h, w) of preprocessed images; gradients are off, the model is in eval mode."""

    def _check_maps(self, maps: Any, count: int) -> None:
        if not isinstance(maps, Tensor) or maps.ndim != 4 or maps.shape[:2] != (count, 1):
            shape = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
            where = "layer: it" if self.layer_name is None else f"layer: {self.layer_name!r}"
            raise ValueError(
                f"{where} has no spatial map (its attributions are {shape}, expected (B, 1, h, w)); "
                "name another by layer="
            )
        if maps.shape[2] * maps.shape[3] == 1:
            logger.warning(
                "saliency: layer %r has one position for a whole image, so that its map says nothing; show the model "
                "larger images (preprocess=Preprocess(resize=224)) or name an earlier layer",
                self.layer_name,
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._model!r}, layer={self.layer_name!r})"


class GradCam(LayerSaliency):
    """Grad-CAM (Selvaraju et al., ICCV 2017) by ``captum.attr.LayerGradCam``: the regions that support a class.

    If one linear layer computes the logits from the means of the layer's channels, as in MobileNet, ResNet and
    EfficientNet, the first call detects this with one extra forward pass of one image. The same map, up to rounding,
    then needs no backward pass (Zhou et al., CVPR 2016).

    Args:
        model: see :class:`LayerSaliency`.
        layer: see :class:`LayerSaliency`.
        target: the class index to explain; None takes the model's prediction for each image. Do not pass labels.
        tokens: see :class:`LayerSaliency`.
        normalise: see :class:`LayerSaliency`.
        preprocess: see :class:`LayerSaliency`.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        ...                           torch.nn.Flatten(), torch.nn.Linear(8, 5))
        >>> cam = GradCam(net)
        >>> maps = cam(torch.rand(2, 3, 33, 49))
        >>> maps.shape, cam.layer_name
        (torch.Size([2, 1, 16, 24]), '1')
    """

    _derived = LayerSaliency._derived | {"_head"}

    def __init__(
        self,
        model: ModelSource,
        layer: str | nn.Module | None = None,
        *,
        target: int | None = None,
        tokens: int | None = None,
        normalise: str = "peak",
        preprocess: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(model, layer, tokens=tokens, normalise=normalise, preprocess=preprocess)
        self.target = check_target(target)
        self._head: str | None = ""  # the linear layer's name or None; "" until the first call

    def _attribute(self, model: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
        if self._head == "":
            self._head = linear_head(model, layer, x)
        if self._head:
            maps = class_activation_map(
                model, layer, self._head, x, lambda logits: chosen(check_logits(logits), self.target)
            )
            if maps is not None:
                return maps
            self._head = None  # the model has changed since
        return self._by_captum(model, layer, x)

    def _by_captum(self, model: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
        from captum.attr import LayerGradCam

        def score(batch: Tensor) -> Tensor:
            # The predicted class is picked within Captum's single forward pass.
            with torch.no_grad():  # up to the layer, whose hook turns gradients on
                logits = check_logits(model(batch))
            return logits.gather(1, chosen(logits, self.target)[:, None]).squeeze(1)

        def start_gradients(*_: Any) -> None:
            torch.set_grad_enabled(True)

        # Nothing before the layer is recorded, which saves the time and memory of gradients.
        # Registered before Captum's own hook, this one runs first, and Captum then makes the layer's output a leaf.
        handle = layer.register_forward_hook(start_gradients)
        try:
            maps: Tensor = LayerGradCam(score, layer).attribute(x, relu_attributions=False)
        finally:
            handle.remove()
        return maps


REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda a: a.mean(1, keepdim=True),
    "abs": lambda a: a.abs().mean(1, keepdim=True),
    "max": lambda a: a.amax(1, keepdim=True),
    "l2": lambda a: a.square().mean(1, keepdim=True).sqrt(),
}


class ActivationMap(LayerSaliency):
    """The activations of a layer, reduced over its channels, by ``captum.attr.LayerActivation``.

    It needs no class and no gradient, so it costs one forward pass.

    Args:
        model: see :class:`LayerSaliency`.
        layer: see :class:`LayerSaliency`.
        reduce: (B, C, h, w) to (B, 1, h, w): ``"mean"``, ``"abs"`` (mean of absolute values), ``"max"``, ``"l2"``
            (root mean square), or a function.
        tokens: see :class:`LayerSaliency`.
        normalise: see :class:`LayerSaliency`.
        preprocess: see :class:`LayerSaliency`.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.LazyLinear(5))
        >>> ActivationMap(net, layer="0", reduce="l2")(torch.rand(1, 3, 12, 12)).shape
        torch.Size([1, 1, 10, 10])
    """

    def __init__(
        self,
        model: ModelSource,
        layer: str | nn.Module | None = None,
        *,
        reduce: str | Callable[[Tensor], Tensor] = "mean",
        tokens: int | None = None,
        normalise: str = "peak",
        preprocess: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(model, layer, tokens=tokens, normalise=normalise, preprocess=preprocess)
        if not callable(reduce) and reduce not in REDUCTIONS:
            raise ValueError(f"reduce: expected {', '.join(REDUCTIONS)} or a function, got {reduce!r}")
        self.reduce = reduce

    def _attribute(self, model: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
        from captum.attr import LayerActivation

        activations = LayerActivation(model, layer).attribute(x)
        if not isinstance(activations, Tensor) or activations.ndim != 4:
            return activations  # the next check rejects it by its shape
        return self.reduce(activations) if callable(self.reduce) else REDUCTIONS[self.reduce](activations)


def check_target(target: int | None) -> int | None:
    """Return ``target`` if it is a class index or None; raise a ValueError otherwise."""
    try:
        return None if target is None else check_count("target", target, 0)
    except ValueError:
        raise ValueError(
            f"target: expected a class number or None for the model's own prediction, got {target!r}"
        ) from None


def chosen(logits: Tensor, target: int | None) -> Tensor:
    """Return the classes (B,) to explain for logits (B, classes): the target, or the model's predictions."""
    if target is None:
        return logits.argmax(1)
    if target >= logits.shape[1]:
        raise ValueError(f"target: the model has {logits.shape[1]} classes, got {target}")
    return torch.full_like(logits[:, 0], target, dtype=torch.int64)


def _submodule(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        names = [n for n, m in model.named_modules() if n and isinstance(m, nn.Conv2d)]
        shown = ", ".join(names[-5:]) or "none"
        raise ValueError(
            f"layer: {type(model).__name__} has no submodule {name!r}; its last convolutions are: {shown}"
        ) from None


def _layer_name(layer: str | nn.Module | None, model: ModelSource) -> str | None:
    """Return the dotted name of a layer, checked if the model is already built."""
    if isinstance(model, nn.Module) and eager(model) is not model:  # compiled by torch.compile
        model, layer = eager(model), layer.removeprefix("_orig_mod.") if isinstance(layer, str) else layer
    if isinstance(layer, nn.Module):
        if not isinstance(model, nn.Module):
            raise TypeError(f"layer: a model given by recipe ({model!r}) needs its layer by dotted name")
        name = next((name for name, module in model.named_modules() if module is layer), None)
        if name is None:
            raise ValueError(f"layer: this {type(layer).__name__} is not part of the {type(model).__name__}")
        return name
    if layer is not None and not isinstance(layer, str):
        raise TypeError(f"layer: expected a dotted name, a module or None, got {type(layer).__name__}")
    if layer is not None and isinstance(model, nn.Module):
        _submodule(model, layer)
    return layer
