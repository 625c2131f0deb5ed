"""Where pictures come from: a folder, tar shards, or a Dataset; listed once, then read part by part."""

import errno
import hashlib
import io
import os
import posixpath
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

import numpy as np
from torch import Tensor

from foveate._checks import check_count
from foveate._extras import require
from foveate.export._names import Names, proper
from foveate.export._plan import Unit
from foveate.export._store import DENIED, NotAFileError, Store, is_bookkeeping, size_of
from foveate.images import MAX_BYTES, UNREADABLE, as_tensor, format_of, image_hash

SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".gif", ".jp2", ".pgm", ".ppm", ".tif", ".tiff"),
        *(".jxl", ".heic", ".heif", ".hevc"),  # the last is a bare bitstream, which only its codec reads
    )
)
"""Files with these endings are taken for pictures."""


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
        unit: that it is of, where that has another name.
        place: in its part, from 0.
    """

    name: str
    stem: str
    suffix: str
    open: Callable[[], "IO[bytes] | Tensor"]
    picture: bool = True
    label: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    unit: str = ""
    place: int = 0


class Source(Protocol):
    """Pictures in a fixed order, in units that can be read alone."""

    @property
    def whole(self) -> bool:
        """Whether each unit holds many pictures and makes a part of its own."""

    @property
    def numbered(self) -> bool:
        """Whether units are numbers, and taking an entry decodes it."""

    @property
    def label(self) -> str:
        """What the source is called: another text for another source."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes in the order of their numbers; none where they are not known."""

    def units(self) -> Iterator[tuple[str, str]]:
        """Yield the names of the units (files, shards, or numbers) with their stamps, see :class:`Unit`."""

    def is_picture(self, name: str) -> bool:
        """Whether a unit is taken for one picture."""

    def give(self, name: str, names: Names, ending: str, shards: bool) -> str:
        """Give a unit a name in the target, where pictures get this ending."""

    def keep(self, unit: Unit, names: Names, ending: str, shards: bool) -> None:
        """Keep the name that a unit was given before."""

    def entries(self, units: Sequence[Unit], ending: str) -> Iterator["Entry"]:
        """Read units; what an entry's ``open`` gives is to be read before the next entry is taken."""

    def compared(self, lines: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
        """Compare what lines of a manifest tell of, where no stamp tells: how many agree, how many differ."""


def as_source(source: Any, follow_links: bool = False) -> Source:
    """Return the source that a path, a URL or a Dataset is.

    Raises:
        TypeError: if it is none of them.
        ValueError: if nothing is there.
    """
    if isinstance(source, str | Path):
        return _stored(source, follow_links)
    if isinstance(source, Mapping):
        raise TypeError(f"source: expected one Dataset, got those of {', '.join(map(str, source))}; give one of them")
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        if hasattr(source, "features") and hasattr(source, "cast_column"):
            return HuggingFace(source, follow_links=follow_links)
        return Items(source)
    raise TypeError(
        f"source: expected a path, a URL or a Dataset with numbers, got {type(source).__name__}; make a list of an "
        "iterable Dataset, or write it to tar shards first"
    )


def _stored(url: str | Path, follow_links: bool) -> Source:
    store = Store(url, follow_links)
    if store.root.endswith(".tar") and store.is_file():
        parent, _, name = store.url.rpartition("/")
        return Shards(Store(parent or ".", follow_links), name)
    if store.exists("dataset_info.json") and store.exists("state.json"):
        saved = require("datasets", "huggingface").load_from_disk(store.url)
        return HuggingFace(saved, store, follow_links)
    if store.exists("dataset_dict.json"):
        raise ValueError(f"source: {url} holds several splits; give one of its folders")
    endings = {_suffix(name) for name, _ in store.files() if not is_bookkeeping(name)}
    if not endings:
        if store.is_file():
            raise ValueError(f"source: {url} is neither a folder nor a .tar file")
        raise ValueError(f"source: there is no file in {url}")
    return Shards(store) if ".tar" in endings and not endings & SUFFIXES else Folder(store)


@dataclass
class Folder:
    """Files below a folder, however deep; where all pictures lie in subfolders, the first of these is their class."""

    store: Store
    classes: tuple[str, ...] = ()
    whole: bool = False
    numbered: bool = False

    @property
    def label(self) -> str:
        return self.store.label

    def units(self) -> Iterator[tuple[str, str]]:
        classes: set[str] = set()
        labeled = True

        def listed() -> Iterator[tuple[str, str]]:
            nonlocal labeled
            for name, stamp in self.store.files():
                if is_bookkeeping(name):
                    continue
                if self.is_picture(name):
                    folder, slash, _ = name.partition("/")
                    labeled = labeled and bool(slash)
                    classes.add(folder)
                yield name, stamp

        yield from _stamped(self.store, listed())
        self.classes = tuple(sorted(classes)) if labeled else ()

    def is_picture(self, name: str) -> bool:
        return _suffix(name) in SUFFIXES

    def give(self, name: str, names: Names, ending: str, shards: bool) -> str:
        if not self.is_picture(name):
            return names.other(name)
        return names.picture(name, self._endings(name, ending, shards), not shards)

    def keep(self, unit: Unit, names: Names, ending: str, shards: bool) -> None:
        names.keep(unit.stem, self._endings(unit.name, ending, shards) if self.is_picture(unit.name) else ("",))

    def _endings(self, name: str, ending: str, shards: bool) -> set[str]:
        return {ending, PurePosixPath(name).suffix, *([".cls"] if shards else [])}

    def entries(self, units: Sequence[Unit], ending: str) -> Iterator[Entry]:
        numbers = {name: k for k, name in enumerate(self.classes)}
        for name, stem, stamp in units:
            picture = self.is_picture(name)
            label = numbers.get(name.partition("/")[0]) if picture else None
            opened: Callable[[], IO[bytes]]
            opened = partial(self._whole, name, stamp) if picture else partial(self.store.open, name)
            if stamp == DENIED:
                opened = _raising(PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
            yield Entry(name, stem, PurePosixPath(name).suffix, opened, picture, label)

    def _whole(self, name: str, stamp: str) -> IO[bytes]:
        size = self.store.size(name) if self.store.local is not None else size_of(stamp)
        if size is not None and size > MAX_BYTES:
            raise TooManyError(f"has {size} bytes, over the limit of {MAX_BYTES} for a picture")
        return io.BytesIO(self.store.read(name))  # behind a URL one question, where a stream takes two

    def compared(self, lines: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
        return 0, 0


@dataclass
class Shards:
    """Tar files in the manner of WebDataset: members that share a name up to its first dot are one sample."""

    store: Store
    only: str | None = None
    classes: tuple[str, ...] = ()
    whole: bool = True
    numbered: bool = False

    @property
    def label(self) -> str:
        return self.store.label + ("" if self.only is None else f" {self.only}")

    def units(self) -> Iterator[tuple[str, str]]:
        return _stamped(self.store, self._listed())

    def _listed(self) -> Iterator[tuple[str, str]]:
        for name, stamp in self.store.files():
            if stamp == DENIED and name.endswith("/*"):  # its shards are not known, to be counted
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), self.store.path(name))
            if not is_bookkeeping(name) and name.endswith(".tar") if self.only is None else name == self.only:
                yield name, stamp

    def is_picture(self, name: str) -> bool:
        return False

    def give(self, name: str, names: Names, ending: str, shards: bool) -> str:
        return names.other(name) if shards else f"{names.folder(name.removesuffix('.tar'), name)}/"

    def keep(self, unit: Unit, names: Names, ending: str, shards: bool) -> None:
        if shards:
            names.keep(unit.stem)
        else:
            names.keep_own_folder(unit.stem.removesuffix("/"))

    def entries(self, units: Sequence[Unit], ending: str) -> Iterator[Entry]:
        for shard, stem, _ in units:
            folder = stem if stem.endswith("/") else ""
            try:
                opened = self.store.open(shard)
            except (FileNotFoundError, PermissionError, NotAFileError) as error:
                yield Entry(shard, folder or shard, ".tar", _raising(error), picture=False)
                continue
            names = Names(set())
            mode = "r:" if self.store.local is not None else "r|"
            with opened as stream, _damage_of(shard), _Tar.open(fileobj=stream, mode=mode) as tar:  # type: ignore[call-overload]
                tar.shard = shard
                for member in tar:
                    tar.note(member)
                    if not member.isdir():
                        yield self._member(tar, member, shard, folder, names, ending)

    def _member(
        self, tar: "_Tar", member: tarfile.TarInfo, shard: str, folder: str, names: Names, ending: str
    ) -> Entry:
        name = member.name.lstrip("/")
        if ".." in PurePosixPath(name).parts:
            raise DamagedError(f"source: {shard} has a member {member.name!r}, which leads out of any folder")
        inside = PurePosixPath(name)
        picture = inside.suffix.lower() in SUFFIXES
        given = names.picture(name, (ending, inside.suffix)) if picture else names.other(name)
        return Entry(
            f"{shard}:{inside}",
            folder + given,
            inside.suffix,
            partial(self._content, tar, member, picture),
            picture,
            unit=shard,
        )

    def _content(self, tar: "_Tar", member: tarfile.TarInfo, picture: bool) -> IO[bytes]:
        if member.islnk() and self.store.local is None:
            raise NotAFileError("is a hard link in a tar, which is followed in local tars only")
        member = tar.behind(member)
        if member.issparse():  # a few bytes may stand for as many as they like
            raise TooManyError("is a sparse file in a tar, whose size may be anything; pack it as a plain one")
        if picture and member.size > MAX_BYTES:
            raise TooManyError(f"has {member.size} bytes, over the limit of {MAX_BYTES} for a picture")
        if not member.isreg():
            raise NotAFileError("is a link, or something else than a file, in a tar")
        content = tar.extractfile(member)
        assert content is not None
        return content

    def compared(self, lines: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
        return 0, 0


def _stamped(store: Store, files: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Files with their stamps, asked for where a listing does not tell of them."""
    if store.lists_stamps:
        yield from files
        return
    names = [name for name, _ in files]
    yield from zip(names, store.stamps(names), strict=True)


class TooManyError(ValueError):
    """Bytes of one picture, or of a file that has fewer on the disk."""


class DamagedError(ValueError):
    """A shard that is no whole tar file, or one with names that no shard should have."""


@contextmanager
def _damage_of(shard: str) -> Iterator[None]:
    """Say of which shard it is that it is damaged."""
    try:
        yield
    except (tarfile.TarError, OverflowError, RecursionError) as error:  # offsets and headers without end
        raise DamagedError(
            f"source: {shard} is no whole tar file ({error}); fetch it again, or leave it out"
        ) from error


_HEADERS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


class _Member(tarfile.TarInfo):
    """Of a tar file that ends with its end: tarfile itself takes any damage after the first member for it."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _HEADERS and self.size > 1 << 20:  # tarfile reads such a one into memory
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        member: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]
        return member

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> "_Member":
        try:
            member = super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except (tarfile.HeaderError, ValueError) as error:
            raise tarfile.ReadError(f"{error} after {tar.offset} bytes") from error
        forth = member.offset_data <= tar.offset < 1 << 60  # or tarfile would go back, and round for ever
        if member.size < 0 or not forth:
            raise tarfile.ReadError(f"a member of {member.size} bytes")
        return member


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

    def __init__(self, *args: Any, **how: Any) -> None:
        self._behind: dict[str | None, tarfile.TarInfo] = {}
        super().__init__(*args, **how)

    def note(self, member: tarfile.TarInfo) -> None:
        """Note a member, so that hard links after it find it: tarfile would look through all, for each."""
        if member.isreg() or member.islnk():
            self._behind[posixpath.normpath(member.name)] = self._behind.get(_linked(member), member)

    def behind(self, member: tarfile.TarInfo) -> tarfile.TarInfo:
        """The member that a hard link leads to; any other itself.

        Raises:
            NotAFileError: if it leads to nothing before it.
        """
        content = self._behind.get(_linked(member), member)
        if content.islnk():
            raise NotAFileError(f"is a link in a tar to what is not there ({member.linkname!r})")
        return content


def _linked(member: tarfile.TarInfo) -> str | None:
    return posixpath.normpath(member.linkname) if member.islnk() else None


class Items:
    """A map-style Dataset of pictures or of pairs (picture, label): anything with ``[k]`` and ``len()``.

    A label is an integer; None and -1 say that there is none.
    """

    whole = False
    numbered = True
    _compared = 8
    """Of a part that is done so many items are compared with what they were: comparing all would read all."""

    def __init__(self, dataset: Any, classes: Sequence[str] | None = None) -> None:
        self.dataset = dataset
        self.classes = tuple(map(str, getattr(dataset, "classes", ()) if classes is None else classes))
        self._folders = _folders(self.classes)

    @property
    def label(self) -> str:
        kind = type(self.dataset)
        return f"{kind.__module__}.{kind.__qualname__}"

    def units(self) -> Iterator[tuple[str, str]]:
        return ((str(k), "") for k in range(len(self.dataset)))

    def is_picture(self, name: str) -> bool:
        return True

    def give(self, name: str, names: Names, ending: str, shards: bool) -> str:
        return f"{int(name):08}"

    def keep(self, unit: Unit, names: Names, ending: str, shards: bool) -> None:
        pass  # numbers are given once

    def entries(self, units: Sequence[Unit], ending: str) -> Iterator[Entry]:
        for name, stem, _ in units:
            try:
                item = self.dataset[int(name)]
            except Exception as error:
                yield Entry(name, stem, "", _raising(_of_picture(error)))
                continue
            picture, label = item if isinstance(item, tuple | list) and len(item) == 2 else (item, None)
            label = _label(label, name)
            pixels = as_tensor(picture, f"picture {name}")
            yield Entry(name, self._placed(stem, label), "", lambda pixels=pixels: pixels, True, label)  # type: ignore[misc]

    def _placed(self, stem: str, label: int | None) -> str:
        if label is None:
            return stem
        return f"{self._folders[label] if label < len(self._folders) else label}/{stem}"

    def compared(self, lines: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
        agree = differ = 0
        for line in lines:
            if "source_sha256" in line and int(line["source"]) < len(self.dataset) and agree + differ < self._compared:
                same = line["source_sha256"] == self._hash(int(line["source"]))
                agree, differ = agree + same, differ + (not same)
        return agree, differ

    def _hash(self, number: int) -> str | None:
        """The hash of an item's picture; None where it cannot be read."""
        try:
            return self._read_hash(number)
        except Exception:  # a Dataset raises what it likes
            return None

    def _read_hash(self, number: int) -> str | None:
        item = self.dataset[number]
        return image_hash(as_tensor(item[0] if isinstance(item, tuple | list) and len(item) == 2 else item))


class HuggingFace(Items):
    """A ``datasets.Dataset`` with one column of images; one of class labels gives the labels, all others are kept.

    Args:
        dataset: the Dataset.
        store: the folder that it was saved to, if it was.
        follow_links: take pictures that a row names by a path, which may be any file of this machine.
    """

    _compared = 1 << 62

    def __init__(self, dataset: Any, store: Store | None = None, follow_links: bool = False) -> None:
        library = require("datasets", "huggingface")
        images, labels = (
            [name for name, kind in dataset.features.items() if isinstance(kind, wanted)]
            for wanted in (library.Image, library.ClassLabel)
        )
        if len(images) != 1:
            raise ValueError(f"source: expected one column of images, found {images or 'none'}; use select_columns")
        self.image, self._store, self._follow = images[0], store, follow_links
        self.label_column = labels[0] if labels else None
        names = dataset.features[labels[0]].names if labels else ()
        # Undecoded: the files as they were put in, whose bytes are what is compared with.
        super().__init__(dataset.cast_column(self.image, library.Image(decode=False)), names)
        first = self.dataset[0][self.image] if len(self.dataset) else None
        if first is not None and first["bytes"] is None:
            self._opened(first)  # said at once, where it holds for all

    @property
    def label(self) -> str:
        return super().label if self._store is None else self._store.label

    def entries(self, units: Sequence[Unit], ending: str) -> Iterator[Entry]:
        for name, stem, _ in units:
            try:
                row = dict(self.dataset[int(name)])
            except Exception as error:
                yield Entry(name, stem, "", _raising(_of_picture(error)))
                continue
            image = row.pop(self.image)
            label = None if self.label_column is None else _label(row.pop(self.label_column), name)
            if image is None:
                yield Entry(name, self._placed(stem, label), "", _raising(ValueError("no picture")), True, label, row)
                continue
            ending = PurePosixPath(image["path"] or "").suffix or _ending_of(image["bytes"])
            opened = partial(self._opened, image)
            yield Entry(name, self._placed(stem, label), ending, opened, True, label, row)

    def _opened(self, image: Mapping[str, Any]) -> IO[bytes]:
        if image["bytes"] is not None:
            return io.BytesIO(image["bytes"])
        path = Path(image["path"])
        if not self._follow:
            within = self._store is not None and self._store.local is not None
            if not (within and path.resolve().is_relative_to(self._store.local.resolve())):  # type: ignore[union-attr]
                raise OutsideError(
                    f"source: a row names its picture by the path {path}, outside of the dataset; follow_links=True "
                    "(--follow-links) takes such files of this machine, or embed them first"
                )
        return Store(path.parent, follow_links=True).open(path.name)

    def _read_hash(self, number: int) -> str | None:
        image = self.dataset[number][self.image]
        if image is None:
            return None
        with self._opened(image) as stream:
            return hashlib.sha256(stream.read()).hexdigest()


class OutsideError(ValueError):
    """A picture that lies outside of its source."""


def _of_picture(error: Exception) -> Exception:
    """What a Dataset raised instead of a picture, as something that tells of an unreadable one."""
    if isinstance(error, UNREADABLE):
        return error
    return ValueError(f"{type(error).__name__}: {error}")


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
        proper(name if name not in ("", ".", "..") and plain.count(name) == 1 else f"{k}_{name}")
        for k, name in enumerate(plain)
    ]


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _raising(error: BaseException) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


def _ending_of(data: bytes) -> str:
    """The usual ending of files of a picture's format; none where it is no picture."""
    kind = format_of(data)
    if kind is None:
        return ""
    return {"jpeg": ".jpg", "tiff": ".tif", "jpeg2000": ".jp2"}.get(kind, f".{kind}")
