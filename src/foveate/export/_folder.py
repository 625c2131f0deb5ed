"""Folders of images as sources."""

import errno
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import IO, Any

from foveate.export._layout import is_bookkeeping
from foveate.export._names import Names
from foveate.export._plan import Unit
from foveate.export._source import Entry, TooManyBytesError, raising, stamped
from foveate.export._stamps import DENIED, size_of
from foveate.export._store import Store
from foveate.export._suffixes import is_image_name
from foveate.images import MAX_BYTES


@dataclass
class Folder:
    """Files below a folder, however deep; if all images lie in subfolders, the topmost of these is their class."""

    store: Store
    classes: tuple[str, ...] = ()
    whole: bool = False
    numbered: bool = False
    unit: str = "file"

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
                if self.is_image(name):
                    folder, slash, _ = name.partition("/")
                    labeled = labeled and bool(slash)
                    classes.add(folder)
                yield name, stamp

        yield from stamped(self.store, listed())
        self.classes = tuple(sorted(classes)) if labeled else ()

    def is_image(self, name: str) -> bool:
        return is_image_name(name)

    def assign(self, name: str, names: Names, ending: str, shards: bool) -> str:
        if not self.is_image(name):
            return names.other(name)
        if not ending and not shards:
            return names.other(name).removesuffix(PurePosixPath(name).suffix)
        return names.image(name, self._endings(name, ending, shards), not shards)

    def reserve(self, unit: Unit, names: Names, ending: str, shards: bool) -> None:
        names.keep(unit.stem, self._endings(unit.name, ending, shards) if self.is_image(unit.name) else ("",))

    def _endings(self, name: str, ending: str, shards: bool) -> set[str]:
        suffix = PurePosixPath(name).suffix
        return {ending or suffix, suffix, *([".cls"] if shards else [])}

    def entries(self, units: Sequence[Unit], ending: str) -> Iterator[Entry]:
        numbers = {name: k for k, name in enumerate(self.classes)}
        for name, stem, stamp in units:
            is_image = self.is_image(name)
            label = numbers.get(name.partition("/")[0]) if is_image else None
            opened: Callable[[], IO[bytes]]
            opened = partial(self._read, name, stamp) if is_image else partial(self.store.open, name)
            if stamp == DENIED:
                opened = raising(PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
            yield Entry(name, stem, PurePosixPath(name).suffix, opened, is_image, label)

    def _read(self, name: str, stamp: str) -> IO[bytes]:
        size = self.store.size(name) if self.store.local is not None else size_of(stamp)
        if size is not None and size > MAX_BYTES:
            raise TooManyBytesError(f"has {size} bytes, over the limit of {MAX_BYTES} for an image")
        return io.BytesIO(self.store.read(name))  # behind a URL one request, where a stream takes two

    def compare(self, lines: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
        return 0, 0
