"""Names in a target: they stay inside it, fit into any file system, and are unique."""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import chain, count
from pathlib import PurePosixPath, PureWindowsPath
from typing import Protocol

_COMPONENT = 255
"""Bytes that a file's name may have in most file systems."""
_ROOM = 16
"""Bytes of these that are left for endings and numbers."""
_PATH = 900
"""Bytes that a whole name may have; an object's key may have 1024."""


def check_inside(name: str, drives: bool = True) -> None:
    """Raise unless a path with ``/`` stays below its folder, on any system.

    Args:
        name: the path.
        drives: whether a beginning that looks like a drive is one, as on Windows.

    Raises:
        ValueError: if it is empty, absolute or has a drive, a part that is empty or ``..``, or a NUL.

    Example:
        >>> check_inside("a/../../b")
        Traceback (most recent call last):
        ValueError: 'a/../../b' leads out of its folder
    """
    parts = name.split("/")
    if ".." in parts or name.startswith("/") or (drives and PureWindowsPath(parts[0]).drive):
        raise ValueError(f"{name!r} leads out of its folder")
    if "" in parts or "\0" in name:
        raise ValueError(f"{name!r} is not the name of a file: it has an empty part or a NUL")


def is_reserved(name: str) -> bool:
    """Whether a name in a target is kept for Foveate's bookkeeping.

    Example:
        >>> is_reserved(".foveate/plan.jsonl"), is_reserved("foveate-manifest.jsonl.gz"), is_reserved("a/.foveate")
        (True, True, False)
    """
    return name.startswith((".foveate", "foveate-"))


def proper(name: str) -> str:
    """Return a name that a target can hold, unchanged if possible.

    Components that are too long are cut and get a hash of the whole; one that is kept for bookkeeping, or that begins
    with a drive, gets an underscore.

    Raises:
        ValueError: if it leads out of its folder.

    Example:
        >>> proper("./a/b.png"), proper(".foveate.tar"), len(proper("x" * 300 + ".png"))
        ('a/b.png', '_.foveate.tar', 239)
    """
    plain = str(PurePosixPath(name))
    if plain == ".":
        return "unnamed"
    first, slash, rest = plain.partition("/")
    if first != ".." and PureWindowsPath(first).drive:
        plain = first.replace(":", "_", 1) + slash + rest
    check_inside(plain)
    if is_reserved(plain):
        plain = f"_{plain}"
    fitting = "/".join(_cut(part, _COMPONENT - _ROOM) for part in plain.split("/"))
    return fitting if len(_bytes(fitting)) <= _PATH else _cut(fitting.replace("/", "_"), _COMPONENT - _ROOM)


def _cut(text: str, size: int) -> str:
    """Cut a file's name to a number of bytes, with a hash before its ending."""
    raw = _bytes(text)
    if len(raw) <= size:
        return text
    ending = _bytes(PurePosixPath(text).suffix)
    ending = ending if len(ending) <= _ROOM else b""
    digest = f"-{hashlib.sha256(raw).hexdigest()[:12]}".encode()
    beginning = raw[: size - len(digest) - len(ending)]
    return beginning.decode("utf-8", "ignore") + (digest + ending).decode()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


class Taken(Protocol):
    """A set of names, in memory or on disk."""

    def add(self, name: str, /) -> object: ...

    def __contains__(self, name: str, /) -> bool: ...


class Names:
    """Assigns names in a target, so that no two files, and no file and folder, share one.

    Args:
        taken: holds the names that were assigned.

    Example:
        >>> names = Names(set())
        >>> names.keep_folder("a.webp/x.png")
        >>> names.image("a.png", [".webp"]), names.image("b.png", [".webp"]), names.image("b.jpg", [".webp"])
        ('a.png', 'b', 'b.jpg')
        >>> names.other("c"), names.other("c/d"), names.other("c")
        ('c', 'c_/d', 'c-2')
    """

    def __init__(self, taken: Taken) -> None:
        self._taken = taken

    def keep_folder(self, name: str) -> None:
        """Keep the folders that a name lies in from being assigned to files."""
        for folder in _folders(name):
            self._taken.add(f"{folder}/")

    def keep(self, stem: str, endings: Iterable[str] = ("",)) -> None:
        """Keep names that were assigned before."""
        self.keep_folder(stem)
        self._taken.add(f"{stem}:")
        for ending in endings:
            self._taken.add(stem + ending)

    def image(self, name: str, endings: Iterable[str], dots: bool = True) -> str:
        """Assign a name without an ending to an image: that of its file, with the file's ending if that is taken.

        Args:
            name: of the file.
            endings: of the files that may be written for it.
            dots: whether the name may have dots; in a shard the first one ends it.
        """
        path = PurePosixPath(proper(name))
        stems = (path.with_name(file if dots else file.replace(".", "_")) for file in _candidates(path))
        return self._assign((str(stem) for stem in stems), endings, is_image=True)

    def other(self, name: str) -> str:
        """Assign a name to any other file: its own, numbered if that is taken."""
        path = PurePosixPath(proper(name))
        numbered = (str(path.with_name(f"{path.stem}-{k}{path.suffix}")) for k in count(2))
        return self._assign(chain([str(path)], numbered), ("",), is_image=False)

    def folder(self, *candidates: str) -> str:
        """Assign a folder that nothing else lies in, named as one of the candidates, or numbered."""
        numbered = (f"{proper(candidates[-1])}-{k}" for k in count(2))
        for candidate in map(proper, candidates):
            if (folder := self._new_folder(candidate)) is not None:
                return folder
        return next(folder for name in numbered if (folder := self._new_folder(name)) is not None)

    def keep_own_folder(self, folder: str) -> None:
        """Keep a folder that :meth:`folder` assigned before."""
        self.keep_folder(f"{folder}/")
        self._taken.add(f"{folder}/!")

    def _new_folder(self, name: str) -> str | None:
        name = self._out_of_files(name)
        if name in self._taken or f"{name}/" in self._taken:
            return None
        self.keep_own_folder(name)
        return name

    def _assign(self, candidates: Iterator[str], endings: Iterable[str], is_image: bool) -> str:
        endings = list(endings)
        for candidate in candidates:
            candidate = self._out_of_files(candidate)
            files = [candidate + ending for ending in endings]
            if is_image:
                files.append(f"{candidate}:")  # two images of one stem would be one sample of a shard
            if not any(file in self._taken or f"{file}/" in self._taken for file in files):
                self.keep(candidate, endings)
                return candidate
        raise AssertionError("candidates do not end")

    def _out_of_files(self, name: str) -> str:
        """Rename the folders of a name that are taken by files, or kept for others."""
        parts = name.split("/")
        for k in range(len(parts) - 1):
            while (folder := "/".join(parts[: k + 1])) in self._taken or f"{folder}/!" in self._taken:
                parts[k] += "_"
        return "/".join(parts)


def _candidates(path: PurePosixPath) -> Iterator[str]:
    yield path.stem
    yield path.name
    for number in count(2):
        yield f"{path.name}-{number}"


def _folders(name: str) -> Iterator[str]:
    parts = name.split("/")[:-1]
    return ("/".join(parts[: k + 1]) for k in range(len(parts)))
