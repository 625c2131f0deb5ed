"""Which source a path, a URL or a Dataset is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foveate._extras import require
from foveate.codecs import image_suffixes
from foveate.export._folder import Folder
from foveate.export._huggingface import HuggingFace
from foveate.export._items import Items
from foveate.export._layout import is_bookkeeping
from foveate.export._source import Source
from foveate.export._store import Store
from foveate.export._suffixes import suffix_of
from foveate.export._tars import Shards


def as_source(source: Any, follow_links: bool = False) -> Source:
    """Return the source that a path, a URL or a Dataset is.

    Raises:
        TypeError: if it is none of them.
        ValueError: if nothing is there.
    """
    if isinstance(source, str | Path):
        return _stored(source, follow_links)
    if isinstance(source, Mapping):
        raise TypeError(f"source: expected one Dataset, got those of {', '.join(map(str, source))}; pass one of them")
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        if hasattr(source, "features") and hasattr(source, "cast_column"):
            return HuggingFace(source, follow_links=follow_links)
        return Items(source)
    raise TypeError(
        f"source: expected a path, a URL or a map-style Dataset, got {type(source).__name__}; make a list of an "
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
        raise ValueError(f"source: {url} holds several splits; pass one of its folders")
    endings = {suffix_of(name) for name, _ in store.files() if not is_bookkeeping(name)}
    if not endings:
        if store.is_file():
            raise ValueError(f"source: {url} is neither a folder nor a .tar file")
        raise ValueError(f"source: there is no file in {url}")
    return Shards(store) if ".tar" in endings and not endings & image_suffixes() else Folder(store)
