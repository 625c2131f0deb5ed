"""What a network's layers say of an image, and how far two images are apart to them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate.models import Call, Classifier, first_weight, trace

_WHOLE = 15 / 16
_FINEST = 4
"""Taps are this many times coarser than the network's input, if any are: finer features are edges, as in the pixels."""


class Features:
    """The features of a network at several depths, each position's channels scaled to length 1.

    Args:
        classifier: the network with its preprocessing. It need not have a head.
        taps: dotted names of modules that give (B, C, h, w); None finds them by tracing: the last module at each
            resolution, and the middle one where a resolution has many.

    Raises:
        ValueError: if no module gives a spatial map, or there is no such module.
    """

    def __init__(self, classifier: Classifier, taps: Sequence[str] | None = None) -> None:
        self.classifier = classifier
        preprocess = classifier.preprocess
        self._normalize = replace(preprocess, resize=None, crop=None)
        self.taps = tuple(taps or find_taps(classifier))
        modules = dict(classifier.model.named_modules())
        missing = [name for name in self.taps if name not in modules]
        if missing:
            raise ValueError(f"taps: {classifier.name} has no module {missing[0]!r}")

    def sides(self, images: Tensor) -> tuple[int, int]:
        """Return the side of the crop that the network sees of images, and what their short side is resized to.

        A network that takes whole images sees a little less, so that crops differ from step to step.
        """
        preprocess = self.classifier.preprocess
        short_side = preprocess.resize or preprocess.crop or min(images.shape[-2:])
        return preprocess.crop or max(1, round(_WHOLE * short_side)), short_side

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        weight = first_weight(self.classifier.model)
        return torch.device("cpu") if weight is None else weight.device

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return the features (B, C, h, w) of images (B, 3, H, W), float in [0, 1], at every tap in order."""
        model = self.classifier.model
        weight = first_weight(model)
        x = self._normalize(images)
        if weight is not None:
            x = x.to(weight.device, weight.dtype, memory_format=torch.channels_last)
        outputs: dict[str, Tensor] = {}

        def watch(name: str) -> Any:
            def hook(_module: nn.Module, _args: Any, output: Any) -> None:
                outputs[name] = output
                if len(outputs) == len(self.taps):
                    raise _AllSeen

            return hook

        modules = dict(model.named_modules())
        handles = [modules[name].register_forward_hook(watch(name)) for name in self.taps]
        try:
            model(x)
        except _AllSeen:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return [F.normalize(outputs[name].float(), dim=1) for name in self.taps]


class _AllSeen(Exception):  # noqa: N818
    """Ends a forward pass behind the last tap."""


def find_taps(classifier: Classifier) -> tuple[str, ...]:
    """Return the names of a network's taps, by tracing a forward pass.

    Example:
        >>> from foveate.models import load_classifier
        >>> find_taps(load_classifier("torchvision.models:resnet18"))
        ('layer1', 'layer2.1', 'layer3.1', 'layer4.1')
    """
    preprocess = classifier.preprocess
    side = preprocess.crop or preprocess.resize or 224
    weight = first_weight(classifier.model)
    x = torch.zeros(1, 3, side, side) if weight is None else weight.new_zeros(1, 3, side, side)
    *calls, last = trace(classifier.model, x)
    spatial = [c for c in calls if c.spatial and (len(last.shape) != 2 or c.shape[1] != last.shape[1])]
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


def distance(features: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """Return the squared distance (B,) of features (B, C, h, w): the mean over positions, summed over taps."""
    errors = [(a - b).square().sum(1).mean((1, 2)) for a, b in zip(features, others, strict=True)]
    return torch.stack(errors).sum(0)
