"""A saliency that reads precomputed maps."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveate import __version__
from foveate.identity import refuse_subclass
from foveate.images import check_tensor, image_hash
from foveate.saliency._cache import ABOUT, MapCache
from foveate.saliency._protocol import Saliency

logger = logging.getLogger(__name__)


class MissingMapError(LookupError, ValueError):
    """A cache has no map of an image."""


class CachedSaliency(Saliency):
    """Maps from a cache made by ``foveate saliency`` or :func:`foveate.export.cache_maps`.

    It runs no model, so it suits DataLoader workers, even if the maps were computed on a GPU. It is pickled as a path.
    Images are recognized by their pixels, so use it before any crop, resize or color change. Floats in [0, 1] converted
    from uint8 count as the same image.

    Args:
        cache: the folder.
        identity: selects the saliency if the cache has maps of several: any part of the text in its ``saliency.json``,
            for example ``"ActivationMap"`` or a hash of weights.

    Raises:
        ValueError: if the cache does not exist, or the identity does not select exactly one saliency in it.

    Example:
        >>> import tempfile
        >>> from foveate.export import cache_maps
        >>> from foveate.saliency import GradCam
        >>> from foveate.demo import PREPROCESS, Scenes
        >>> from foveate.images import as_tensor
        >>> scenes, cam = Scenes(2), GradCam("foveate.demo:scene_net", preprocess=PREPROCESS)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = cache_maps(scenes, folder, cam)
        ...     maps = CachedSaliency(folder)(as_tensor(scenes[0][0])[None])
        >>> maps.shape, float(maps.max())
        (torch.Size([1, 1, 20, 20]), 1.0)
    """

    def __init__(self, cache: str | Path, identity: str = "") -> None:
        self.cache, self._wanted = Path(cache), identity
        self._open()

    def _open(self) -> None:
        parts, damaged = [], []
        for path in sorted(self.cache.glob(f"*/{ABOUT}")):
            try:
                parts.append(MapCache(path.parent))
            except ValueError as error:
                damaged.append(str(error))
        fit = [part for part in parts if self._wanted in part.about["identity"]]
        if len({part.about["identity"] for part in fit}) == 1:  # from several versions: take this one's, or the last
            fit = [next((part for part in fit if part.about["foveate"] == __version__), fit[-1])]
        if len(fit) != 1:
            names = "; ".join(part.about["identity"] for part in parts) or "none"
            wanted = f" whose identity has {self._wanted!r}" if self._wanted else ""
            cure = "choose one by identity=" if parts else "run 'foveate saliency' first"
            raise ValueError(
                "; ".join([f"cache: {self.cache} has {len(fit)} saliencies{wanted} ({names}); {cure}", *damaged])
            )
        for problem in damaged:
            logger.warning("%s; it is left out", problem)
        self._maps = fit[0]

    @property
    def identity(self) -> str:
        """The identity of the saliency that made the maps, marked as rounded."""
        refuse_subclass(self, CachedSaliency)
        return f"CachedSaliency({self._maps.about['identity']}, foveate {self._maps.about['foveate']})"

    @property
    def uses_labels(self) -> bool:
        """Whether the saliency that made the maps used labels."""
        return bool(self._maps.about["uses_labels"])

    def __call__(self, images: Tensor) -> Tensor:
        """Return the maps of a batch.

        Args:
            images: (B, 3, H, W), uint8 or float in [0, 1], on any device.

        Returns:
            (B, 1, h, w) float32 in [0, 1], in steps of 1/255, on the images' device.

        Raises:
            MissingMapError: if an image is not in the cache.
            TypeError, ValueError: if ``images`` is not a batch of images.
        """
        check_tensor(images)
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images: expected shape (B, 3, H, W), got {tuple(images.shape)}")
        if images.shape[0] == 0:
            return torch.empty(0, 1, 1, 1, dtype=torch.float32, device=images.device)
        return torch.stack([self._map_of(image) for image in images]).to(images.device).float() / 255

    def _map_of(self, image: Tensor) -> Tensor:
        saliency_map = self._maps.get(image_hash(image))
        if saliency_map is None:
            height, width = image.shape[-2:]
            raise MissingMapError(
                f"images: {self.cache} has no map of this {height}x{width} image; run 'foveate saliency' on it, and "
                "ask before any crop, resize or change of colors"
            )
        return saliency_map

    def __eq__(self, other: object) -> bool:
        """Whether both read the same saliency's maps from the same cache."""
        same = isinstance(other, CachedSaliency) and (self.cache, self._wanted) == (other.cache, other._wanted)
        return same if isinstance(other, CachedSaliency) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.cache, self._wanted))

    def __getstate__(self) -> dict[str, Any]:
        return {"cache": self.cache, "_wanted": self._wanted}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __repr__(self) -> str:
        chosen = f", {self._wanted!r}" if self._wanted else ""
        return f"CachedSaliency({str(self.cache)!r}{chosen})"
