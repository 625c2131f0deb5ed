"""A classifier: a model with its name and its preprocessing."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from foveate.identity import identity, refuse_subclass
from foveate.models._preprocess import Preprocess
from foveate.models._recipes import DEFAULT_PREPROCESS, LazyModel, ModelSource, preprocess_of, short_name
from foveate.models._running import check_logits, first_weight, undisturbed
from foveate.models._transforms import as_preprocess


@dataclass(frozen=True)
class Classifier:
    """A model with a name for reports and the preprocessing that belongs to it.

    Attributes:
        name: shown in reports.
        model: from preprocessed images (N, 3, h, w) to logits (N, classes), or what holds them as ``logits``.
        preprocess: of images of any size.
        class_names: in the order of the logits; empty if they are not known.

    Example:
        >>> net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> Classifier("mean", net, Preprocess(crop=8)).logits([torch.rand(3, 20, 30)]).shape
        torch.Size([1, 3])
    """

    name: str
    model: nn.Module
    preprocess: Preprocess
    class_names: tuple[str, ...] = ()

    def logits(self, images: Sequence[Tensor]) -> Tensor:
        """Return the logits (N, classes) of N images (3, H, W) of any sizes, uint8 or float in [0, 1].

        The model runs as in :meth:`forward`.

        Raises:
            ValueError: if the model does not return logits, or the preprocessed images differ in size.
        """
        return self.forward(self.preprocess.batch(images))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, classes) of a preprocessed batch (N, 3, h, w), without gradients.

        The model runs in eval mode, on its own device and in its own precision, and is left as it was.

        Raises:
            ValueError: if the model does not return logits.
        """
        weight = first_weight(self.model)
        device, dtype = (x.device, x.dtype) if weight is None else (weight.device, weight.dtype)
        # Channels last: 1.3 to 2.7 times as fast on two CPU cores (MobileNetV2 and SqueezeNet, batches of 9 to 43).
        x = x.to(device, dtype, memory_format=torch.channels_last)
        with undisturbed(self.model), torch.inference_mode(), torch.autocast(device.type, enabled=False):
            logits = check_logits(self.model(x))
        return logits.clone()  # outside inference mode, so that it is an ordinary tensor

    @property
    def identity(self) -> str:
        """All that its logits depend on, as one line of text: the model's weights and code, and the preprocessing."""
        refuse_subclass(self, Classifier)
        return f"{identity(self.model)}, {identity(self.preprocess)}"

    def num_classes(self) -> int:
        """Return the number of classes, from one forward pass of a black image."""
        side = self.preprocess.crop or self.preprocess.short_side or 224
        return self.logits([torch.zeros(3, side, side, dtype=torch.float32)]).shape[1]


def load_classifier(spec: str, preprocess: Preprocess | None = None) -> Classifier:
    """Build the classifier that a short string names, in eval mode and frozen.

    Args:
        spec: see :func:`build_model`.
        preprocess: None takes that of the weights for torchvision's models, what others bring (see
            :attr:`LazyModel.preprocess`), and resize 256, crop 224, ImageNet mean and std where they bring none.

    Returns:
        The classifier, named by the last part of ``spec``, after the last ``:`` or ``/``.

    Raises:
        ValueError: as :func:`build_model` does.

    Example:
        >>> load_classifier("torchvision.models:squeezenet1_1").name
        'squeezenet1_1'
    """
    source = LazyModel(spec)
    if preprocess is None:
        preprocess = preprocess_of(spec)
    return Classifier(short_name(spec), source.get(), preprocess, source.class_names)


@dataclass(frozen=True)
class LazyClassifier:
    """A model with its preprocessing, by value or by recipe; a recipe is all that is pickled, and built at first use.

    Args:
        model: a recipe (see :class:`LazyModel`), which is built once per process; or a module.
        preprocess: in any form that :func:`as_preprocess` takes; None as for :func:`load_classifier`.

    Raises:
        TypeError: if ``model`` is neither a recipe nor a module.

    Example:
        >>> from foveate.demo import PREPROCESS
        >>> LazyClassifier("foveate.demo:scene_net", PREPROCESS).name
        'scene_net'
    """

    model: ModelSource
    preprocess: Preprocess | None = None

    def __post_init__(self) -> None:
        self._model  # noqa: B018  (raises if it is not a model)
        if self.preprocess is not None:
            object.__setattr__(self, "preprocess", as_preprocess(self.preprocess))

    @cached_property
    def _model(self) -> LazyModel:
        return LazyModel(self.model)

    @property
    def name(self) -> str:
        """The name used in reports."""
        return short_name(self.model)

    @cached_property
    def classifier(self) -> Classifier:
        """The classifier, built on first use."""
        if isinstance(self.model, str):
            return load_classifier(self.model, self.preprocess)
        preprocess = self.preprocess or self._model.preprocess or DEFAULT_PREPROCESS
        return Classifier(self.name, self._model.get(), preprocess)

    @property
    def identity(self) -> str:
        """All that its features and logits depend on, as one line of text; the same for a model and its recipe."""
        return self.classifier.identity

    def __hash__(self) -> int:
        return hash((self.name, self.preprocess))  # not of the recipe, which may not be hashable

    def __getstate__(self) -> dict[str, Any]:
        self._model.__getstate__()  # raises for a module, and says what to do
        return {f.name: getattr(self, f.name) for f in fields(self)}
