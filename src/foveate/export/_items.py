"""Map-style Datasets as sources."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from foveate._checks import check_count
from foveate.export._names import Names, proper
from foveate.export._plan import Unit
from foveate.export._source import Entry, raising
from foveate.images import UNREADABLE, as_tensor, image_hash


class Items:
    """A map-style Dataset of images or of pairs (image, label): anything with ``[k]`` and ``len()``.

    A label is an integer; None and -1 mean that there is none.
    """

    whole = False
    numbered = True
    unit = "image"
    _compared = 8
    """Items of a finished part that are compared with what they were: comparing all would read all."""

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

    def is_image(self, name: str) -> bool:
        return True

    def assign(self, name: str, names: Names, ending: str, shards: bool) -> str:
        return f"{int(name):08}"

    def reserve(self, unit: Unit, names: Names, ending: str, shards: bool) -> None:
        pass  # a number is assigned once

    def entries(self, units: Sequence[Unit], ending: str) -> Iterator[Entry]:
        for name, stem, _ in units:
            try:
                item = self.dataset[int(name)]
            except Exception as error:
                yield Entry(name, stem, "", raising(as_unreadable(error)))
                continue
            image, label = item if _is_pair(item) else (item, None)
            label = as_label(label, name)
            pixels = as_tensor(image, f"image {name}")
            yield Entry(name, self.placed(stem, label), "", lambda pixels=pixels: pixels, True, label)  # type: ignore[misc]

    def placed(self, stem: str, label: int | None) -> str:
        """Return the name of an item in the folder of its class."""
        if label is None:
            return stem
        return f"{self._folders[label] if label < len(self._folders) else label}/{stem}"

    def compare(self, lines: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
        agree = differ = 0
        for line in lines:
            if "source_sha256" in line and int(line["source"]) < len(self.dataset) and agree + differ < self._compared:
                same = line["source_sha256"] == self._hash(int(line["source"]))
                agree, differ = agree + same, differ + (not same)
        return agree, differ

    def _hash(self, number: int) -> str | None:
        """The hash of an item's image; None if it cannot be read."""
        try:
            return self._read_hash(number)
        except Exception:  # a Dataset may raise anything
            return None

    def _read_hash(self, number: int) -> str | None:
        item = self.dataset[number]
        return image_hash(as_tensor(item[0] if _is_pair(item) else item))


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple | list) and len(item) == 2


def as_unreadable(error: Exception) -> Exception:
    """Return what a Dataset raised instead of an image as one of the errors of unreadable images."""
    if isinstance(error, UNREADABLE):
        return error
    return ValueError(f"{type(error).__name__}: {error}")


def as_label(value: Any, name: str) -> int | None:
    """Return the class number of item ``name``; None if it has none, for which -1 is the usual mark."""
    if value is None:
        return None
    number = check_count(f"label of item {name}", int(value) if isinstance(value, bool | np.bool_) else value, -1)
    return None if number == -1 else number


def _folders(classes: Sequence[str]) -> list[str]:
    """Name a folder for each class: by the class, if that is possible and unique."""
    plain = [name.replace("/", "_") for name in classes]
    return [
        proper(name if name not in ("", ".", "..") and plain.count(name) == 1 else f"{k}_{name}")
        for k, name in enumerate(plain)
    ]
