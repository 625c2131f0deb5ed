"""Encoding images at many operating points: maps are made once, and images filtered once per pre-filter."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from foveate.filters import resize
from foveate.images import group_by_shape, to_dtype, to_float
from foveate.prefilter import PrefilterBase
from foveate.saliency import Saliency, check_maps, saliency_maps

__all__ = ["Sweep", "downscaled"]


class Sweep:
    """Images to encode with several :class:`foveate.Compressor`, with their maps and filtered versions cached.

    Args:
        images: a batch (B, C, H, W), which is filtered at once; or tensors (C, H, W) of any sizes. C is 3 or 1; uint8
            or float in [0, 1], on any device.
        maps: saliency maps (1, h, w) in [0, 1], one per image, used for every saliency; or a function from a saliency
            to such maps. None calls the saliencies.
        batched: call a saliency on all images of one size at once instead of image by image.

    Raises:
        ValueError: if there is not one map per image, or a map is not in [0, 1].

    Example:
        >>> import foveate
        >>> sweep = Sweep(torch.rand(2, 3, 32, 48))
        >>> prefilter = foveate.Prefilter(lambda images: images.mean(1, keepdim=True), 0.5)
        >>> [len(foveate.Compressor(f"jpeg:{q}", prefilter).encode(sweep)) for q in (20, 40)]  # filtered once
        [2, 2]
    """

    def __init__(
        self,
        images: Tensor | Sequence[Tensor],
        maps: Tensor | Sequence[Tensor] | Callable[[Saliency], Sequence[Tensor]] | None = None,
        *,
        batched: bool = False,
    ) -> None:
        self._batch = images if isinstance(images, Tensor) else None
        self.images: list[Tensor] = list(images)
        self._batched = batched
        self._supplied: list[Tensor] | Callable[[Saliency], Sequence[Tensor]] | None
        self._supplied = maps if maps is None or callable(maps) else self._checked(maps)
        self._maps: dict[Saliency | None, list[Tensor]] = {}
        self._filtered: dict[tuple[PrefilterBase, int, float], Tensor] = {}

    def __len__(self) -> int:
        return len(self.images)

    @property
    def has_maps(self) -> bool:
        """Whether the maps were given, so that no saliency is called."""
        return self._supplied is not None

    @property
    def has_own_maps(self) -> bool:
        """Whether one map per image was given, which every pre-filter then gets."""
        return isinstance(self._supplied, list)

    def maps(self, saliency: Saliency | None) -> list[Tensor]:
        """Return the maps (1, h, w) of all images.

        Args:
            saliency: called if the maps were not given.

        Raises:
            ValueError: if there is neither a saliency nor maps, or a function did not return one map per image.
        """
        if isinstance(self._supplied, list):
            return self._supplied
        if saliency is None:
            raise ValueError("maps: there is no saliency to make them; give a saliency, or give maps to the call")
        if saliency not in self._maps:
            self._maps[saliency] = (
                self._ask(saliency) if self._supplied is None else self._checked(self._supplied(saliency))
            )
        return self._maps[saliency]

    def filtered(self, prefilter: PrefilterBase | None, index: int, scale: float = 1.0) -> Tensor:
        """Return an image (C, H, W) after a pre-filter; the image itself if that is None or its strength is 0.

        Args:
            prefilter: the pre-filter.
            index: of the image.
            scale: of the image that a pre-filter gets that works :attr:`PrefilterBase.after_scaling`.
        """
        if prefilter is None or prefilter.strength == 0:
            return self.images[index]
        scale = scale if prefilter.after_scaling else 1.0
        key = prefilter, index, scale
        if key not in self._filtered:
            maps = self.maps(prefilter.saliency) if prefilter.needs_maps or self.has_own_maps else None
            if self._batch is not None:
                batch = prefilter(downscaled(self._batch, scale), None if maps is None else _stacked(maps))
                self._filtered |= {(prefilter, k, scale): image for k, image in enumerate(batch)}
            else:
                own_map = None if maps is None else maps[index][None]
                self._filtered[key] = prefilter(downscaled(self.images[index][None], scale), own_map)[0]
        return self._filtered[key]

    def _checked(self, maps: Tensor | Sequence[Tensor]) -> list[Tensor]:
        if len(maps) != len(self.images):
            raise ValueError(f"maps: expected one per image, {len(self.images)}, got {len(maps)}")
        for saliency_map in maps:
            check_maps(saliency_map[None], 1)
        return list(maps)

    def _ask(self, saliency: Saliency) -> list[Tensor]:
        if self._batch is not None:
            return list(saliency_maps(saliency, self._batch))
        maps: dict[int, Tensor] = {}
        groups = group_by_shape(self.images) if self._batched else [[k] for k in range(len(self.images))]
        for group in groups:
            batch = saliency_maps(saliency, _stacked([self.images[k] for k in group]))
            maps |= dict(zip(group, batch, strict=True))
        return [maps[k] for k in range(len(self.images))]


def downscaled(images: Tensor, scale: float) -> Tensor:
    """Return images (B, C, H, W) at a scale in (0, 1], in their dtype.

    Example:
        >>> downscaled(torch.zeros(1, 3, 30, 41), 0.5).shape
        torch.Size([1, 3, 15, 20])
    """
    if scale == 1:
        return images
    height, width = images.shape[-2:]
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return to_dtype(resize(to_float(images), size), images.dtype)


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    with torch.autocast("cpu", enabled=False):  # autocast refuses to stack float16
        return torch.stack(list(tensors))
