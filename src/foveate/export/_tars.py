"""Tar shards as sources."""

import errno
import os
import posixpath
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import IO, Any

from foveate.export._layout import is_bookkeeping
from foveate.export._local_files import NotAFileError
from foveate.export._names import Names
from foveate.export._plan import Unit
from foveate.export._source import Entry, TooManyBytesError, raising, stamped
from foveate.export._stamps import DENIED
from foveate.export._store import Store
from foveate.export._suffixes import is_image_name
from foveate.images import MAX_BYTES


@dataclass
class Shards:
    """Tar files in the manner of WebDataset: members that share a name up to its first dot are one sample.

    Attributes:
        store: the folder that they lie in.
        only: the name of the one shard to be read; None reads all.
    """

    store: Store
    only: str | None = None
    classes: tuple[str, ...] = ()
    whole: bool = True
    numbered: bool = False
    unit: str = "shard"

    @property
    def label(self) -> str:
        return self.store.label + ("" if self.only is None else f" {self.only}")

    def units(self) -> Iterator[tuple[str, str]]:
        return stamped(self.store, self._listed())

    def _listed(self) -> Iterator[tuple[str, str]]:
        for name, stamp in self.store.files():
            if stamp == DENIED and name.endswith("/*"):  # its shards are not known, and cannot be counted
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), self.store.path(name))
            if not is_bookkeeping(name) and name.endswith(".tar") if self.only is None else name == self.only:
                yield name, stamp

    def is_image(self, name: str) -> bool:
        return False

    def assign(self, name: str, names: Names, ending: str, shards: bool) -> str:
        return names.other(name) if shards else f"{names.folder(name.removesuffix('.tar'), name)}/"

    def reserve(self, unit: Unit, names: Names, ending: str, shards: bool) -> None:
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
                yield Entry(shard, folder or shard, ".tar", raising(error), is_image=False)
                continue
            names = Names(set())
            mode = "r:" if self.store.local is not None else "r|"
            with opened as stream, _naming(shard), _Tar.open(fileobj=stream, mode=mode) as tar:  # type: ignore[call-overload]
                tar.shard = shard
                for member in tar:
                    tar.note(member)
                    if not member.isdir():
                        path = _path_of(member, shard)
                        is_image = is_image_name(path.name)
                        if is_image and ending:
                            name = names.image(str(path), (ending, path.suffix))
                        else:
                            name = names.other(str(path)).removesuffix(path.suffix if is_image else "")
                        content = partial(self._content, tar, member, is_image)
                        yield Entry(f"{shard}:{path}", folder + name, path.suffix, content, is_image, unit=shard)

    def _content(self, tar: "_Tar", member: tarfile.TarInfo, is_image: bool) -> IO[bytes]:
        if member.islnk() and self.store.local is None:
            raise NotAFileError("is a hard link in a tar, which is followed in local tars only")
        member = tar.target_of(member)
        if member.issparse():  # a few bytes may stand for any number of them
            raise TooManyBytesError("is a sparse file in a tar, whose size may be anything; pack it as a plain one")
        if is_image and member.size > MAX_BYTES:
            raise TooManyBytesError(f"has {member.size} bytes, over the limit of {MAX_BYTES} for an image")
        if not member.isreg():
            raise NotAFileError("is a link, or not a regular file, in a tar")
        content = tar.extractfile(member)
        assert content is not None
        return content

    def compare(self, lines: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
        return 0, 0


class DamagedShardError(ValueError):
    """A shard that is not a whole tar file, or has names that no shard should have."""


def _path_of(member: tarfile.TarInfo, shard: str) -> PurePosixPath:
    path = PurePosixPath(member.name.lstrip("/"))
    if ".." in path.parts:
        raise DamagedShardError(f"source: {shard} has a member {member.name!r}, which leads out of any folder")
    return path


@contextmanager
def _naming(shard: str) -> Iterator[None]:
    """Raise errors of a damaged tar file as one that names the shard."""
    try:
        yield
    except (tarfile.TarError, OverflowError, RecursionError) as error:  # the last two: absurd offsets, endless headers
        raise DamagedShardError(
            f"source: {shard} is not a whole tar file ({error}); fetch it again, or leave it out"
        ) from error


_HEADERS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


class _Member(tarfile.TarInfo):
    """A member whose header is damaged is an error: tarfile itself takes it for the end of the file."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _HEADERS and self.size > 1 << 20:  # which tarfile would read into memory
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
        forward = member.offset_data <= tar.offset < 1 << 60  # or tarfile would go back, and around forever
        if member.size < 0 or not forward:
            raise tarfile.ReadError(f"a member of {member.size} bytes")
        return member


class _Content(tarfile.ExFileObject):
    """The content of a member, which may end too early when it is read."""

    def __init__(self, tar: "_Tar", member: tarfile.TarInfo) -> None:
        super().__init__(tar, member)
        self._tar = tar

    def read(self, size: int | None = -1) -> bytes:
        with _naming(self._tar.shard):
            return super().read(size)


class _Tar(tarfile.TarFile):
    shard = ""
    tarinfo = _Member
    fileobject = _Content

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._targets: dict[str | None, tarfile.TarInfo] = {}
        super().__init__(*args, **kwargs)

    def note(self, member: tarfile.TarInfo) -> None:
        """Note a member, so that hard links after it find it: tarfile would search all members for each."""
        if member.isreg() or member.islnk():
            self._targets[posixpath.normpath(member.name)] = self._targets.get(_linked(member), member)

    def target_of(self, member: tarfile.TarInfo) -> tarfile.TarInfo:
        """Return the member that a hard link leads to, and any other member itself.

        Raises:
            NotAFileError: if it leads to nothing before it.
        """
        target = self._targets.get(_linked(member), member)
        if target.islnk():
            raise NotAFileError(f"is a link in a tar to a file that is not there ({member.linkname!r})")
        return target


def _linked(member: tarfile.TarInfo) -> str | None:
    return posixpath.normpath(member.linkname) if member.islnk() else None
