"""Saliency maps on disk: computed once, in batches, and read by any process without the model.

A cache is a folder with one subfolder per saliency, named by a hash of its identity (weights, layer, method,
preprocessing) and Foveate's version. It holds ``saliency.json`` and shards ``*.safetensors`` of five tensors:

- ``keys`` (N, 16) uint8: the hash of each image (:func:`foveate.images.image_hash`), in ascending order;
- ``sizes`` (N, 2) int32: height and width of its map;
- ``offsets`` (N,) int64: offset of its map in ``maps``;
- ``sums`` (N, 8) uint8: first bytes of the SHA-256 of its map;
- ``maps`` (bytes) uint8: the maps, concatenated, row by row, 255 for 1.

A shard is named by a hash of its keys and written atomically, so any number of processes may write to a cache. Its
metadata has a ``sha256`` of everything but the maps, which is checked when the shard is opened. Each map is checked
against its sum when it is requested, so a DataLoader worker reads only the maps it serves.

A shard that is damaged or has no checksums (as in earlier versions) counts as absent. It is logged, and removed when
maps are added.
"""

import hashlib
import json
import logging
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from foveate import __version__
from foveate._files import make_folder, write_bytes, write_text
from foveate.identity import identity
from foveate.saliency._protocol import Saliency, check_maps

logger = logging.getLogger(__name__)

ABOUT = "saliency.json"
_INDEX = ("keys", "sizes", "offsets", "sums")
_SUM = 8

_Stamp = tuple[int, int, int]
"""What tells a file from another that took its place: inode, size, and time of its last change."""


class _DamagedError(ValueError):
    """A cache file is damaged."""


@dataclass(frozen=True)
class _Shard:
    """One shard file, mapped into memory."""

    path: Path
    stamp: _Stamp
    keys: npt.NDArray[np.uint8]
    sizes: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    sums: npt.NDArray[np.uint8]
    maps: Tensor

    @classmethod
    def open(cls, path: Path, stamp: _Stamp) -> "_Shard":
        """Open a shard and check everything but the maps.

        Raises:
            _DamagedError: if it is damaged.
            FileNotFoundError: if it does not exist.
        """
        from safetensors import SafetensorError, safe_open

        _refuse_other_than_file(path)
        try:
            with safe_open(path, "pt") as file:
                stated = (file.metadata() or {}).get("sha256")
                if stated is None:
                    raise _DamagedError("without a checksum, as those of earlier versions")
                tensors = {name: file.get_tensor(name) for name in (*_INDEX, "maps")}
        except SafetensorError as error:
            raise _DamagedError(str(error)) from error
        if stated != _checksum(path.parent.name, tensors):
            raise _DamagedError("its checksum is that of something else")
        keys, sizes, offsets, sums = (tensors[name].numpy() for name in _INDEX)
        if path.stem != _shard_name(keys):
            raise _DamagedError("its name is that of other images")
        return cls(path, stamp, keys, sizes, offsets, sums, tensors["maps"])

    def is_sound(self, row: int) -> bool:
        """Whether a map is undamaged."""
        return _sum(self._flat(row)) == self.sums[row].tobytes()

    @cached_property
    def all_sound(self) -> bool:
        """Whether all maps are undamaged; reads the whole file, once."""
        return all(self.is_sound(row) for row in range(len(self.keys)))

    def map_at(self, row: int) -> Tensor:
        height, width = self.sizes[row].tolist()
        return self._flat(row).view(1, height, width)

    def _flat(self, row: int) -> Tensor:
        (height, width), start = self.sizes[row].tolist(), int(self.offsets[row])
        return self.maps[start : start + height * width]


def _sum(flat: Tensor) -> bytes:
    return hashlib.sha256(flat.numpy().data).digest()[:_SUM]


def _checksum(saliency: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the checksum of the folder's identity and all tensors except the map values, which have their own sums."""
    digest = hashlib.sha256(saliency.encode())
    for name in (*_INDEX, "maps"):
        digest.update(f" {name} {tensors[name].dtype} {list(tensors[name].shape)} ".encode())
        if name in _INDEX:
            digest.update(tensors[name].flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _shard_name(keys: npt.NDArray[np.uint8]) -> str:
    return hashlib.sha256(keys.tobytes().hex().encode()).hexdigest()[:16]


def _folder_name(identity: str, version: str) -> str:
    return hashlib.sha256(f"{identity} foveate {version}".encode()).hexdigest()[:16]


def _stamp(path: Path) -> _Stamp:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _refuse_other_than_file(path: Path) -> None:
    if path.exists() and not path.is_file():  # opening a FIFO would block until someone writes to it
        raise _DamagedError("not a file")


def _remove(path: Path, stamp: _Stamp) -> None:
    """Remove a damaged file, unless another process has already replaced it; a folder is only renamed."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.damaged")
    try:
        path.rename(aside)  # first, so that the file checked is the file removed
    except (FileNotFoundError, PermissionError):  # gone or not ours: it counts as absent either way
        return
    if _stamp(aside) != stamp:
        aside.replace(path)
    elif not aside.is_dir():
        aside.unlink()


def read_about(folder: Path) -> dict[str, Any]:
    """Read a folder's ``saliency.json``.

    Raises:
        _DamagedError: if it does not match the folder's name.
        FileNotFoundError: if it does not exist.
    """
    path = folder / ABOUT
    try:
        _refuse_other_than_file(path)
        about = json.loads(path.read_text(encoding="utf-8"))
        kinds = {"identity": str, "foveate": str, "uses_labels": bool}
        if not isinstance(about, dict) or any(not isinstance(about.get(name), kind) for name, kind in kinds.items()):
            raise _DamagedError("without " + ", ".join(kinds))
        if folder.name != _folder_name(about["identity"], about["foveate"]):
            raise _DamagedError("its identity is not that which the folder is named by")
    except ValueError as error:
        raise _DamagedError(
            f"cache: {path} is damaged ({error}); run 'foveate saliency' again to rewrite it"
        ) from error
    return about


class MapCache:
    """The maps of one saliency in a cache folder.

    Args:
        folder: the subfolder of this saliency, see :meth:`of`.
        whole: check all maps of a shard when one of them is requested, so that either all count as present or none: for
            a process that computes the missing ones. False checks only the requested map.

    Raises:
        ValueError: if the folder holds no saliency maps, or its ``saliency.json`` is damaged.
    """

    def __init__(self, folder: Path, *, whole: bool = False) -> None:
        self.folder, self._whole = folder.absolute(), whole  # its name is checked
        try:
            self.about = read_about(self.folder)
        except OSError as error:
            raise ValueError(f"cache: {folder} holds no saliency maps ({error})") from error
        self._lock = threading.Lock()
        self._shards: dict[str, _Shard] = {}
        self._damaged: dict[str, _Stamp] = {}
        self._index = _indexed([])

    @classmethod
    def of(cls, cache: str | Path, saliency: Saliency) -> "MapCache":
        """Return the part of a cache for a saliency, created if missing or damaged.

        Raises:
            IdentityError: if the saliency has no identity.
        """
        about: dict[str, Any] = {
            "identity": identity(saliency, "saliency"),
            "foveate": __version__,
            "uses_labels": saliency.uses_labels,
        }
        folder = Path(cache) / _folder_name(about["identity"], __version__)
        path = folder / ABOUT
        written = None
        try:
            written = read_about(folder)
            if written != about:
                logger.warning("cache: %s says %s instead of %s and is rewritten", path, written, about)
        except FileNotFoundError:
            make_folder(folder)
        except _DamagedError as error:
            logger.warning("%s", error)
            if path.is_dir():
                _remove(path, _stamp(path))
        if written != about:
            write_text(path, json.dumps(about, indent=1) + "\n")
        return cls(folder, whole=True)

    def add(self, maps: Mapping[str, Tensor]) -> None:
        """Write a shard, and remove the damaged ones.

        Args:
            maps: by image hash, (1, h, w) float in [0, 1], rounded to 255 steps.

        Raises:
            ValueError: if an item is not a map.
            OSError: if it cannot be written; its ``filename`` is the shard's.
        """
        from safetensors.torch import save

        for saliency_map in maps.values():
            check_maps(saliency_map[None], 1)
        self._refresh()
        with self._lock:
            while self._damaged:
                name, stamp = self._damaged.popitem()
                _remove(self.folder / name, stamp)
        if not maps:
            return
        keys = sorted(maps)
        rounded = [maps[key].detach().cpu().float().mul(255).round().to(torch.uint8) for key in keys]
        flat = [saliency_map.flatten() for saliency_map in rounded]
        counts = torch.tensor([len(values) for values in flat])
        tensors = {
            "keys": torch.tensor([list(bytes.fromhex(key)) for key in keys], dtype=torch.uint8),
            "sizes": torch.tensor([saliency_map.shape[-2:] for saliency_map in rounded], dtype=torch.int32),
            "offsets": counts.cumsum(0) - counts,
            "sums": torch.tensor([list(_sum(values)) for values in flat], dtype=torch.uint8),
            "maps": torch.cat(flat),
        }
        path = self.folder / f"{_shard_name(tensors['keys'].numpy())}.safetensors"
        write_bytes(path, save(tensors, {"sha256": _checksum(self.folder.name, tensors)}))

    def get(self, key: str) -> Tensor | None:
        """Return the map (1, h, w), uint8, of the image with this hash, or None; includes newly written shards.

        A damaged map counts as absent, and so does its whole shard from then on.
        """
        saliency_map = self._look_up(key)
        if saliency_map is None and self._refresh():
            saliency_map = self._look_up(key)
        return saliency_map

    def __len__(self) -> int:
        self._refresh()
        return len(self._index.prefixes)

    def _look_up(self, key: str) -> Tensor | None:
        index, raw = self._index, bytes.fromhex(key)
        prefix = np.frombuffer(raw[:8], ">u8")[0]
        first, last = (int(np.searchsorted(index.prefixes, prefix, side)) for side in ("left", "right"))
        for place in range(first, last):
            shard, row = index.shards[index.shard[place]], int(index.row[place])
            if shard.keys[row].tobytes() == raw:
                if shard.all_sound if self._whole else shard.is_sound(row):
                    return shard.map_at(row)
                self._drop(shard)
        return None

    def _drop(self, shard: _Shard) -> None:
        """Drop a shard with a damaged map."""
        with self._lock:
            if self._shards.get(shard.path.name) is shard:
                del self._shards[shard.path.name]
                self._note_damaged(shard.path, shard.stamp, "a map's checksum is that of something else")
                self._index = self._indexed_anew()

    def _refresh(self) -> bool:
        """Load newly written shards; return whether there were any."""
        with self._lock:
            new = [p for p in self.folder.glob("*.safetensors") if p.name not in self._shards and self._take_in(p)]
            if new:
                self._index = self._indexed_anew()
            return bool(new)

    def _take_in(self, path: Path) -> bool:
        try:
            stamp = _stamp(path)
            if self._damaged.get(path.name) == stamp:
                return False
            self._shards[path.name] = _Shard.open(path, stamp)
        except FileNotFoundError:  # another process has removed a damaged one
            return False
        except _DamagedError as error:
            self._note_damaged(path, stamp, str(error))
            return False
        self._damaged.pop(path.name, None)
        return True

    def _note_damaged(self, path: Path, stamp: _Stamp, why: str) -> None:
        self._damaged[path.name] = stamp
        logger.warning(
            "cache: %s is damaged (%s); its maps count as missing until 'foveate saliency' makes them anew", path, why
        )

    def _indexed_anew(self) -> "_Index":
        # Sorted by name, so that if an image has two maps, every process takes the same one.
        return _indexed([self._shards[name] for name in sorted(self._shards)])


@dataclass(frozen=True)
class _Index:
    """The location of each image's map: parallel arrays, sorted by the first eight bytes of the hash."""

    shards: list[_Shard]
    prefixes: npt.NDArray[np.uint64]
    shard: npt.NDArray[np.int32]
    row: npt.NDArray[np.int32]


def _indexed(shards: list[_Shard]) -> _Index:
    prefixes = [np.ascontiguousarray(shard.keys[:, :8]).view(">u8").ravel().astype(np.uint64) for shard in shards]
    rows = [np.arange(len(prefix), dtype=np.int32) for prefix in prefixes]
    numbers = [np.full(len(prefix), k, np.int32) for k, prefix in enumerate(prefixes)]
    if not shards:
        return _Index([], np.empty(0, np.uint64), np.empty(0, np.int32), np.empty(0, np.int32))
    merged = np.concatenate(prefixes)
    order = np.argsort(merged, kind="stable")
    return _Index(shards, merged[order], np.concatenate(numbers)[order], np.concatenate(rows)[order])
