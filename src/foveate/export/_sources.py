"""Where pictures come from: a folder, tar shards, or a Dataset; listed once, then read part by part."""

import io
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from foveate._checks import check_count
from foveate._extras import require
from foveate.export._store import Store, own
from foveate.images import UNREADABLE, as_tensor

SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".gif", ".jp2", ".pgm", ".ppm", ".tif", ".tiff"),
        *(".jxl", ".heic", ".heif", ".hevc"),  # which Pillow does not read: such pictures count as unreadable
    )
)
"""Files with these endings are taken for pictures."""

Name = tuple[str, str]
"""A unit of the source, and what it is called in the target: of a picture without its ending."""


@dataclass(frozen=True)
class Entry:
    """A picture, or another file, of a source.

    Attributes:
        name: in the source.
        stem: its name in the target; of a picture without the ending.
        suffix: the ending of a picture's file in the source; empty where there is no file.
        open: gives the file, or the picture (C, H, W); raises FileNotFoundError where it is gone meanwhile.
        picture: whether it is taken for one.
        label: its class number, where the source says so.
        extra: what else the source says about it, JSON-able.
    """

    name: str
    stem: str
    suffix: str
    open: Callable[[], "IO[bytes] | Tensor"]
    picture: bool = True
    label: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)


class Source(Protocol):
    """Pictures in a fixed order, in units that can be read alone."""

    @property
    def whole(self) -> bool:
        """Whether each unit holds many pictures and makes a part of its own."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes in the order of their numbers; none where they are not known."""

    def units(self) -> list[str]:
        """List the units: files, shards, or numbers."""

    def named(self, units: Sequence[str], taken: set[str], shards: bool) -> list[Name]:
        """Give units names in the target, none of those taken; without dots in shards, where a dot would end them."""

    def entries(self, names: Sequence[Name]) -> Iterator[Entry]:
        """Read units; what an entry's ``open`` gives is to be read before the next entry is taken."""


def as_source(source: Any) -> Source:
    """Return the source that a path, a URL or a Dataset is.

    Raises:
        TypeError: if it is none of them.
        ValueError: if nothing is there.
    """
    if isinstance(source, str | Path):
        return _stored(source)
    if isinstance(source, Mapping):
        raise TypeError(f"source: expected one Dataset, got those of {', '.join(map(str, source))}; give one of them")
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return HuggingFace(source) if hasattr(source, "features") and hasattr(source, "cast_column") else Items(source)
    raise TypeError(
        f"source: expected a path, a URL or a Dataset with numbers, got {type(source).__name__}; make a list of an "
        "iterable Dataset, or write it to tar shards first"
    )


def _stored(url: str | Path) -> Source:
    store = Store(url)
    if store.root.endswith(".tar") and store.is_file():
        parent, _, name = store.url.rpartition("/")
        return Shards(Store(parent or "."), name)
    if store.exists("dataset_info.json") and store.exists("state.json"):
        return HuggingFace(require("datasets", "huggingface").load_from_disk(store.url))
    if store.exists("dataset_dict.json"):
        raise ValueError(f"source: {url} holds several splits; give one of its folders")
    names = [name for name in store.names() if not own(name)]
    if not names:
        if store.is_file():
            raise ValueError(f"source: {url} is neither a folder nor a .tar file")
        raise ValueError(f"source: there is no file in {url}")
    endings = {_suffix(name) for name in names}
    return Shards(store) if ".tar" in endings and not endings & SUFFIXES else Folder(store)


@dataclass
class Folder:
    """Files below a folder, however deep; where all pictures lie in subfolders, the first of these is their class."""

    store: Store
    classes: tuple[str, ...] = ()
    whole: bool = False

    def units(self) -> list[str]:
        names = [name for name in self.store.names() if not own(name)]
        pictures = [name for name in names if _suffix(name) in SUFFIXES]
        if all("/" in name for name in pictures):
            self.classes = tuple(sorted({name.partition("/")[0] for name in pictures}))
        return names

    def named(self, units: Sequence[str], taken: set[str], shards: bool) -> list[Name]:
        return [(name, unique(name, taken, not shards) if _suffix(name) in SUFFIXES else name) for name in units]

    def entries(self, names: Sequence[Name]) -> Iterator[Entry]:
        numbers = {name: k for k, name in enumerate(self.classes)}
        for name, stem in names:
            picture = _suffix(name) in SUFFIXES
            label = numbers.get(name.partition("/")[0]) if picture else None
            opened = partial(self._whole, name) if picture else partial(self.store.open, name)
            yield Entry(name, stem, PurePosixPath(name).suffix, opened, picture, label)

    def _whole(self, name: str) -> IO[bytes]:
        return io.BytesIO(self.store.read(name))  # behind a URL one question, where a stream takes two


@dataclass
class Shards:
    """Tar files in the manner of WebDataset: members that share a name up to its first dot are one sample."""

    store: Store
    only: str | None = None
    classes: tuple[str, ...] = ()
    whole: bool = True

    def units(self) -> list[str]:
        if self.only is not None:
            return [self.only]
        return [name for name in self.store.names() if not own(name) and name.endswith(".tar")]

    def named(self, units: Sequence[str], taken: set[str], shards: bool) -> list[Name]:
        return [(name, "" if shards else f"{name.removesuffix('.tar')}/") for name in units]

    def entries(self, names: Sequence[Name]) -> Iterator[Entry]:
        for shard, folder in names:
            try:
                opened = self.store.open(shard)
            except FileNotFoundError as error:
                yield Entry(shard, folder, ".tar", _raising(error), picture=False)
                continue
            taken: set[str] = set()
            with opened as stream, _damage_of(shard), _Tar.open(fileobj=stream, mode="r|*") as tar:
                tar.shard = shard
                for member in tar:
                    data = tar.extractfile(member) if member.isfile() else None
                    if data is None:
                        continue
                    inside = PurePosixPath(member.name.lstrip("/"))
                    if ".." in inside.parts:
                        raise Damaged(f"source: {shard} has a member {member.name}, which leads out of any folder")
                    name, picture = str(inside), inside.suffix.lower() in SUFFIXES
                    stem = folder + (unique(name, taken) if picture else name)
                    yield Entry(f"{shard}:{name}", stem, inside.suffix, lambda data=data: data, picture)  # type: ignore[misc]


class Damaged(ValueError):
    """A shard that is no whole tar file, or one with names that no shard should have."""


@contextmanager
def _damage_of(shard: str) -> Iterator[None]:
    """Say of which shard it is that it is damaged."""
    try:
        yield
    except tarfile.TarError as error:
        raise Damaged(f"source: {shard} is no whole tar file ({error}); fetch it again, or leave it out") from error


class _Member(tarfile.TarInfo):
    """Of a tar file that ends with its end: tarfile itself takes any damage after the first member for it."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> "_Member":
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} after {tar.offset} bytes") from error


class _Content(tarfile.ExFileObject):
    """What is in a member, which may end too early when it is read."""

    def __init__(self, tar: "_Tar", member: tarfile.TarInfo) -> None:
        super().__init__(tar, member)
        self._tar = tar

    def read(self, size: int | None = -1) -> bytes:
        with _damage_of(self._tar.shard):
            return super().read(size)


class _Tar(tarfile.TarFile):
    shard = ""
    tarinfo = _Member
    fileobject = _Content


class Items:
    """A map-style Dataset of pictures or of pairs (picture, label): anything with ``[k]`` and ``len()``.

    A label is an integer; None and -1 say that there is none.
    """

    whole = False

    def __init__(self, dataset: Any, classes: Sequence[str] | None = None) -> None:
        self.dataset = dataset
        self.classes = tuple(map(str, getattr(dataset, "classes", ()) if classes is None else classes))
        self._folders = _folders(self.classes)

    def units(self) -> list[str]:
        return [str(k) for k in range(len(self.dataset))]

    def named(self, units: Sequence[str], taken: set[str], shards: bool) -> list[Name]:
        return [(name, f"{int(name):08}") for name in units]

    def entries(self, names: Sequence[Name]) -> Iterator[Entry]:
        for name, stem in names:
            try:
                item = self.dataset[int(name)]
            except UNREADABLE as error:
                yield Entry(name, stem, "", _raising(error))
                continue
            picture, label = item if isinstance(item, tuple | list) and len(item) == 2 else (item, None)
            label = _label(label, name)
            pixels = as_tensor(picture, f"picture {name}")
            yield Entry(name, self._placed(stem, label), "", lambda pixels=pixels: pixels, True, label)  # type: ignore[misc]

    def _placed(self, stem: str, label: int | None) -> str:
        if label is None:
            return stem
        return f"{self._folders[label] if label < len(self._folders) else label}/{stem}"


class HuggingFace(Items):
    """A ``datasets.Dataset`` with one column of images; one of class labels gives the labels, all others are kept."""

    def __init__(self, dataset: Any) -> None:
        library = require("datasets", "huggingface")
        images, labels = (
            [name for name, kind in dataset.features.items() if isinstance(kind, wanted)]
            for wanted in (library.Image, library.ClassLabel)
        )
        if len(images) != 1:
            raise ValueError(f"source: expected one column of images, found {images or 'none'}; use select_columns")
        self.image = images[0]
        self.label = labels[0] if labels else None
        names = dataset.features[labels[0]].names if labels else ()
        # Undecoded: the files as they were put in, whose bytes are what is compared with.
        super().__init__(dataset.cast_column(self.image, library.Image(decode=False)), names)

    def entries(self, names: Sequence[Name]) -> Iterator[Entry]:
        for name, stem in names:
            row = dict(self.dataset[int(name)])
            image = row.pop(self.image)
            label = None if self.label is None else _label(row.pop(self.label), name)
            if image is None:
                yield Entry(name, self._placed(stem, label), "", _raising(ValueError("no picture")), True, label, row)
                continue
            ending = PurePosixPath(image["path"] or "").suffix or _ending_of(image["bytes"])
            yield Entry(name, self._placed(stem, label), ending, lambda image=image: _opened(image), True, label, row)  # type: ignore[misc]


def _label(value: Any, name: str) -> int | None:
    """The class number of item ``name``; None where there is no label, for which -1 is the usual mark."""
    if value is None:
        return None
    number = check_count(f"label of item {name}", int(value) if isinstance(value, bool | np.bool_) else value, -1)
    return None if number == -1 else number


def _folders(classes: Sequence[str]) -> list[str]:
    """Name a folder for each class, by it where that can be and is the only one."""
    plain = [name.replace("/", "_") for name in classes]
    return [
        name if name not in ("", ".", "..") and not own(name) and plain.count(name) == 1 else f"{k}_{name}"
        for k, name in enumerate(plain)
    ]


def unique(name: str, taken: set[str], dots: bool = True) -> str:
    """Return a file's name without its ending, or with it where that is taken, and take it.

    Example:
        >>> taken = set()
        >>> unique("a/b.png", taken), unique("a/b.jpg", taken), unique("v1.2.png", taken, dots=False)
        ('a/b', 'a/b.jpg', 'v1_2')
    """
    path = PurePosixPath(name)
    number = 1
    while True:
        file = (path.stem, path.name)[number - 1] if number <= 2 else f"{path.name}-{number}"
        candidate = str(path.with_name(file if dots else file.replace(".", "_")))
        if candidate not in taken:
            taken.add(candidate)
            return candidate
        number += 1


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _raising(error: BaseException) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


def _opened(image: dict[str, Any]) -> IO[bytes]:
    return io.BytesIO(image["bytes"]) if image["bytes"] is not None else open(image["path"], "rb")


def _ending_of(data: bytes) -> str:
    """The usual ending of files of a picture's format; none where it is no picture."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            kind = (picture.format or "").lower()
    except UNREADABLE:
        return ""
    return {"jpeg": ".jpg", "tiff": ".tif"}.get(kind, f".{kind}")
