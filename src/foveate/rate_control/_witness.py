"""Witnesses: the classifiers whose answers must be kept."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import islice
from typing import Any, TypeAlias

import torch
from torch import Tensor

from foveate.images import group_by_shape
from foveate.models import (
    Classifier,
    LazyModel,
    ModelSource,
    Preprocess,
    load_classifier,
    refuse_cuda_in_worker,
    undisturbed,
)


@dataclass(frozen=True)
class Witness:
    """A classifier whose answer must be kept.

    Args:
        model: a recipe (see :class:`foveate.GradCam`), which is built once per process and is all that is pickled; or a
            module.
        preprocess: None takes the preprocessing of torchvision's weights; for other models, resize 256, crop 224 and
            ImageNet normalization.

    Raises:
        TypeError: if ``model`` is neither a recipe nor a module.

    Example:
        >>> from foveate.demo import PREPROCESS
        >>> Witness("foveate.demo:scene_net", PREPROCESS).name
        'scene_net'
    """

    model: ModelSource
    preprocess: Preprocess | None = None

    def __post_init__(self) -> None:
        self._model  # noqa: B018  (raises if it is not a model)

    @cached_property
    def _model(self) -> LazyModel:
        return LazyModel(self.model)

    @property
    def name(self) -> str:
        """The name used in reports."""
        if isinstance(self.model, str):
            return self.model.replace("/", ":").rpartition(":")[2]
        return getattr(self.model, "__name__", type(self.model).__name__)

    @cached_property
    def classifier(self) -> Classifier:
        """The classifier, built on first use."""
        if isinstance(self.model, str):
            return load_classifier(self.model, self.preprocess)
        return Classifier(self.name, self._model.get(), self.preprocess or Preprocess(256, 224))

    def logits(self, images: Sequence[Tensor]) -> Tensor:
        """Return (N, classes) logits of images (C, H, W), on the CPU; the model's state is restored.

        Raises:
            RuntimeError: if the model is on a GPU and this is a DataLoader worker.
            ValueError: if the model does not return logits.
        """
        model = self.classifier.model
        for parameter in islice(model.parameters(), 1):
            refuse_cuda_in_worker(parameter.device, f"witness {self.name}")
        # Without a crop, images keep their own sizes, so only those of equal size share a batch.
        alike = [[*range(len(images))]] if self.classifier.preprocess.crop else group_by_shape(images)
        with undisturbed(model):  # around the whole loop: there may be several batches
            parts = [self.classifier.logits([images[i] for i in group]).float().cpu() for group in alike]
        return torch.cat(parts)[torch.tensor([i for group in alike for i in group]).argsort()]

    def __hash__(self) -> int:
        return hash((self.name, self.preprocess))  # not of the recipe, which may not be hashable

    def __getstate__(self) -> dict[str, Any]:
        self._model.__getstate__()  # raises for a module, and says what to do
        return {f.name: getattr(self, f.name) for f in fields(self)}


WitnessSpec: TypeAlias = str | Witness | Classifier
"""What stands for a witness; see :func:`as_witness`."""


def as_witness(witness: WitnessSpec) -> Witness:
    """Return the witness for a recipe, a classifier or a witness.

    Raises:
        TypeError: if it is of another type.
    """
    if isinstance(witness, Classifier):
        return Witness(witness.model, witness.preprocess)
    if isinstance(witness, str):
        return Witness(witness)
    if not isinstance(witness, Witness):
        raise TypeError(f"witnesses: expected recipes, Witness or Classifier, got {type(witness).__name__}")
    return witness
