"""The saliency of a whole dataset, in batches, into a cache."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from foveate._checks import check_count, check_number
from foveate._progress import Listener, Progress
from foveate.codecs import reader_of
from foveate.export import _local
from foveate.export._plan import Part, Unit
from foveate.export._reading import GROUP, Entries, groups
from foveate.export._source import Source
from foveate.export._sources import as_source
from foveate.export._work import Batch, Note, Report, Task, no_note
from foveate.images import check_formats, group_by_shape, image_hash, is_rotated, read
from foveate.saliency import MapCache, SaliencySpec, as_saliency

T = TypeVar("T")

_SHARD = 4096
"""SaliencySpec that are written to the cache at once."""


@dataclass(frozen=True)
class Cached:
    """The result of a pass over a source.

    Attributes:
        images: how many have a map now.
        computed: how many maps were computed for that.
        unreadable: how many files could not be read.
    """

    images: int
    computed: int
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
    progress: Listener | None = None,
) -> Cached:
    """Write the maps of all images of a source to a cache, for :class:`foveate.CachedSaliency`.

    Images that the cache has are not shown to the network again; of a run that was stopped at most the last 4096 are.
    An image that EXIF turns gets a map as it is seen and one as it is stored, as loaders differ.

    Args:
        source: see :func:`compress_dataset`.
        cache: folder on a local disk; it may hold maps of other saliencies and other sources too.
        saliency: makes the maps.
        batch: images of one size that are shown to it at once.
        workers: processes that read and decode images.
        device: where to put its model, such as ``"cuda"``; None leaves it where it is.
        formats: see :func:`compress_dataset`.
        follow_links: see :func:`compress_dataset`.
        timeout: seconds that reading an image may take in a worker process; one that takes longer is unreadable.
        progress: called with a :class:`foveate.Progress` of the stage ``"saliency"``, whose steps are units: files,
            shards, or items of a Dataset.

    Returns:
        The result of the pass.

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
        (Cached(images=3, computed=3, unreadable=0), Cached(images=4, computed=1, unreadable=0))
    """
    batch, workers = check_count("batch", batch), check_count("workers", workers, 0)
    timeout = check_number("timeout", timeout, 0, above=True)
    check_formats(formats)
    images = as_source(source, follow_links)
    reading = Reading(images, timeout, _local.memory_share(workers), tuple(formats))
    units = [Unit(name, name, stamp) for name, stamp in images.units()]
    return fill(reading, units, cache, saliency, batch=batch, workers=workers, device=device, progress=progress)


@dataclass(frozen=True)
class Reading:
    """Images to read and hash.

    Attributes:
        source: where they come from.
        timeout: see :class:`foveate.export._work.Work`.
        memory: see :class:`foveate.export._work.Work`.
        formats: names of Pillow's formats that are opened besides the usual ones.
    """

    source: Source
    timeout: float
    memory: int | None
    formats: Sequence[str]

    def worker(self, note: Note = no_note) -> "_Reader":
        return _Reader(self, note)


def fill(
    reading: Reading,
    units: Sequence[Unit],
    cache: str | Path,
    saliency: SaliencySpec,
    *,
    batch: int,
    workers: int,
    device: str | None,
    progress: Listener | None,
) -> Cached:
    """Write the maps of some units of a source to a cache; see :func:`cache_maps`."""
    saliency = as_saliency(saliency)
    if device is not None:
        saliency.to(device)
    maps = MapCache.of(cache, saliency)
    new: dict[str, Tensor] = {}
    images = computed = unreadable = done = 0
    parts = (Part(k, tuple(chunk)) for k, chunk in enumerate(_chunks(units, 1 if reading.source.whole else GROUP)))
    with closing(_local.run(reading, parts, workers)) as outcomes:
        for outcome in outcomes:
            if isinstance(outcome, Report):
                done += outcome.units
                if progress is not None:
                    progress(
                        Progress("saliency", done, len(units), unit=reading.source.unit, images=images + unreadable)
                    )
                continue
            assert isinstance(outcome, Batch)  # reading yields no steps
            group = [(key, torch.from_numpy(array)) for key, array in outcome.content[0]]
            images, unreadable = images + len(group), unreadable + outcome.content[1]
            missing = {key for key, _ in group if key not in new and maps.get(key) is None}
            if missing:
                new |= {key: map_ for key, map_ in _maps_of(group, saliency, batch) if key in missing}
                computed += len(missing)
            if len(new) >= _SHARD:
                maps.add(new)
                new = {}
    maps.add(new)
    return Cached(images, computed, unreadable)


def _maps_of(group: Sequence[tuple[str, Tensor]], saliency: Any, batch: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the maps of a group of images: of all of it, so that none depends on what an earlier run had done."""
    for places in group_by_shape([pixels for _, pixels in group]):
        for chunk in _chunks(places, batch):
            maps = saliency(torch.stack([group[k][1] for k in chunk])).cpu()
            yield from zip((group[k][0] for k in chunk), maps, strict=True)


class _Reader:
    """Reads groups of images with their hashes, and counts those that cannot be read."""

    def __init__(self, reading: Reading, note: Note) -> None:
        self._reading, self._note = reading, note

    def __call__(self, task: Task) -> Iterator[Report | Batch]:
        formats = self._reading.formats
        entries = Entries(self._reading.source, task, "", self._note)
        size = GROUP if task.try_only is None else 1
        for number, group in enumerate(groups(entries, formats, self._note, size)):
            images: dict[str, Tensor] = {}
            for loaded in group:
                if loaded.pixels is not None:
                    images |= _hashed(loaded.pixels)
                    if loaded.data is None or reader_of(loaded.entry.suffix):
                        continue
                    if is_rotated(loaded.data, formats):
                        images |= _hashed(read(loaded.data, upright=False, formats=formats))
            if task.try_only is None:
                arrays = [(key, pixels.numpy()) for key, pixels in images.items()]
                unreadable = sum(loaded.entry.is_image and loaded.pixels is None for loaded in group)
                yield Batch(number, (arrays, unreadable))
        yield Report(task.part.number, len(task.part.units))


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _hashed(pixels: Tensor) -> dict[str, Tensor]:
    rgb = pixels.expand(3, -1, -1).contiguous()
    return {image_hash(rgb): rgb}
