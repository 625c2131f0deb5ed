"""A finished export as one dataset of another format: of Hugging Face, or of MosaicML's streaming."""

import hashlib
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from foveate._extras import require
from foveate._progress import Listener, Progress
from foveate.export._check import name_of, puts
from foveate.export._choices import Kind, as_choice
from foveate.export._manifest import Summary, manifest
from foveate.export._store import Store

_IMAGES = (Kind.COMPRESSED, Kind.KEPT)
_BESIDE = (".cls", ".json")
"""Endings of files that say something of the image whose name they have."""
_NOT_OF_PILLOW = frozenset((".jxl", ".hevc", ".heic", ".heif"))
"""Files that Pillow, by which both formats decode, does not read."""


class Packing(StrEnum):
    """The formats of :func:`pack`."""

    HUGGINGFACE = "huggingface"
    MDS = "mds"


@dataclass(frozen=True)
class Packed:
    """The result of :func:`pack`.

    Attributes:
        images: how many images it has.
        left_out: how many other files of the export it does not have.
        bytes: of the images.
    """

    images: int
    left_out: int
    bytes: int

    def __str__(self) -> str:
        others = f"; {self.left_out:,} other files are left out" if self.left_out else ""
        return f"{self.images:,} images of {self.bytes:,} bytes packed{others}"


@dataclass(frozen=True)
class _Row:
    """An image of an export, with what belongs to it."""

    name: str
    data: bytes
    label: int | None
    more: str | None


def pack(target: str | Path, out: str | Path, packing: Packing | str, *, progress: Listener | None = None) -> Packed:
    """Copy the images of a finished export, bit for bit, into one dataset of another format.

    ``"huggingface"`` is what ``datasets.load_from_disk`` reads, and ``push_to_hub`` uploads, with the columns
    ``image`` (as the feature Image, the file itself), ``label`` (as a ClassLabel, if classes are known), ``name`` of
    the source, and ``json``, the further columns as they came; the latter three if there are any. ``"mds"`` is what
    ``streaming.StreamingDataset`` reads, with the same columns: ``image`` the bytes of the file, for
    ``PIL.Image.open(io.BytesIO(...))``, ``label`` −1 where there is none.

    Args:
        target: a tree or shards that :func:`compress_dataset` wrote, a folder or a URL.
        out: a new folder, which appears when all is written.
        packing: ``"huggingface"`` or ``"mds"``.
        progress: called with a :class:`foveate.Progress` for each image.

    Raises:
        ValueError: if the export is unfinished, or is not as its manifest says; if ``out`` is there; or if Pillow, by
            which readers of these formats decode, does not read its images.
        ImportError: if the format's library is not installed, with the line that installs it.

    Example:
        >>> from foveate import Compressor
        >>> from foveate.demo import Scenes
        >>> from foveate.export import compress_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = compress_dataset(Scenes(3), f"{folder}/small", Compressor("webp:30"), workers=0)
        ...     print(pack(f"{folder}/small", f"{folder}/packed", "huggingface").images)
        3
    """
    packing = as_choice("packing", packing, Packing)
    store, out = Store(target), Path(out)
    if out.exists():
        raise ValueError(f"out: {out} is there already; choose another folder, or remove it")
    summary = Summary.load(store)
    if summary is None:
        raise ValueError(f"target: {store.url} has no summary; is its export finished?")
    count = _count(store)
    write = {Packing.HUGGINGFACE: _write_huggingface, Packing.MDS: _write_mds}[packing]
    rows = _Rows(store, None if progress is None else lambda done: progress(Progress("pack", done, count)))
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".foveate-pack-") as folder:
        whole = Path(folder) / "whole"
        write(iter(rows), whole, summary.classes)
        whole.rename(out)
    return Packed(rows.images, rows.left_out, rows.bytes)


def _count(store: Store) -> int:
    """How many images will be packed; raises if Pillow does not read one of them."""
    count = 0
    for line in manifest(store):
        if line["kind"] in _IMAGES:
            count += 1
            suffix = Path(line.get("member", line["target"])).suffix.lower()
            if suffix in _NOT_OF_PILLOW:
                raise ValueError(
                    f"target: {name_of(line)}: readers of such datasets decode by Pillow, which does not read "
                    f"{suffix}; compress to jpeg, webp, avif or jpeg2000"
                )
    return count


class _Rows:
    """The images of an export in its order, each with what lies beside it under its name.

    Attributes:
        images: how many there were so far.
        left_out: how many other files.
        bytes: of the images.
    """

    def __init__(self, store: Store, tell: Callable[[int], object] | None) -> None:
        self._store, self._tell = store, tell
        self.images = self.left_out = self.bytes = 0

    def __iter__(self) -> Iterator[_Row]:
        for shard, lines in groupby(manifest(self._store), lambda line: line["target"] if "member" in line else None):
            with ExitStack() as stack:
                if shard is None:
                    read = self._read
                else:
                    stream = stack.enter_context(self._store.open(shard))
                    read = partial(_next, stack.enter_context(tarfile.open(fileobj=stream, mode="r|")))
                files = ((line, put, read(line, put)) for line in lines for put in puts(line))
                for _, sample in groupby(files, key=lambda file: _stem(file[1])):
                    yield from self._of(list(sample))

    def _read(self, line: Mapping[str, Any], put: Mapping[str, Any]) -> bytes:
        """Return the content of a file of a tree; of one that is not packed, nothing."""
        wanted = line["kind"] in _IMAGES or _ending(put) in _BESIDE
        return _checked(put, self._store.read(put["target"])) if wanted else b""

    def _of(self, files: list[tuple[Mapping[str, Any], Mapping[str, Any], bytes]]) -> Iterator[_Row]:
        """Yield the images of a sample."""
        images = [(line, data) for line, put, data in files if put is line and line["kind"] in _IMAGES]
        others = {_ending(put): data for line, put, data in files if line["kind"] not in _IMAGES}
        sidecars = {_ending(put): data for line, put, data in files if put is not line}
        self.left_out += sum(not images or ending not in _BESIDE for ending in others)
        beside = others | sidecars
        number = beside.get(".cls", b"").strip()
        label = int(number) if number.isdigit() else None
        more = beside[".json"].decode("utf-8", "replace") if ".json" in beside else None
        for line, data in images:
            yield _Row(line["source"], data, line.get("label", label), more)
            self.images, self.bytes = self.images + 1, self.bytes + len(data)
            if self._tell is not None:
                self._tell(self.images)


def _ending(put: Mapping[str, Any]) -> str:
    return PurePosixPath(put.get("member", put["target"])).suffix


def _next(tar: tarfile.TarFile, line: Mapping[str, Any], put: Mapping[str, Any]) -> bytes:
    """Return the content of the next member of a shard, which is to be that of a file."""
    member = tar.next()
    while member is not None and member.isdir():
        member = tar.next()
    stream = None if member is None or member.name != put["member"] else tar.extractfile(member)
    if stream is None:
        raise ValueError(f"target: {name_of(put)} is not where the manifest says; 'foveate verify' tells more")
    return _checked(put, stream.read())


def _checked(put: Mapping[str, Any], data: bytes) -> bytes:
    if hashlib.sha256(data).hexdigest() != put["sha256"]:
        raise ValueError(f"target: {name_of(put)} is not as it was written; 'foveate verify' tells more")
    return data


def _stem(put: Mapping[str, Any]) -> str:
    """The name that the files of a sample share: of a file that without its ending, in a shard as WebDataset has it."""
    folder, slash, file = str(put.get("member", put["target"])).rpartition("/")
    return folder + slash + (file.partition(".")[0] if "member" in put else file.rpartition(".")[0])


def _write_huggingface(rows: Iterator[_Row], out: Path, classes: tuple[str, ...]) -> None:
    library = require("datasets", "huggingface")
    lines = out.with_name("rows.arrow")
    label = library.ClassLabel(names=list(classes)) if classes else library.Value("int64")
    text = library.Value("string")
    features = library.Features({"image": library.Image(), "label": label, "name": text, "json": text})
    progress = library.utils.logging.is_progress_bar_enabled()
    library.utils.logging.disable_progress_bar()  # ours is drawn
    try:
        writer = library.arrow_writer.ArrowWriter(path=str(lines), features=features)
        empty = {"label": True, "json": True}
        with writer:
            for row in rows:
                empty = {"label": empty["label"] and row.label is None, "json": empty["json"] and row.more is None}
                image = {"bytes": row.data, "path": Path(row.name).name}
                writer.write({"image": image, "label": row.label, "name": row.name, "json": row.more})
            writer.finalize()
        dataset = library.Dataset.from_file(str(lines))
        dataset.remove_columns([name for name, is_empty in empty.items() if is_empty]).save_to_disk(str(out))
    finally:
        if progress:
            library.utils.logging.enable_progress_bar()


def _write_mds(rows: Iterator[_Row], out: Path, _: tuple[str, ...]) -> None:
    library = require("streaming", "mds")
    columns = {"image": "bytes", "label": "int", "name": "str", "json": "str"}
    with library.MDSWriter(out=str(out), columns=columns, hashes=["sha1"]) as writer:
        for row in rows:
            label = -1 if row.label is None else row.label
            writer.write({"image": row.data, "label": label, "name": row.name, "json": row.more or ""})
