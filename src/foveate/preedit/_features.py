"""What a network's layers and its answer say of an image, and how far two images are apart to them."""

import weakref
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate.models import Call, Classifier, first_weight, logits_in, trace

_WHOLE = 15 / 16
_SHALLOWEST, _DEEPEST = 0.5, 1.5
"""The weights of the first and the last tap. What deep layers say is nearer to the answer, of any network."""
_FINEST = 4
"""Taps are this many times coarser than the network's input, if any are: finer features are edges, as in the pixels."""


class Features:
    """The features of a network at several depths, each position's channels scaled to length 1, and its answer.

    Args:
        classifier: the network with its preprocessing. It need not have a head.
        taps: dotted names of modules that give (B, C, h, w); None takes those of :func:`find_taps`.

    Raises:
        ValueError: if no module gives a spatial map, or there is no such module.
    """

    def __init__(self, classifier: Classifier, taps: Sequence[str] | None = None) -> None:
        self.classifier = classifier
        preprocess = classifier.preprocess
        self._normalize = preprocess.without_geometry()
        self.taps = tuple(taps or _taps_of(classifier))
        modules = dict(classifier.model.named_modules())
        missing = [name for name in self.taps if name not in modules]
        if missing:
            raise ValueError(f"taps: {classifier.name} has no module {missing[0]!r}")
        self._modules = [modules[name] for name in self.taps]

    def sides(self, images: Tensor) -> tuple[int, int]:
        """Return the side of the crop that the network sees of images, and what their short side is resized to.

        A network that takes whole images sees a little less, so that crops differ from step to step.
        """
        preprocess = self.classifier.preprocess
        short_side = preprocess.short_side or preprocess.crop or min(images.shape[-2:])
        return preprocess.crop or max(1, round(_WHOLE * short_side)), short_side

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        weight = first_weight(self.classifier.model)
        return torch.device("cpu") if weight is None else weight.device

    def compare(self, source: Tensor, others: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return how far images are from their sources, by features and by answers, each (B,).

        By features, it is their squared distance, averaged over the positions of a tap and summed over the taps, the
        deepest of which counts three times as much as the first. A position counts by its energy in the source, the
        squared length of its activations: where a layer is silent, the direction of its features means little.

        By answers, it is the Kullback–Leibler divergence of the classes' probabilities, in nats; None if the network
        gives no logits (B, classes).

        Args:
            source: (B, 3, H, W), float in [0, 1].
            others: like ``source``; gradients flow back to them.
        """
        features, answer = self(others)
        clean = self.activations(source, answers=answer is not None)
        distances = []
        for activation, feature in zip(clean, features, strict=False):  # an answer may follow
            energy = activation.square().sum(1)
            energy = energy / energy.mean((1, 2), keepdim=True).clamp_min(torch.finfo(energy.dtype).tiny)
            distances.append((energy * (F.normalize(activation, dim=1) - feature).square().sum(1)).mean((1, 2)))
        weights = torch.linspace(_SHALLOWEST, _DEEPEST, len(distances)) if len(distances) > 1 else torch.ones(1)
        distance = weights.to(distances[0].device) @ torch.stack(distances)
        if answer is None:
            return distance, None
        divergence = F.kl_div(answer.log_softmax(1), clean[-1].log_softmax(1), reduction="none", log_target=True).sum(1)
        return distance, divergence

    def activations(self, images: Tensor, answers: bool = False) -> list[Tensor]:
        """Return what each tap gives, (B, C, h, w), and behind it the answer if asked; without gradients, by Captum."""
        from captum.attr import LayerActivation

        model = self.classifier.model
        layers = LayerActivation(model, [*self._modules, *([model] if answers else [])])
        return [activation.float() for activation in layers.attribute(self._input(images))]

    def __call__(self, images: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Return the features (B, C, h, w) at every tap in order, and the logits (B, classes), None if there are none.

        Args:
            images: (B, 3, H, W), float in [0, 1].
        """
        outputs: dict[nn.Module, Tensor] = {}

        def watch(module: nn.Module, _args: Any, output: Any) -> None:
            outputs[module] = output.clone()  # the next module may work in place

        handles = [module.register_forward_hook(watch) for module in self._modules]
        try:
            answer = logits_in(self.classifier.model(self._input(images)))
        finally:
            for handle in handles:
                handle.remove()
        features = [F.normalize(outputs[module].float(), dim=1) for module in self._modules]
        is_logits = isinstance(answer, Tensor) and answer.ndim == 2 and answer.shape[1] > 1
        return features, answer.float() if is_logits else None

    def _input(self, images: Tensor) -> Tensor:
        x = self._normalize(images)
        weight = first_weight(self.classifier.model)
        return x if weight is None else x.to(weight.device, weight.dtype, memory_format=torch.channels_last)


def find_taps(classifier: Classifier) -> tuple[str, ...]:
    """Return the names of a network's taps, by tracing a forward pass.

    Example:
        >>> from foveate.models import load_classifier
        >>> find_taps(load_classifier("torchvision.models:resnet18"))
        ('layer1', 'layer2.1', 'layer3.1', 'layer4.1')
    """
    side = _input_side(classifier)
    weight = first_weight(classifier.model)
    x = torch.zeros(1, 3, side, side) if weight is None else weight.new_zeros(1, 3, side, side)
    *calls, last = trace(classifier.model, x)
    times = Counter(c.name for c in calls)  # what is used several times, as a shared ReLU, has several outputs
    spatial = [
        c for c in calls if c.spatial and times[c.name] == 1 and (len(last.shape) != 2 or c.shape[1] != last.shape[1])
    ]
    spatial = [c for c in spatial if c.shape[2] * c.shape[3] <= (side // _FINEST) ** 2] or spatial
    if not spatial:
        raise ValueError(
            f"taps: no module of {classifier.name} gives a spatial map (B, C, h, w) that is not its answer; name some"
        )
    by_resolution: dict[tuple[int, ...], list[Call]] = {}
    for call in spatial:
        by_resolution.setdefault(call.shape[2:], []).append(call)
    return tuple(dict.fromkeys(name for group in by_resolution.values() for name in _of_resolution(group)))


def _of_resolution(calls: list[Call]) -> list[str]:
    """Return the last call, and the middle one if there are more than three, of the outermost that are not alone."""
    depths = [call.name.count(".") for call in calls]
    levels = [[c.name for c, at in zip(calls, depths, strict=True) if at == depth] for depth in sorted(set(depths))]
    level = next((names for names in levels if len(names) > 1), levels[0])
    return [level[len(level) // 2], level[-1]] if len(level) > 3 else [level[-1]]


_known: "weakref.WeakKeyDictionary[nn.Module, dict[int, tuple[str, ...]]]" = weakref.WeakKeyDictionary()


def _taps_of(classifier: Classifier) -> tuple[str, ...]:
    """Return what :func:`find_taps` does, traced once a model and input size."""
    taps = _known.setdefault(classifier.model, {})
    side = _input_side(classifier)
    if side not in taps:
        taps[side] = find_taps(classifier)
    return taps[side]


def _input_side(classifier: Classifier) -> int:
    """Return the side of a network's input, in pixels."""
    return classifier.preprocess.crop or classifier.preprocess.short_side or 224
