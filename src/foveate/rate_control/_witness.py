"""Witnesses: the classifiers whose answers must be kept, and how else they are named."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

import torch
from torch import Tensor

from foveate.images import group_by_shape
from foveate.models import Classifier, LazyClassifier, refuse_cuda_in_worker, undisturbed
from foveate.rate_control._fidelity import Embedding, Fidelity, Lpips, MsSsim


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
        alike = [[*range(len(images))]] if self.classifier.preprocess.fixes_size else group_by_shape(images)
        with undisturbed(model):  # around the whole loop: there may be several batches
            parts = [self.classifier.logits([images[i] for i in group]).float().cpu() for group in alike]
        return torch.cat(parts)[torch.tensor([i for group in alike for i in group]).argsort()]


WitnessSpec: TypeAlias = str | Witness | Classifier | Fidelity
"""What stands for a witness; see :func:`as_witness`."""


def as_witness(witness: WitnessSpec) -> Witness | Fidelity:
    """Return the witness for a recipe, a classifier or a witness.

    Args:
        witness: a classifier or its recipe; or a :class:`Fidelity`, or its short string: ``"lpips"`` (or
            ``"lpips:RECIPE"`` for a SqueezeNet 1.1 of one's own), ``"ms-ssim"``, ``"embedding:RECIPE"``.

    Raises:
        TypeError: if it is of another type.
        ValueError: if an embedding names no network.

    Example:
        >>> as_witness("ms-ssim").name, as_witness("embedding:foveate.demo:scene_net").name
        ('ms-ssim', 'scene_net')
    """
    if isinstance(witness, Classifier):
        return Witness(witness.model, witness.preprocess)
    if isinstance(witness, str):
        kind, _, recipe = witness.partition(":")
        if witness == "ms-ssim":
            return MsSsim()
        if kind == "lpips":
            return Lpips(model=recipe) if recipe else Lpips()
        if kind == "embedding":
            if not recipe:
                raise ValueError("witnesses: 'embedding:' names no network; write 'embedding:FILE.py:FUNCTION'")
            return Embedding(model=recipe)
        return Witness(witness)
    if not isinstance(witness, Witness | Fidelity):
        raise TypeError(f"witnesses: expected recipes, Witness, Classifier or Fidelity, got {type(witness).__name__}")
    return witness
