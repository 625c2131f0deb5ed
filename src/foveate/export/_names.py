"""Names in a target: they stay inside it, fit into any file system, and none is given twice."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath, PureWindowsPath
from typing import Protocol

_COMPONENT = 255
"""Bytes that a file's name may have in most file systems,"""
_ROOM = 16
"""of which so many are left for endings and numbers."""
_PATH = 900
"""Bytes of a whole name; an object's key may have 1024."""


def check_inside(name: str, drives: bool = True) -> None:
    """Raise unless a name with ``/`` leads to something below the folder that it is of, on any system.

    Args:
        name: to be checked.
        drives: whether what looks like a drive is one, as on Windows.

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
        >>> is_reserved(".foveate/plan.jsonl"), is_reserved("foveate-manifest.jsonl"), is_reserved("a/.foveate")
        (True, True, False)
    """
    return name.startswith((".foveate", "foveate-"))


def proper(name: str) -> str:
    """Return a name that a target can hold: as it is, wherever that can be.

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
    """Cut a file's name to so many bytes, with a hash in front of its ending."""
    raw = _bytes(text)
    if len(raw) <= size:
        return text
    ending = _bytes(PurePosixPath(text).suffix)
    ending = ending if len(ending) <= _ROOM else b""
    digest = f"-{hashlib.sha256(raw).hexdigest()[:12]}".encode()
    kept = raw[: size - len(digest) - len(ending)]
    return kept.decode("utf-8", "ignore") + (digest + ending).decode()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


class Taken(Protocol):
    """A set of names, in memory or on disk."""

    def add(self, name: str, /) -> object: ...

    def __contains__(self, name: str, /) -> bool: ...


class Names:
    """Gives out names in a target, so that no two files have one, and none has that of a folder.

    Args:
        taken: holds what was given out.

    Example:
        >>> names = Names(set())
        >>> names.keep_folder("a.webp/x.png")
        >>> names.picture("a.png", [".webp"]), names.picture("b.png", [".webp"]), names.picture("b.jpg", [".webp"])
        ('a.png', 'b', 'b.jpg')
        >>> names.other("c"), names.other("c/d"), names.other("c")
        ('c', 'c_/d', 'c-2')
    """

    def __init__(self, taken: Taken) -> None:
        self._taken = taken

    def keep_folder(self, name: str) -> None:
        """Keep the folders that a name lies in from being given to files."""
        for folder in _folders(name):
            self._taken.add(f"{folder}/")

    def keep(self, stem: str, endings: Iterable[str] = ("",)) -> None:
        """Keep names that were given out before."""
        self.keep_folder(stem)
        self._taken.add(f"{stem}:")
        for ending in endings:
            self._taken.add(stem + ending)

    def picture(self, name: str, endings: Iterable[str], dots: bool = True) -> str:
        """Give a picture a name without its ending: that of its file, with its ending where that is taken.

        Args:
            name: of the file.
            endings: of the files that may come of it.
            dots: whether the name may have dots, which end it in a shard.
        """
        path = PurePosixPath(proper(name))
        stems = (path.with_name(file if dots else file.replace(".", "_")) for file in _candidates(path))
        return self._give((str(stem) for stem in stems), endings, True)

    def other(self, name: str) -> str:
        """Give any other file a name: its own, or numbered where that is taken."""
        path = PurePosixPath(proper(name))
        numbered = (str(path.with_name(f"{path.stem}-{k}{path.suffix}")) for k in range(2, 1 << 62))
        return self._give(_with(str(path), numbered), ("",), False)

    def folder(self, *candidates: str) -> str:
        """Give out a folder that nothing else lies in, called by a candidate, or numbered."""
        numbered = (f"{proper(candidates[-1])}-{k}" for k in range(2, 1 << 62))
        for candidate in map(proper, candidates):
            if (folder := self._own_folder(candidate)) is not None:
                return folder
        return next(folder for name in numbered if (folder := self._own_folder(name)) is not None)

    def keep_own_folder(self, folder: str) -> None:
        """Keep a folder that :meth:`folder` gave out before."""
        self.keep_folder(f"{folder}/")
        self._taken.add(f"{folder}/!")

    def _own_folder(self, name: str) -> str | None:
        name = self._out_of_files(name)
        if name in self._taken or f"{name}/" in self._taken:
            return None
        self.keep_own_folder(name)
        return name

    def _give(self, candidates: Iterator[str], endings: Iterable[str], stem: bool) -> str:
        endings = list(endings)
        for candidate in candidates:
            candidate = self._out_of_files(candidate)
            files = [candidate + ending for ending in endings]
            if stem:
                files.append(f"{candidate}:")  # two pictures of one stem would be one sample of a shard
            if not any(file in self._taken or f"{file}/" in self._taken for file in files):
                self.keep(candidate, endings)
                return candidate
        raise AssertionError("there is no end of numbers")

    def _out_of_files(self, name: str) -> str:
        """Rename the folders of a name that files have the names of, or that are others' own."""
        parts = name.split("/")
        for k in range(len(parts) - 1):
            while (folder := "/".join(parts[: k + 1])) in self._taken or f"{folder}/!" in self._taken:
                parts[k] += "_"
        return "/".join(parts)


def _candidates(path: PurePosixPath) -> Iterator[str]:
    yield path.stem
    yield path.name
    for number in range(2, 1 << 62):
        yield f"{path.name}-{number}"


def _with(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _folders(name: str) -> Iterator[str]:
    parts = name.split("/")[:-1]
    return ("/".join(parts[: k + 1]) for k in range(len(parts)))
