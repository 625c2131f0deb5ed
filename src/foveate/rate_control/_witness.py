"""Witnesses: the classifiers whose answers must be kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

import torch
from torch import Tensor

from foveate.images import group_by_shape
from foveate.models import Classifier, LazyClassifier, refuse_cuda_in_worker, undisturbed


@dataclass(frozen=True, eq=False)  # as LazyClassifier, whose recipe need not be hashable
class Witness(LazyClassifier):
    """A classifier whose answer must be kept; for its arguments see :class:`foveate.models.LazyClassifier`.

    Example:
        >>> from foveate.demo import PREPROCESS
        >>> Witness("foveate.demo:scene_net", PREPROCESS).name
        'scene_net'
    """

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
