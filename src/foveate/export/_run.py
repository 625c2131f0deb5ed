"""Export: a dataset compressed into another, part by part, with nothing lost on the way."""

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from foveate._checks import check_count, check_number
from foveate._lock import locked
from foveate.compressor import Compressor
from foveate.export import local, ray
from foveate.export._manifest import Summary, finish
from foveate.export._maps import fill
from foveate.export._plan import Head
from foveate.export._planning import planned
from foveate.export._sources import Folder, Shards, as_source
from foveate.export._store import LOCK, STATE, Store
from foveate.export._worker import Job, Others, Report
from foveate.images import check_formats
from foveate.rate_control import RateControl
from foveate.saliency import CachedSaliency, MapCache

Engine = Literal["local", "ray"]


def compress_dataset(
    source: Any,
    target: str | Path,
    compressor: Compressor,
    *,
    shards: bool = False,
    others: Others = "copy",
    only_if_smaller: bool = False,
    part: int | None = None,
    cache: str | Path | None = None,
    workers: int | None = None,
    device: str | None = None,
    engine: Engine = "local",
    gpus: float = 0.0,
    timeout: float = 60.0,
    memory: int | None = None,
    formats: Sequence[str] = (),
    follow_links: bool = False,
    moved: bool = False,
    progress: Callable[[Report, int], object] = lambda report, total: None,
    maps_progress: Callable[[int], object] = lambda units: None,
) -> Summary:
    """Compress a whole dataset into files that any tool reads.

    The source is never written to. Every file of the target appears whole or not at all, and what was reported done is
    on the disk; a run that is stopped, however hard, goes on with the same call where it was, and ends with the same
    bytes. Once finished, a further call does what came to the source or changed in it since, and again what is not in
    the target as it was written. Of files a change is seen by size and time (behind a URL by what the driver tells of
    them), of the rows of a Hugging Face dataset by their content, of other Datasets in a few items of each part.

    **Targets.** A tree has the paths of the source with the codec's own ending, so that labels by path stay. In shards,
    WebDataset's tar files, a picture is followed by its class number as ``.cls`` where that is known. Of a Dataset a
    picture is called by its number, in a folder of its class. Pictures that share a name up to the ending keep it in
    front of the new one; a name that a file system would not take, or that leads out of a folder, is changed or
    refused. Beside the pictures there are ``foveate-manifest.jsonl``, with a line for each picture (see
    :func:`manifest`), ``foveate-parts.jsonl``, with what a further call needs, and ``foveate-summary.json``, whose
    ``root`` covers all of them.

    **Trouble.** What cannot be read as a picture is counted, with its reason, and treated as ``others`` says. A worker
    process that dies is started again; a picture over which it dies again, alone too, or that takes longer than
    ``timeout``, is set aside as ``failed``, and tried again by the next call. Only the usual formats are opened (see
    :func:`foveate.images.read`), so that no picture starts another program.

    **Two stages.** With ``cache``, maps are made first, in batches, by this process; the workers then need no model.
    That pays on a GPU, or where the maps serve again. Without it each worker makes the maps of its own pictures.

    Args:
        source: a folder, of any depth; tar shards (one, or a folder of them); both also as a URL that fsspec knows
            (``s3://...``); a saved Hugging Face dataset; or from Python a map-style Dataset of pictures or of pairs
            (picture, label), Hugging Face's too. A picture is a PIL image, a uint8 array (H, W, C) or a tensor
            (C, H, W), uint8 or float in [0, 1] and not normalized.
        target: a new or empty folder, or the target of an earlier run with the same settings; or a URL.
        compressor: with its models by recipe, as they are built in each worker.
        shards: write tar shards instead of a tree.
        others: what to do with what is no readable picture: ``"copy"`` it, ``"skip"`` it, or ``"refuse"``, which stops.
        only_if_smaller: keep the source's own bytes where they are not more, with whatever metadata they have.
        part: pictures in a unit of work, and in a shard; None takes 64, or 1000 in shards. Tar shards of the source are
            units as they are.
        cache: folder of saliency maps to use, and to add to where some are missing.
        workers: processes; None takes one a CPU, and with Ray what the cluster has room for, less one CPU; 0 does all
            in this process, where neither ``timeout`` nor ``memory`` can be kept.
        device: where workers put their models, such as ``"cuda"``; None leaves them on the CPU, without ``gpus``.
        engine: ``"local"``, or ``"ray"`` for Ray Data, see :mod:`foveate.export.ray`. The result is the same.
        gpus: with Ray, the share of a GPU that a worker takes.
        timeout: seconds that reading a picture, or compressing it, may take in a worker process; the first have ten
            times that more, for models to be built.
        memory: bytes that a worker process may hold, on Unix; None takes its share of this machine's memory, of at
            least 4 GiB, and sets no limit with Ray or a device.
        formats: names of Pillow's formats that are opened besides the usual ones, such as ``["DDS"]``.
        follow_links: take what links of the source lead to outside of it, and the files that rows of a Hugging Face
            dataset name by their paths; where it is False, such a link is an error.
        moved: take the source for the one that the target was made from, though it is in another place.
        progress: called with what a part came to and the number of units to be done; at the start with an empty report.
        maps_progress: with a cache, called with each number of units whose maps are there.

    Returns:
        The summary.

    Raises:
        TypeError: if the source is of another kind, or a model is not given by recipe though there are workers.
        ValueError: if an argument does not fit, source and target lie in one another, or the target holds other files.
        IdentityError: if the compressor has no identity for the target to be bound to.
        RuntimeError: if another run is writing to the target, or workers die at their start, or again and again over a
            part and none of its pictures.
        ImportError: if a node of Ray lacks a module.
        OSError: if the disk is full or fails; the same call goes on once there is room.

    Example:
        >>> import tempfile
        >>> from foveate.demo import Scenes
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     summary = compress_dataset(Scenes(3), folder, Compressor("webp:40"), workers=0)
        ...     names = sorted(p.name for p in Path(folder).rglob("*.webp"))
        >>> summary.kinds, names
        ({'compressed': 3}, ['00000000.webp', '00000001.webp', '00000002.webp'])
    """
    if others not in get_args(Others):
        raise ValueError(f"others: expected {', '.join(get_args(Others))}, got {others!r}")
    if engine not in get_args(Engine):
        raise ValueError(f"engine: expected {' or '.join(get_args(Engine))}, got {engine!r}")
    size = check_count("part", (1000 if shards else 64) if part is None else part)
    workers = None if workers is None else check_count("workers", workers, int(engine == "ray"))
    if check_number("gpus", gpus, 0) and engine != "ray":
        raise ValueError(f"gpus: only engine='ray' shares GPUs out, got {gpus}; give a device alone")
    control = compressor.control
    if isinstance(control, RateControl) and not control.as_stored and min(control.scales) < 1:
        raise ValueError(
            "compressor: its control shows the witnesses pictures at source size, but who reads the files gets them as "
            "they are stored; give the RateControl as_stored=True, or scales=1"
        )
    timeout = check_number("timeout", timeout, 0, above=True)
    memory = None if memory is None else check_count("memory", memory)
    check_formats(formats)
    found, store = as_source(source, follow_links), Store(target)
    stored = [found.store] if isinstance(found, Folder | Shards) else []
    for one in stored:
        _refuse_nested("target", store, one)
    saliency = compressor.used_saliency
    if cache is not None:
        for one in (*stored, store):
            _refuse_nested("cache", Store(cache), one)
        compressor = _with_cache(compressor, cache)
    settings = {
        "codec": str(compressor.codec),
        "identity": compressor.identity,
        "shards": shards,
        "others": others,
        "only_if_smaller": only_if_smaller,
        "part": size,
        "formats": sorted(name.upper() for name in formats),
    }
    head = Head(settings, found.label)
    with _locked(store):
        todo = planned(found, store, head, compressor.codec.suffix, size, moved)
        if todo is None:
            summary = Summary.read(store)
            assert summary is not None  # or there were something to do
            store.remove(STATE)
            return summary
        store.remove(f"{STATE}/tmp")
        if isinstance(found, Folder):
            found.classes = todo.plan.head.classes
        device = "cuda" if device is None and gpus else device
        if memory is None and engine == "local" and device is None:
            memory = local.memory_of_each(local.cpus() if workers is None else workers)
        job = Job(found, store, compressor, shards, others, only_if_smaller, device, timeout, memory, tuple(formats))
        if cache is not None and saliency is not None and not isinstance(saliency, CachedSaliency):
            units = [unit for part in todo.parts() for unit in part.units]
            reading = local.cpus() if workers is None else workers
            fill(found, units, cache, saliency, 16, reading, device, maps_progress, formats, timeout, memory)
        progress(Report(-1, 0), todo.units)
        parts = todo.parts()
        for report in local.run(job, parts, workers) if engine == "local" else ray.run(job, parts, workers, gpus):
            assert isinstance(report, Report)  # of compressing nothing else comes
            progress(report, todo.units)
        return finish(store, todo.plan)


def _with_cache(compressor: Compressor, cache: str | Path) -> Compressor:
    """The compressor with maps from a cache, whether they are there already or not."""
    saliency = compressor.used_saliency
    if saliency is None:
        raise ValueError("cache: this compressor asks for no maps; leave cache out")
    if not isinstance(saliency, CachedSaliency):
        cache = Path(cache).absolute()  # actors of Ray are in other folders
        saliency = CachedSaliency(cache, MapCache.of(cache, saliency).about["identity"])
    prefilter = None if compressor.prefilter is None else replace(compressor.prefilter, saliency=saliency)
    return replace(compressor, prefilter=prefilter, saliency=saliency)


def _refuse_nested(name: str, store: Store, other: Store) -> None:
    """Raise where one of two places would be written to, or found, in the other."""
    if (store.local is None) != (other.local is None):
        return
    a, b = ((one.local.resolve().as_posix() if one.local else one.root) + "/" for one in (store, other))
    if a.startswith(b) or b.startswith(a):
        raise ValueError(f"{name}: {store.url} and {other.url} lie in one another; choose another")


def _locked(target: Store) -> AbstractContextManager[None]:
    """Be the only run on a target; the lock goes with the process, however that ends.

    A target behind a URL is locked for this machine only: there, files appear whole and alike whoever writes them.
    """
    if target.local is not None:
        target.make()
        lock, holder = target.local / LOCK, target.local / STATE / "holder.json"
    else:
        lock = Path(tempfile.gettempdir()) / f"foveate-{hashlib.sha256(target.url.encode()).hexdigest()[:16]}.lock"
        holder = lock.with_suffix(".json")
    url = target.url.replace("{", "{{").replace("}", "}}")
    return locked(lock, holder, f"target: another run is writing to {url}{{who}}; wait for it, or choose another")
