"""What an edit keeps: the features of networks, or, as controls of a comparison, something else."""

import copy
import weakref
from collections.abc import Sequence
from enum import StrEnum

import torch
from torch import Tensor, nn

from foveate.models import Classifier
from foveate.preedit._features import Features
from foveate.preedit._optimize import View, crop

_FEATURES = 0.25
"""The weight of a distance of features beside a divergence of answers in nats."""
_PIXELS = 200.0
_BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_MS_SSIM = 4.0
"""Weights that give distances of the size of those of features."""


class Objective(StrEnum):
    """What an edit keeps; all but the first are controls of a comparison."""

    NETWORKS = "networks"
    """The features in the layers of the models, and their answers."""
    FEATURES = "features"
    """Their features alone."""
    ANSWERS = "answers"
    """Their answers alone; for models that have none, features."""
    UNTRAINED = "untrained"
    """The features and answers of the same models with random weights."""
    PIXELS = "pixels"
    """The pixels, by their mean squared error."""
    MS_SSIM = "ms_ssim"
    """The multi-scale structural similarity (Wang, Simoncelli and Bovik 2003)."""


class NetworkDistance:
    """How far images are from their sources to some networks, which take turns from step to step.

    So a step takes as long for several networks as for one. Of a network that answers with logits, the divergence of
    the answers counts, and a share of the distance of the features; of one that does not, that distance alone.

    Args:
        networks: with their features.
        objective: features and answers, or one of them alone.
    """

    def __init__(self, networks: Sequence[Features], objective: Objective = Objective.NETWORKS) -> None:
        self._networks = networks
        self._objective = objective

    def __call__(self, source: Tensor, decoded: Tensor, view: View) -> Tensor:
        """Return (B,)."""
        network = self._networks[view.step % len(self._networks)]
        side, short_side = network.sides(source)
        decoded_view, source_view = (
            crop(images, view, short_side, side).expand(-1, 3, -1, -1) for images in (decoded, source)
        )
        return network_distance(network, source_view, decoded_view, self._objective).to(source)


def network_distance(
    network: Features, source: Tensor, decoded: Tensor, objective: Objective = Objective.NETWORKS
) -> Tensor:
    """Return how far images (B, 3, H, W) are from their sources to a network, (B,)."""
    distance, divergence = network.compare(source, decoded)
    if divergence is None or objective == Objective.FEATURES:
        return distance
    return divergence if objective == Objective.ANSWERS else divergence + _FEATURES * distance


def pixel_distance(source: Tensor, decoded: Tensor, _view: View) -> Tensor:
    """Return the mean squared error (B,), scaled to the size of a distance of features."""
    return _PIXELS * (decoded - source).square().mean((1, 2, 3))


def ms_ssim_distance(source: Tensor, decoded: Tensor, _view: View) -> Tensor:
    """Return what (B,) is missing to a structural similarity of 1, at as many scales as the images allow.

    By torchmetrics.
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim

    side = min(source.shape[-2:])
    if side == 1:  # which has no structure
        return pixel_distance(source, decoded, _view)
    scales = max(1, sum(side // max(2**k, k**2) > 10 for k in range(len(_BETAS))))  # as torchmetrics demands
    similarity = ms_ssim(
        decoded,
        source,
        gaussian_kernel=side > 10,
        kernel_size=min(11, side - 1 + side % 2),
        reduction="none",
        data_range=1.0,
        betas=_BETAS[:scales],
        normalize="relu",
    )
    return _MS_SSIM * (1 - similarity)


_untrained: "weakref.WeakKeyDictionary[nn.Module, nn.Module]" = weakref.WeakKeyDictionary()


def untrained(classifier: Classifier) -> Classifier:
    """Return a network of the same architecture with random weights, the same on every call."""
    model = classifier.model
    if model not in _untrained:
        random = copy.deepcopy(model)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            for module in random.modules():
                reset = getattr(module, "reset_parameters", None)
                if callable(reset):
                    reset()
        _untrained[model] = random.eval().requires_grad_(False)
    return Classifier(classifier.name, _untrained[model], classifier.preprocess)
