"""What stands for the networks of a loss."""

from collections.abc import Sequence
from typing import TypeAlias

from torch import nn

from foveate.models import Classifier, LazyClassifier, ModelSource

ModelSpec: TypeAlias = "ModelSource | LazyClassifier | Classifier"
"""What stands for a network in the loss: a recipe or a module, with or without its preprocessing."""


def as_models(models: object) -> tuple[LazyClassifier, ...]:
    """Return the networks that one spec or a sequence of specs stands for.

    Raises:
        TypeError: if it stands for nothing.
        ValueError: if there is none.
    """
    specs = (
        [models] if isinstance(models, str | nn.Module | LazyClassifier | Classifier) or callable(models) else models
    )
    if not isinstance(specs, Sequence):
        raise TypeError(f"models: expected recipes, modules or classifiers, got {type(models).__name__}")
    if not specs:
        raise ValueError("models: expected at least one network")
    return tuple(_as_model(spec) for spec in specs)


def _as_model(spec: object) -> LazyClassifier:
    if isinstance(spec, LazyClassifier):
        return spec
    if isinstance(spec, Classifier):
        return LazyClassifier(spec.model, spec.preprocess)
    if isinstance(spec, str | nn.Module) or callable(spec):
        return LazyClassifier(spec)
    raise TypeError(f"models: expected recipes, modules or classifiers, got {type(spec).__name__}")
