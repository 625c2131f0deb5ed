"""Reading a module's batches, and getting logits and maps from the module."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from foveate.integrations.lightning._normalization import Normalization, chosen, normalization_of
from foveate.models import check_logits, import_object, undisturbed
from foveate.saliency import SALIENCIES, Saliency, as_saliency, saliency_maps

# Callables without type parameters: LightningCLI's help would list every subclass of Tensor.
SaliencySpec: TypeAlias = str | dict[str, Any] | Callable[..., Any] | None
Adapter: TypeAlias = str | Callable[..., Any] | None
Forward: TypeAlias = str | Callable[..., Any] | None
Numbers: TypeAlias = float | list[float] | tuple[float, ...] | None


@dataclass(frozen=True)
class _Normalized:
    """Normalizes a saliency's RGB input for a module that may take one channel."""

    normalization: Normalization
    channels: int

    def __call__(self, images: Tensor) -> Tensor:
        return self.normalization(images[:, : self.channels])


class BatchReader:
    """Reads a module's batches, and gets logits and maps from the module."""

    def __init__(
        self, saliency: SaliencySpec, mean: Numbers, std: Numbers, adapter: Adapter, forward_fn: Forward
    ) -> None:
        self._spec = saliency
        self._chosen = chosen(mean, std)
        self._adapter = _function("adapter", adapter)
        self._forward = _function("forward_fn", forward_fn)
        self._saliency: tuple[Any, _Normalized, Saliency] | None = None
        if isinstance(saliency, Mapping | str):
            as_saliency(saliency, model=nn.Identity)  # so that an invalid mapping fails before training

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_saliency": None}  # it holds the module; rebuilt when needed

    @property
    def asks_module(self) -> bool:
        """Whether logits come from calling the module directly."""
        return self._forward is None

    def read(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        """Return the images and the targets of a batch."""
        if self._adapter is not None:
            images, target = self._adapter(batch)
        elif isinstance(batch, list | tuple) and len(batch) >= 1:
            images, target = batch[0], batch[1] if len(batch) > 1 else None
        else:
            raise TypeError(
                f"adapter: a batch is a {type(batch).__name__}; give a function that returns its images and target"
            )
        if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] not in (1, 3):
            shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise ValueError(
                f"adapter: expected images (B, 3 or 1, H, W), got {shape}; give a function that returns them"
            )
        if target is not None and (not isinstance(target, Tensor) or target.ndim not in (1, 2)):
            target = None
        return images, target if target is None or target.ndim == 1 else target.argmax(1)

    def normalization(self, data: Any) -> Normalization:
        """Return the normalization given, or read from the transforms of ``data``, or an identity."""
        return self._chosen or normalization_of(data) or Normalization()

    def logits(self, trainer: Any, module: Any, images: Tensor) -> Tensor:
        """Return the module's logits, in the trainer's precision; its state and the random state are restored."""
        devices = [images.device] if images.device.type == "cuda" else []
        with (
            torch.random.fork_rng(devices),
            undisturbed(module),
            torch.no_grad(),
            trainer.precision_plugin.forward_context(),
        ):
            out = module(images) if self._forward is None else self._forward(module, images)
        return check_logits(out).float()

    def maps(self, module: Any, images: Tensor, normalization: Normalization) -> Tensor:
        """Return the maps of images in [0, 1]; a saliency without a model explains the module."""
        preprocess = _Normalized(normalization, images.shape[1])
        if self._saliency is None or self._saliency[0] is not module or self._saliency[1] != preprocess:
            self._saliency = (module, preprocess, self._make(module, preprocess))
        return saliency_maps(self._saliency[2], images)

    def _make(self, module: Any, preprocess: _Normalized) -> Saliency:
        spec = {} if self._spec is None else self._spec
        if isinstance(spec, str) and spec in SALIENCIES:
            spec = {"method": spec}
        if not isinstance(spec, Mapping) or "model" in spec:
            return as_saliency(spec)
        if module is None:
            return _without_module(spec)
        if self._forward is None:
            return as_saliency(spec, model=module, preprocess=preprocess)
        if isinstance(spec.get("layer"), str):
            spec = {**spec, "layer": f"module.{spec['layer']}"}
        return as_saliency(spec, model=_Through(module, self._forward), preprocess=preprocess)


def _without_module(spec: Mapping[str, Any]) -> Saliency:
    """Return the saliency of a method that takes no model, for example CachedSaliency."""
    try:
        return as_saliency(spec)
    except ValueError as error:
        raise ValueError("saliency: it names no model and there is no module; give one of the two") from error


class _Through(nn.Module):
    """A module called through a function."""

    def __init__(self, module: nn.Module, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.module, self._function = module, forward

    def forward(self, images: Tensor) -> Tensor:
        return self._function(self.module, images)


class Listener:
    """Records a module's logits, matched to the tensor object it was called with."""

    def __init__(self, module: nn.Module) -> None:
        self._answers: list[tuple[Any, Any]] = []
        self.handle = module.register_forward_hook(self._hear)

    def _hear(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if len(inputs) == 1 and isinstance(output, Tensor):
            self._answers.append((inputs[0], output.detach()))

    def answer(self, images: Tensor) -> Tensor | None:
        """Return the recorded logits (B, classes) of these images, or None if there are none."""
        logits = next((output for asked_with, output in self._answers if asked_with is images), None)
        return logits if logits is not None and logits.ndim == 2 and len(logits) == len(images) else None


def _function(name: str, value: str | Callable[..., Any] | None) -> Callable[..., Any] | None:
    if isinstance(value, str):
        try:
            value = import_object(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    if value is not None and not callable(value):
        raise TypeError(f"{name}: expected a function or 'package.module:name', got {type(value).__name__}")
    return value
