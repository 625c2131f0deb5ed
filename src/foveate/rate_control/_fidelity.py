"""Witnesses without classes: how far a decoded image is from its source."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveate.identity import identity, refuse_subclass
from foveate.images import group_by_shape
from foveate.models import (
    LazyModel,
    ModelSource,
    Preprocess,
    first_weight,
    refuse_cuda_in_worker,
    short_name,
    undisturbed,
)

_BATCH = 16


class Fidelity(ABC):
    """A witness that has no classes: it tells how far a decoded image is from its source.

    ``keep="robust"`` learns from it, beside classifiers, what a classifier that nobody asked does; criteria that ask
    for an answer cannot. A subclass has a name, an identity and a distance.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The name used in calibrations and reports."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """All that its distances depend on, as one line of text; see :func:`foveate.identity.identity`."""

    @abstractmethod
    def distance(self, sources: Sequence[Tensor], decoded: Sequence[Tensor]) -> Tensor:
        """Return (N,) distances, 0 or more, of N decoded images (3, H, W) from their sources, on the CPU.

        Args:
            sources: uint8 or float in [0, 1], of any sizes.
            decoded: the same number, of any sizes.
        """

    def to(self, device: str | torch.device) -> Self:
        """Move its network, if it has one, to a device and return this witness."""
        return self


@dataclass(frozen=True, eq=False)
class _Views(Fidelity):
    """Compares images as classifiers see them: resized and cropped.

    Attributes:
        resize: the shorter side after resizing, or height and width; None does not resize.
        crop: the side of the square cut from the center; None keeps the whole image.
    """

    resize: int | tuple[int, int] | None = 256
    crop: int | None = 224

    def __post_init__(self) -> None:
        self._preprocess  # noqa: B018  (raises if it is not one)

    @property
    def _preprocess(self) -> Preprocess:
        return Preprocess(self.resize, self.crop, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def distance(self, sources: Sequence[Tensor], decoded: Sequence[Tensor]) -> Tensor:
        """Return (N,) distances of N decoded images (3, H, W) from their sources; see :class:`Fidelity`.

        Raises:
            ValueError: if there is not one source per image, or a source and its image differ in size as they are seen.
        """
        if len(sources) != len(decoded):
            raise ValueError(f"sources: expected one per image, {len(decoded)}, got {len(sources)}")
        pairs = [tuple(self._preprocess(x[None]).float() for x in pair) for pair in zip(sources, decoded, strict=True)]
        for source, image in pairs:
            if source.shape != image.shape:
                sizes = " beside a source of ".join(str(tuple(x.shape[-2:])) for x in (image, source))
                raise ValueError(f"decoded: {sizes}; give the witness a crop")
        distances = torch.zeros(len(decoded))
        for rows in group_by_shape([image for _, image in pairs]):
            for part in torch.tensor(rows).split(_BATCH):
                source, image = (torch.cat([pairs[row][side] for row in part.tolist()]) for side in (0, 1))
                distances[part] = self._compare(source, image).float().cpu().clamp(min=0)
        return distances

    @abstractmethod
    def _compare(self, source: Tensor, image: Tensor) -> Tensor:
        """Return (B,) distances of two batches (B, 3, h, w) in [0, 1]."""


@dataclass(frozen=True)
class MsSsim(_Views):
    """1 - MS-SSIM (Wang, Simoncelli and Bovik 2003, by torchmetrics), as a witness.

    Args:
        resize: the shorter side after resizing; None does not resize.
        crop: the side of the square cut from the center, at least 161 pixels; None keeps the whole image, whose sides
            must be as long.

    Raises:
        ValueError: if the crop is smaller.

    Example:
        >>> image = torch.rand(3, 200, 200)
        >>> MsSsim().distance([image], [image])
        tensor([0.])
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crop is not None and self.crop < 161:  # five scales of a window of 11 pixels
            raise ValueError(f"crop: MS-SSIM takes sides of at least 161 pixels, got {self.crop}")

    @property
    def name(self) -> str:
        """Its short string."""
        return "ms-ssim"

    @property
    def identity(self) -> str:
        """The size at which images are compared."""
        refuse_subclass(self, MsSsim)
        return f"ms-ssim({self.resize}, {self.crop})"

    def _compare(self, source: Tensor, image: Tensor) -> Tensor:
        from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim

        return 1 - ms_ssim(image, source, reduction="none", data_range=1.0)


@dataclass(frozen=True, eq=False)  # the recipe need not be hashable
class _Network(_Views):
    """Compares images by what a network makes of them."""

    model: ModelSource = "squeezenet1_1"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._source  # noqa: B018  (raises if it is not a model)

    @cached_property
    def _source(self) -> LazyModel:
        return LazyModel(self.model)

    @cached_property
    def _module(self) -> nn.Module:
        """The module that runs."""
        return self._source.get()

    def to(self, device: str | torch.device) -> Self:
        """Move the network to a device and return this witness; a recipe is built now."""
        self._module.to(device)
        return self

    def _on_device(self, *batches: Tensor) -> list[Tensor]:
        weight = first_weight(self._module)
        if weight is None:
            return [*batches]
        refuse_cuda_in_worker(weight.device, f"witness {self.name}")
        return [batch.to(weight.device, weight.dtype, memory_format=torch.channels_last) for batch in batches]

    def __getstate__(self) -> dict[str, Any]:
        self._source.__getstate__()  # raises for a module, and says what to do
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True, eq=False)
class Lpips(_Network):
    """LPIPS (Zhang et al. 2018) on a SqueezeNet 1.1, as a witness: with the linear weights that torchmetrics ships.

    Args:
        resize: the shorter side after resizing; None does not resize.
        crop: the side of the square cut from the center; None keeps the whole image.
        model: a SqueezeNet 1.1 with torchvision's ``features``; a recipe (see :class:`foveate.models.LazyModel`) or a
            module. The default takes torchvision's weights, which are downloaded once.

    Raises:
        ValueError: on first use, if the model is not a SqueezeNet 1.1.

    Example:
        >>> witness = Lpips(model="torchvision.models:squeezenet1_1")
        >>> image = torch.rand(3, 64, 64)
        >>> witness.name, witness.distance([image], [image])
        ('lpips', tensor([0.]))
    """

    @property
    def name(self) -> str:
        """Its short string."""
        return "lpips"

    @property
    def identity(self) -> str:
        """The network's weights, and the size at which images are compared."""
        refuse_subclass(self, Lpips)
        return f"lpips({self.resize}, {self.crop}, {identity(self._source.get(), 'model')})"

    @cached_property
    def _module(self) -> nn.Module:
        from torchmetrics.functional.image.lpips import _LPIPS  # its public class only downloads

        trunk = self._source.get()
        weight = first_weight(trunk)
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            metric = _LPIPS(net="squeeze", pnet_rand=True)
        features = getattr(trunk, "features", None)
        try:
            for part in metric.net.slices.children():  # type: ignore[union-attr]
                for name, module in part.named_children():
                    module.load_state_dict(features[int(name)].state_dict())  # type: ignore[index]
        except (AttributeError, IndexError, KeyError, TypeError, RuntimeError) as error:
            raise ValueError(
                f"model: LPIPS stands on the features of a SqueezeNet 1.1, got {type(trunk).__name__}"
            ) from error
        metric = metric.eval().requires_grad_(False)
        return metric if weight is None else metric.to(weight.device)

    def _compare(self, source: Tensor, image: Tensor) -> Tensor:
        source, image = self._on_device(source, image)
        with torch.inference_mode(), torch.autocast(source.device.type, enabled=False):
            distances: Tensor = self._module(image, source, normalize=True)
        return distances.flatten().clone()


@dataclass(frozen=True, eq=False)
class Embedding(_Network):
    """1 - the cosine between what a network makes of the source and of the decoded image, as a witness.

    For networks without classes: self-supervised ones, encoders, or a function of your own in an ``nn.Module``.

    Args:
        resize: the shorter side after resizing; None does not resize.
        crop: the side of the square cut from the center; None keeps the whole image.
        model: from images (B, 3, h, w) to embeddings (B, D), or features (B, D, h, w), which are averaged; a recipe
            (see :class:`foveate.models.LazyModel`) or a module.
        mean: one number a channel, in units of [0, 1] images, with which the network's input is normalized.
        std: one number a channel, positive.

    Raises:
        ValueError: on use, if the model does not return embeddings.

    Example:
        >>> witness = Embedding(model=nn.Conv2d(3, 8, 3))
        >>> image = torch.rand(3, 64, 64)
        >>> witness.name, bool(witness.distance([image], [1 - image]) > 0)
        ('Conv2d', True)
    """

    mean: tuple[float, ...] = Preprocess().mean
    std: tuple[float, ...] = Preprocess().std

    @property
    def _preprocess(self) -> Preprocess:
        return Preprocess(self.resize, self.crop, self.mean, self.std)

    @property
    def name(self) -> str:
        """The name of the model."""
        return short_name(self.model)

    @property
    def identity(self) -> str:
        """The network's weights and code, and its preprocessing."""
        refuse_subclass(self, Embedding)
        return f"embedding({identity(self._source.get(), 'model')}, {identity(self._preprocess)})"

    def _compare(self, source: Tensor, image: Tensor) -> Tensor:
        source, image = self._on_device(source, image)
        with undisturbed(self._module), torch.inference_mode(), torch.autocast(source.device.type, enabled=False):
            similarity = F.cosine_similarity(self._embeddings(source), self._embeddings(image))
        return 1 - similarity.clone()

    def _embeddings(self, batch: Tensor) -> Tensor:
        output = self._module(batch)
        if not isinstance(output, Tensor) or output.ndim not in (2, 4):
            got = f"a tensor {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"model: {self.name} is to return embeddings (B, D) or features (B, D, h, w), got {got}; wrap it so "
                "that it does"
            )
        return output.float().flatten(2).mean(2) if output.ndim == 4 else output.float()
