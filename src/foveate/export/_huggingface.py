"""Hugging Face datasets as sources."""

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from foveate._extras import require
from foveate.export._items import Items, as_label, as_unreadable
from foveate.export._plan import Unit
from foveate.export._source import Entry, raising
from foveate.export._store import Store
from foveate.images import format_of


class HuggingFace(Items):
    """A ``datasets.Dataset`` with one column of images; one of class labels gives the labels, all others are kept.

    Args:
        dataset: the Dataset.
        store: the folder that it was saved to, if it was.
        follow_links: take images that a row names by a path, which may be any file of this machine.
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
        self.image_column, self._store, self._follow_links = images[0], store, follow_links
        self.label_column = labels[0] if labels else None
        names = dataset.features[labels[0]].names if labels else ()
        # Undecoded: the files as they were put in, whose bytes are compared.
        super().__init__(dataset.cast_column(self.image_column, library.Image(decode=False)), names)
        first = self.dataset[0][self.image_column] if len(self.dataset) else None
        if first is not None and first["bytes"] is None:
            self._open(first)  # so that an error that holds for all rows is raised at once

    @property
    def label(self) -> str:
        return super().label if self._store is None else self._store.label

    def entries(self, units: Sequence[Unit], ending: str) -> Iterator[Entry]:
        for name, stem, _ in units:
            try:
                row = dict(self.dataset[int(name)])
            except Exception as error:
                yield Entry(name, stem, "", raising(as_unreadable(error)))
                continue
            image = row.pop(self.image_column)
            label = None if self.label_column is None else as_label(row.pop(self.label_column), name)
            if image is None:
                yield Entry(name, self.placed(stem, label), "", raising(ValueError("no image")), True, label, row)
                continue
            suffix = PurePosixPath(image["path"] or "").suffix or _suffix_of(image["bytes"])
            yield Entry(name, self.placed(stem, label), suffix, partial(self._open, image), True, label, row)

    def _open(self, image: Mapping[str, Any]) -> IO[bytes]:
        if image["bytes"] is not None:
            return io.BytesIO(image["bytes"])
        path = Path(image["path"])
        folder = None if self._store is None else self._store.local
        if not self._follow_links and (folder is None or not path.resolve().is_relative_to(folder.resolve())):
            raise OutsideError(
                f"source: a row names its image by the path {path}, outside of the dataset; follow_links=True takes "
                "such files of this machine, or embed them first"
            )
        return Store(path.parent, follow_links=True).open(path.name)

    def _read_hash(self, number: int) -> str | None:
        image = self.dataset[number][self.image_column]
        if image is None:
            return None
        with self._open(image) as stream:
            return hashlib.sha256(stream.read()).hexdigest()


class OutsideError(ValueError):
    """An image that lies outside of its source."""


def _suffix_of(data: bytes) -> str:
    """The usual ending of files of an image's format; empty if it is not an image."""
    kind = format_of(data)
    if kind is None:
        return ""
    return {"jpeg": ".jpg", "tiff": ".tif", "jpeg2000": ".jp2"}.get(kind, f".{kind}")
