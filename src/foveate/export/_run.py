"""Export: a dataset compressed into another, part by part, with nothing lost on the way."""

import hashlib
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from foveate._checks import check_count, check_number
from foveate._lock import locked
from foveate._progress import Listener, Progress
from foveate.codecs import reader_of
from foveate.compressor import Compressor
from foveate.export import _local, _ray
from foveate.export._choices import Engine, Others, as_choice
from foveate.export._folder import Folder
from foveate.export._layout import LOCK, STATE
from foveate.export._manifest import Summary, finish
from foveate.export._maps import Reading, fill
from foveate.export._plan import Head
from foveate.export._planning import Todo, planned
from foveate.export._source import Source
from foveate.export._sources import as_source
from foveate.export._store import Store
from foveate.export._tars import Shards
from foveate.export._work import Outcomes, Report, Step
from foveate.export._worker import Job
from foveate.images import check_formats
from foveate.rate_control import RateControl
from foveate.saliency import CachedSaliency, MapCache

_BATCH = 16
"""Images of one size of which maps for a cache are made at once."""


def compress_dataset(
    source: Any,
    target: str | Path,
    compressor: Compressor,
    *,
    shards: bool = False,
    others: Others | str = Others.COPY,
    only_if_smaller: bool = False,
    keep_names: bool = False,
    part: int | None = None,
    cache: str | Path | None = None,
    workers: int | None = None,
    device: str | None = None,
    engine: Engine | str = Engine.LOCAL,
    gpus: float = 0.0,
    timeout: float = 60.0,
    memory: int | None = None,
    formats: Sequence[str] = (),
    follow_links: bool = False,
    moved: bool = False,
    progress: Listener | None = None,
) -> Summary:
    """Compress a whole dataset into files that any tool reads.

    The source is never written to. Every file of the target appears whole or not at all, and what was reported done is
    on the disk; a run that is stopped, however hard, continues with the same call where it was, and ends with the same
    bytes. Once finished, a further call does what is new or changed in the source, and again what is not in the target
    as it was written. A change is seen in files by size and time (behind a URL by what the driver knows of them), in
    rows of a Hugging Face dataset by their content, and in other Datasets by a few items of each part.

    **Targets.** A tree has the paths of the source with the codec's own ending (with ``keep_names`` the source's), so
    that labels by path stay. In shards, WebDataset's tar files, an image is followed by its class number as ``.cls`` if
    that is known. An image of a Dataset is named by its number, in a folder of its class. Images that share a name up
    to the ending keep it before the new one; a name that a file system would not take, or that leads out of a folder,
    is changed or refused. Beside the images there are ``foveate-manifest.jsonl.gz``, with a line for each image (see
    :func:`manifest`), ``foveate-parts.jsonl.gz``, with what a further call needs, and ``foveate-summary.json``, whose
    ``root`` covers all of them.

    **Trouble.** A file that cannot be read as an image is counted, with the reason, and treated as ``others`` says. A
    worker process that dies is started again; an image over which it dies again, alone too, or that takes longer than
    ``timeout``, is set aside as ``failed``, and tried again by the next call. Only the usual formats are opened (see
    :func:`foveate.images.read`), so that no image starts another program.

    **Two stages.** With ``cache``, maps are made first, in batches, by this process; the workers then need no model.
    That pays on a GPU, or if the maps are used again. Without it each worker makes the maps of its images.

    Args:
        source: a folder, of any depth; tar shards (one, or a folder of them); both also as a URL that fsspec knows
            (``s3://...``); a saved Hugging Face dataset; or a map-style Dataset of images or of pairs (image,
            label), Hugging Face's too. An image is a PIL image, a uint8 array (H, W, C) or a tensor (C, H, W), uint8
            or float in [0, 1] and not normalized.
        target: a new or empty folder, or the target of an earlier run with the same settings; or a URL.
        compressor: with its models by recipe, as they are built in each worker.
        shards: write tar shards instead of a tree.
        others: what to do with files that are not readable images: ``"copy"``, ``"skip"``, or ``"refuse"``, an error.
        only_if_smaller: keep the source's bytes if they are not more, with whatever metadata they have.
        keep_names: keep the endings of the source's files, such as ``.jpg`` for WebP, so that lists of files and
            WebDataset's tuples stay as they are; for codecs that Pillow reads, which goes by content.
        part: images in a unit of work, and in a shard; None takes 64, or 1000 in shards. Tar shards of the source are
            units as they are.
        cache: folder of saliency maps to use, and to add to if some are missing.
        workers: processes; None takes one per CPU, and with Ray what the cluster has room for, less one CPU; 0 does all
            in this process, where neither ``timeout`` nor ``memory`` holds.
        device: where workers put their models, such as ``"cuda"``; None leaves them on the CPU, without ``gpus``.
        engine: ``"local"``, or ``"ray"`` for actors of Ray Data: on the cluster that this process is connected to, or
            that of ``RAY_ADDRESS``, or one of this machine. The result is the same.
        gpus: with Ray, the share of a GPU that a worker takes.
        timeout: seconds that reading an image, or compressing it, may take in a worker process; the first have ten
            times that more, for models to be built.
        memory: bytes that a worker process may hold, on Unix; None takes its share of this machine's memory, but at
            least 4 GiB, and sets no limit with Ray or a device.
        formats: names of Pillow's formats that are opened besides the usual ones, such as ``["DDS"]``.
        follow_links: follow links of the source that lead out of it, and take the files that rows of a Hugging Face
            dataset name by their paths; if False, such a link is an error.
        moved: the source is the one that the target was made from, in another place.
        progress: called with a :class:`foveate.Progress` at the start and whenever some images are done. Its steps are
            units: files, shards, or items of a Dataset. The stage ``"saliency"``, of maps for the cache, has the units
            that are left; ``"compress"`` includes those that an earlier run of the same plan has done, but bytes and
            images of this run only.

    Returns:
        The summary.

    Raises:
        TypeError: if the source is of another kind, or a model is not given by recipe though there are workers.
        ValueError: if an argument does not fit, source and target lie in one another, or the target holds other files.
        IdentityError: if the compressor has no identity for the target to be bound to.
        RuntimeError: if another run is writing to the target, or workers die at their start, or again and again over a
            part though over none of its images.
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
    others, engine = as_choice("others", others, Others), as_choice("engine", engine, Engine)
    part = check_count("part", (1000 if shards else 64) if part is None else part)
    workers = None if workers is None else check_count("workers", workers, int(engine == Engine.RAY))
    if check_number("gpus", gpus, 0) and engine != Engine.RAY:
        raise ValueError(f"gpus: only engine='ray' shares GPUs out, got {gpus}; set device alone")
    _check_control(compressor)
    if keep_names and reader_of(compressor.codec.suffix) is not None:
        raise ValueError(
            f"keep_names: {compressor.codec.name} is read by its ending {compressor.codec.suffix}, which it must have; "
            "leave keep_names out, or take another codec"
        )
    timeout = check_number("timeout", timeout, 0, above=True)
    memory = None if memory is None else check_count("memory", memory)
    check_formats(formats)
    images, store = as_source(source, follow_links), Store(target)
    _check_places(images, store, cache)
    device = "cuda" if device is None and gpus else device
    if memory is None and engine == Engine.LOCAL and device is None:
        memory = _local.memory_share(_local.cpus() if workers is None else workers)
    used = compressor if cache is None else _with_cache(compressor, cache)
    job = Job(
        images,
        store,
        used,
        shards=shards,
        others=others,
        only_if_smaller=only_if_smaller,
        keep_names=keep_names,
        device=device,
        timeout=timeout,
        memory=memory,
        formats=tuple(formats),
    )
    head = _head(job, part)  # which refuses what has no identity, before anything is written
    with _locked(store):
        todo = planned(images, store, head, job.ending, part, moved)
        if todo is None:
            summary = Summary.load(store)
            assert summary is not None  # or there would be something to do
            store.remove(STATE)
            return summary
        store.remove(f"{STATE}/tmp")
        if isinstance(images, Folder):
            images.classes = todo.plan.head.classes
        if cache is not None:
            _fill(job, todo, cache, compressor, workers, progress)
        _work(job, todo, engine, workers, gpus, progress)
        return finish(store, todo.plan)


def _head(job: Job, part: int) -> Head:
    """What the bytes of the target depend on."""
    settings = {
        "codec": str(job.compressor.codec),
        "identity": job.compressor.identity,
        "shards": job.shards,
        "others": job.others.value,
        "only_if_smaller": job.only_if_smaller,
        "keep_names": job.keep_names,
        "part": part,
        "formats": sorted(name.upper() for name in job.formats),
    }
    return Head(settings, job.source.label)


def _fill(
    job: Job, todo: Todo, cache: str | Path, compressor: Compressor, workers: int | None, progress: Listener | None
) -> None:
    """Add the maps of the images that are left to do to a cache, unless the compressor reads them from one itself."""
    saliency = compressor.used_saliency
    if saliency is None or isinstance(saliency, CachedSaliency):
        return
    units = [unit for part in todo.parts() for unit in part.units]
    count = _local.cpus() if workers is None else workers
    memory = _local.memory_share(count) if job.memory is None else job.memory
    reading = Reading(job.source, job.timeout, memory, job.formats)
    fill(reading, units, cache, saliency, batch=_BATCH, workers=count, device=job.device, progress=progress)


def _work(job: Job, todo: Todo, engine: Engine, workers: int | None, gpus: float, progress: Listener | None) -> None:
    """Do the parts that are left to do."""
    done, source_bytes, target_bytes, images = todo.total - todo.units, 0, 0, 0
    under_way: dict[int, int] = {}

    def tell() -> None:
        if progress is not None:
            so_far = images + sum(under_way.values())
            progress(Progress("compress", done, todo.total, source_bytes, target_bytes, job.source.unit, so_far))

    tell()
    parts = todo.parts()
    outcomes: Outcomes = (
        _local.run(job, parts, workers) if engine == Engine.LOCAL else _ray.run(job, parts, workers, gpus)
    )
    with closing(outcomes):  # also if someone keeps the error, and all that it refers to: no process is left
        for outcome in outcomes:
            if isinstance(outcome, Step):
                under_way[outcome.number] = outcome.images
            else:
                assert isinstance(outcome, Report)  # compressing yields no batches
                under_way.pop(outcome.number, None)
                done, images = done + outcome.units, images + outcome.images
                source_bytes, target_bytes = source_bytes + outcome.source_bytes, target_bytes + outcome.bytes
            tell()


def _check_control(compressor: Compressor) -> None:
    """Raise if a rate control judges images other than those that readers of the files get."""
    control = compressor.control
    if isinstance(control, RateControl) and not control.as_stored and min(control.scales) < 1:
        raise ValueError(
            "compressor: its control shows the witnesses images at source size, but readers of the files get them as "
            "they are stored; give the RateControl as_stored=True, or scales=1"
        )


def _check_places(source: Source, target: Store, cache: str | Path | None) -> None:
    """Raise if the source, the target and the cache lie in one another."""
    sources = [source.store] if isinstance(source, Folder | Shards) else []
    for store in sources:
        _refuse_nested("target", target, store)
    if cache is not None:
        for store in (*sources, target):
            _refuse_nested("cache", Store(cache), store)


def _with_cache(compressor: Compressor, cache: str | Path) -> Compressor:
    """The compressor with maps from a cache, which may not have them yet."""
    saliency = compressor.used_saliency
    if saliency is None:
        raise ValueError("cache: this compressor uses no maps; leave cache out")
    if not isinstance(saliency, CachedSaliency):
        cache = Path(cache).absolute()  # actors of Ray are in other folders
        saliency = CachedSaliency(cache, MapCache.of(cache, saliency).about["identity"])
    prefilter = None if compressor.prefilter is None else compressor.prefilter.guided(saliency)
    return replace(compressor, prefilter=prefilter, saliency=saliency)


def _refuse_nested(name: str, store: Store, other: Store) -> None:
    """Raise if one of two places lies in the other."""
    if (store.local is None) != (other.local is None):
        return
    a, b = ((s.local.resolve().as_posix() if s.local else s.root) + "/" for s in (store, other))
    if a.startswith(b) or b.startswith(a):
        raise ValueError(f"{name}: {store.url} and {other.url} lie in one another; choose another")


def _locked(target: Store) -> AbstractContextManager[None]:
    """Lock a target against other runs, until the process ends, however it does.

    A target behind a URL is locked for this machine only: there, files appear whole, and are the same whoever writes
    them.
    """
    if target.local is not None:
        target.make()
        lock, holder = target.local / LOCK, target.local / STATE / "holder.json"
    else:
        lock = Path(tempfile.gettempdir()) / f"foveate-{hashlib.sha256(target.url.encode()).hexdigest()[:16]}.lock"
        holder = lock.with_suffix(".json")
    url = target.url.replace("{", "{{").replace("}", "}}")
    return locked(lock, holder, f"target: another run is writing to {url}{{who}}; wait for it, or choose another")
