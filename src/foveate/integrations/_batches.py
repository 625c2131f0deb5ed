"""What the hosts for training need to know of a batch: its pictures in [0, 1], and how they were normalised."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foveate._checks import check_number


@dataclass(frozen=True)
class Normalisation:
    """What was done to pictures in [0, 1]: ``(x - mean) / std``, a number a channel, or one for all.

    Example:
        >>> undone = Normalisation((0.5,), (0.25,)).undo(torch.tensor([[[[-2.0, 0.0, 2.0]]]]))
        >>> undone.flatten().tolist()
        [0.0, 0.5, 1.0]
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise ValueError(f"mean, std: expected one or three numbers each, got {self.mean} and {self.std}")
        for value in self.mean:
            check_number("mean", value, -10)
        for value in self.std:
            check_number("std", value, 0, above=True)

    def __call__(self, pictures: Tensor) -> Tensor:
        """Normalise (B, C, H, W) floats in [0, 1]."""
        mean, std = self._like(pictures)
        return (pictures - mean) / std

    def undo(self, images: Tensor) -> Tensor:
        """Return normalised images (B, C, H, W) as float32 pictures in [0, 1].

        Raises:
            ValueError: if they leave [0, 1] by more than rounding in half precision does: then this is not how they
                were normalised.
        """
        if images.dtype == torch.uint8:
            return images.float() / 255
        x = images.detach().float()
        mean, std = self._like(x)
        pictures = x * std + mean
        if pictures.numel():
            low, high = (float(v) for v in torch.aminmax(pictures))
            if not (low > -0.02 and high < 1.02):
                raise ValueError(
                    f"mean, std: with {self.mean} and {self.std} undone the batch holds {low:.3g} to {high:.3g}, not "
                    "pictures in [0, 1]; give the mean and std that it was normalised with"
                )
        return pictures.clamp_(0, 1)

    def _like(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(v, dtype=x.dtype, device=x.device).view(-1, 1, 1) for v in (self.mean, self.std))
        return mean, std


def given(mean: Sequence[float] | float | None, std: Sequence[float] | float | None) -> Normalisation | None:
    """Return the normalisation that a user gave, or None.

    Raises:
        ValueError: if one of the two is missing, or they do not fit.
    """
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise ValueError(f"mean, std: expected both or neither, got {mean!r} and {std!r}")
    m, s = ((v,) if isinstance(v, int | float) else tuple(v) for v in (mean, std))
    return Normalisation(m, s)


def found(data: Any) -> Normalisation | None:
    """Return how the pictures of a loader or data set are normalised, read from its transforms.

    Known are the ``Normalize`` of torchvision, Kornia and Albumentations, in whatever composes them, under the usual
    names (``transform``, ``transforms``, ``dataset``, ``datasets``).

    Raises:
        ValueError: if there are several, which differ.

    Example:
        >>> from torchvision.transforms import v2
        >>> found(v2.Compose([v2.CenterCrop(8), v2.Normalize([0.5], [0.25])]))
        Normalisation(mean=(0.5,), std=(0.25,))
    """
    kinds = {n for n in map(_read, _walk(data, set())) if n is not None}
    if len(kinds) > 1:
        raise ValueError(f"mean, std: the transforms normalise in several ways ({kinds}); say which by mean= and std=")
    return next(iter(kinds), None)


def _walk(part: Any, seen: set[int]) -> Iterator[Any]:
    if part is None or isinstance(part, str | bytes | int | float | Tensor) or id(part) in seen:
        return
    seen.add(id(part))
    yield part
    names = ("dataset", "datasets", "transform", "transforms")
    inner = [getattr(part, name, None) for name in names]
    if isinstance(part, Mapping):
        inner += part.values()
    elif isinstance(part, list | tuple | torch.nn.Sequential):
        inner += list(part) if len(part) < 100 else []  # a chain of transforms, not a list of samples
    for one in inner:
        yield from _walk(one, seen)


def _read(transform: Any) -> Normalisation | None:
    if type(transform).__name__ != "Normalize":
        return None
    flags = getattr(transform, "flags", None)
    source = flags if isinstance(flags, Mapping) else vars(transform)
    mean, std = (source[k] if k in source else getattr(transform, k, None) for k in ("mean", "std"))
    if mean is None or std is None:
        return None
    m, s = (tuple(torch.as_tensor(v, dtype=torch.float64).flatten().tolist()) for v in (mean, std))
    return Normalisation(m, s)
