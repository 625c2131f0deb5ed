"""The saliency of a whole dataset, in batches, into a cache."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from foveate._checks import check_count
from foveate.export._plan import Unit
from foveate.export._sources import Folder, Shards, Source, as_source
from foveate.export._worker import groups
from foveate.images import check_formats, lies_on_its_side, picture_hash, read, same_size
from foveate.saliency import MapCache, Maps, as_saliency

T = TypeVar("T")

_SHARD = 4096


@dataclass(frozen=True)
class Cached:
    """What a pass came to: pictures with a map now, maps that were made for them, and files that were unreadable."""

    pictures: int
    made: int
    unreadable: int


def cache_maps(
    source: Any,
    cache: str | Path,
    saliency: Maps,
    *,
    batch: int = 16,
    workers: int = 0,
    device: str | None = None,
    formats: Sequence[str] = (),
    follow_links: bool = False,
    progress: Callable[[int], object] = lambda units: None,
) -> Cached:
    """Write the maps of all pictures of a source to a cache, for :class:`foveate.CachedSaliency`.

    Pictures that the cache has are not shown to the network again; of a run that was stopped at most the last 4096 are.
    A picture that EXIF says is to be turned gets a map as it is seen and one as it is stored, as loaders differ.

    Args:
        source: see :func:`compress_dataset`.
        cache: folder on a local disk; it may hold maps of other saliencies and other sources too.
        saliency: makes the maps.
        batch: pictures of one size that are shown to it at once.
        workers: processes that read and decode pictures.
        device: where to put its model, such as ``"cuda"``; None leaves it where it is.
        formats: see :func:`compress_dataset`.
        follow_links: see :func:`compress_dataset`.
        progress: called with each number of units (files, shards, or numbers of a Dataset) that are done.

    Returns:
        What the pass came to.

    Raises:
        TypeError, ValueError: if the source is of another kind, or an argument does not fit.
        IdentityError: if the saliency has no identity to find its maps again by.

    Example:
        >>> import tempfile
        >>> from foveate import GradCam
        >>> from foveate.demo import PREPROCESS, Scenes
        >>> cam = GradCam("foveate.demo:scene_net", preprocess=PREPROCESS)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache_maps(Scenes(3), folder, cam), cache_maps(Scenes(4), folder, cam)
        (Cached(pictures=3, made=3, unreadable=0), Cached(pictures=4, made=1, unreadable=0))
    """
    batch, workers = check_count("batch", batch), check_count("workers", workers, 0)
    found = as_source(source, follow_links)
    units = [Unit(name, name, stamp) for name, stamp in found.units()]
    return fill(found, units, cache, saliency, batch, workers, device, progress, check_formats(formats))


def fill(
    source: Source,
    units: Sequence[Unit],
    cache: str | Path,
    saliency: Maps,
    batch: int,
    workers: int,
    device: str | None,
    progress: Callable[[int], object],
    formats: Sequence[str] = (),
) -> Cached:
    """Write the maps of some units of a source to a cache; see :func:`cache_maps`."""
    saliency = as_saliency(saliency)
    if device is not None:
        saliency.to(device)
    maps = MapCache.of(cache, saliency)
    new: dict[str, Tensor] = {}
    pictures = made = unreadable = 0
    remote = isinstance(source, Folder | Shards) and source.store.local is None
    context = "spawn" if workers and remote else None  # their drivers live on threads, which a fork loses
    for read_, failed, count in DataLoader(
        _Groups(source, units, formats), batch_size=None, num_workers=workers, multiprocessing_context=context
    ):
        pictures, unreadable = pictures + len(read_), unreadable + failed
        lacking = {key for key, _ in read_ if key not in new and maps.get(key) is None}
        if lacking:
            # The whole group, so that a map does not depend on what an earlier run had done.
            for places in same_size([pixels for _, pixels in read_]):
                for some in _batched(places, batch):
                    made_now = saliency(torch.stack([read_[k][1] for k in some])).cpu()
                    new |= {read_[k][0]: one for k, one in zip(some, made_now, strict=True) if read_[k][0] in lacking}
            made += len(lacking)
        if len(new) >= _SHARD:
            maps.add(new)
            new = {}
        progress(count)
    maps.add(new)
    return Cached(pictures, made, unreadable)


class _Groups(IterableDataset):  # type: ignore[type-arg]
    """Reads groups of pictures with their hashes, each worker every n-th run of 64 units."""

    def __init__(self, source: Source, units: Sequence[Unit], formats: Sequence[str]) -> None:
        self.source, self.units, self.formats = source, units, formats

    def __iter__(self) -> Iterator[tuple[list[tuple[str, Tensor]], int, int]]:
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for some in list(_batched(self.units, 1 if self.source.whole else 64))[first::step]:
            for group in groups(self.source.entries(some, ""), self.formats):
                pictures: dict[str, Tensor] = {}
                for held in group:
                    if held.pixels is not None:
                        pictures |= _hashed(held.pixels)
                        if held.data is not None and lies_on_its_side(held.data, self.formats):
                            pictures |= _hashed(read(held.data, upright=False, formats=self.formats))
                yield list(pictures.items()), sum(held.entry.picture and held.pixels is None for held in group), 0
            yield [], 0, len(some)


def _batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _hashed(pixels: Tensor) -> dict[str, Tensor]:
    rgb = pixels.expand(3, -1, -1).contiguous()
    return {picture_hash(rgb): rgb}
