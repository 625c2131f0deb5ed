"""Whose answer is to be kept: classifiers by recipe."""

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
    """A classifier whose answer is to be kept.

    Args:
        model: its recipe (see :class:`foveate.GradCam`), built once a process and all that is pickled; or a module.
        preprocess: None takes that of torchvision's weights, and for other models resize 256, crop 224, ImageNet.

    Raises:
        TypeError: if ``model`` is neither.

    Example:
        >>> from foveate.demo import PREPROCESS
        >>> Witness("foveate.demo:scene_net", PREPROCESS).name
        'scene_net'
    """

    model: ModelSource
    preprocess: Preprocess | None = None

    def __post_init__(self) -> None:
        self._model  # noqa: B018  (refuses what is not a model)

    @cached_property
    def _model(self) -> LazyModel:
        return LazyModel(self.model)

    @property
    def name(self) -> str:
        """What reports call it."""
        if isinstance(self.model, str):
            return self.model.replace("/", ":").rpartition(":")[2]
        return getattr(self.model, "__name__", type(self.model).__name__)

    @cached_property
    def classifier(self) -> Classifier:
        """The classifier, built at first use."""
        if isinstance(self.model, str):
            return load_classifier(self.model, self.preprocess)
        return Classifier(self.name, self._model.get(), self.preprocess or Preprocess(256, 224))

    def logits(self, images: Sequence[Tensor]) -> Tensor:
        """Return (N, classes) logits of images (C, H, W), on the CPU; the model is left as it was.

        Raises:
            RuntimeError: if the model is on a GPU and this is a DataLoader worker.
            ValueError: if it gives no logits.
        """
        model = self.classifier.model
        for parameter in islice(model.parameters(), 1):
            refuse_cuda_in_worker(parameter.device, f"witness {self.name}")
        # A network without a crop sees images at their own sizes, so only those of one size at once.
        alike = [[*range(len(images))]] if self.classifier.preprocess.crop else group_by_shape(images)
        with undisturbed(model):  # throughout, as some ask more than once
            parts = [self.classifier.logits([images[i] for i in group]).float().cpu() for group in alike]
        return torch.cat(parts)[torch.tensor([i for group in alike for i in group]).argsort()]

    def __hash__(self) -> int:
        return hash((self.name, self.preprocess))  # not of the recipe, an object that need have none

    def __getstate__(self) -> dict[str, Any]:
        self._model.__getstate__()  # refuses a module, with the cure
        return {f.name: getattr(self, f.name) for f in fields(self)}


WitnessSpec: TypeAlias = str | Witness | Classifier
"""What stands for a witness; see :func:`as_witness`."""


def as_witness(witness: WitnessSpec) -> Witness:
    """Return the witness that a recipe, a classifier or a witness stands for.

    Raises:
        TypeError: if it is none of these.
    """
    if isinstance(witness, Classifier):
        return Witness(witness.model, witness.preprocess)
    if isinstance(witness, str):
        return Witness(witness)
    if not isinstance(witness, Witness):
        raise TypeError(f"witnesses: expected recipes, Witness or Classifier, got {type(witness).__name__}")
    return witness
