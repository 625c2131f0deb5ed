"""The saliency of a whole dataset, in batches, into a cache."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from foveate._checks import check_count, check_number
from foveate.export import local
from foveate.export._plan import Part, Unit
from foveate.export._sources import Source, as_source
from foveate.export._worker import Batch, Entries, Note, Report, Task, groups, no_note
from foveate.images import check_formats, group_by_shape, image_hash, is_rotated, read
from foveate.saliency import MapCache, SaliencySpec, as_saliency

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
    saliency: SaliencySpec,
    *,
    batch: int = 16,
    workers: int = 0,
    device: str | None = None,
    formats: Sequence[str] = (),
    follow_links: bool = False,
    timeout: float = 60.0,
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
        timeout: seconds that reading a picture may take in a worker process; one that takes longer is unreadable.
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
    timeout = check_number("timeout", timeout, 0, above=True)
    check_formats(formats)
    found = as_source(source, follow_links)
    units = [Unit(name, name, stamp) for name, stamp in found.units()]
    return fill(found, units, cache, saliency, batch, workers, device, progress, tuple(formats), timeout)


def fill(
    source: Source,
    units: Sequence[Unit],
    cache: str | Path,
    saliency: SaliencySpec,
    batch: int,
    workers: int,
    device: str | None,
    progress: Callable[[int], object],
    formats: Sequence[str] = (),
    timeout: float = 60.0,
    memory: int | None = None,
) -> Cached:
    """Write the maps of some units of a source to a cache; see :func:`cache_maps`."""
    saliency = as_saliency(saliency)
    if device is not None:
        saliency.to(device)
    maps = MapCache.of(cache, as_saliency(saliency))
    new: dict[str, Tensor] = {}
    pictures = made = unreadable = 0
    size = 1 if source.whole else 64
    parts = (Part(number, tuple(some)) for number, some in enumerate(_batched(units, size)))
    reading = _Reading(source, timeout, local.memory_of_each(workers) if memory is None else memory, formats)
    for outcome in local.run(reading, parts, workers):
        if isinstance(outcome, Report):
            progress(outcome.units)
            continue
        read_, failed = [(key, torch.from_numpy(array)) for key, array in outcome.content[0]], outcome.content[1]
        pictures, unreadable = pictures + len(read_), unreadable + failed
        lacking = {key for key, _ in read_ if key not in new and maps.get(key) is None}
        if lacking:
            # The whole group, so that a map does not depend on what an earlier run had done.
            for places in group_by_shape([pixels for _, pixels in read_]):
                for some in _batched(places, batch):
                    made_now = saliency(torch.stack([read_[k][1] for k in some])).cpu()
                    new |= {read_[k][0]: one for k, one in zip(some, made_now, strict=True) if read_[k][0] in lacking}
            made += len(lacking)
        if len(new) >= _SHARD:
            maps.add(new)
            new = {}
    maps.add(new)
    return Cached(pictures, made, unreadable)


@dataclass(frozen=True)
class _Reading:
    """Pictures that are to be read and hashed."""

    source: Source
    timeout: float
    memory: int | None
    formats: Sequence[str]

    def worker(self, note: Note = no_note) -> "_Reader":
        return _Reader(self, note)


class _Reader:
    """Reads groups of pictures with their hashes, and counts those that cannot be read."""

    def __init__(self, reading: _Reading, note: Note) -> None:
        self._reading, self._note = reading, note

    def __call__(self, task: Task) -> Iterator[Report | Batch]:
        formats, together = self._reading.formats, {} if task.try_only is None else {"together": 1}
        entries = Entries(self._reading.source, task.part, "", self._note, task)
        for number, group in enumerate(groups(entries, formats, self._note, **together)):
            pictures: dict[str, Tensor] = {}
            for held in group:
                if held.pixels is not None:
                    pictures |= _hashed(held.pixels)
                    if held.data is not None and is_rotated(held.data, formats):
                        pictures |= _hashed(read(held.data, upright=False, formats=formats))
            if task.try_only is None:
                arrays = [(key, pixels.numpy()) for key, pixels in pictures.items()]
                yield Batch(number, (arrays, sum(held.entry.picture and held.pixels is None for held in group)))
        yield Report(task.part.number, len(task.part.units))


def _batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _hashed(pixels: Tensor) -> dict[str, Tensor]:
    rgb = pixels.expand(3, -1, -1).contiguous()
    return {image_hash(rgb): rgb}
