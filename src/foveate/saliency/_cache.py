"""Saliency maps on disk: computed once, in batches, and read by any process without the network.

A cache is a folder with one subfolder for each saliency, named by a hash of its identity (weights, layer, method,
preprocessing) and Foveate's version, which holds ``saliency.json`` and shards ``*.safetensors`` of four tensors:

- ``keys`` (N, 16) uint8: the hash of each picture (:func:`foveate.images.picture_hash`), in rising order;
- ``sizes`` (N, 2) int32: height and width of its map;
- ``offsets`` (N,) int64: where its map begins in ``maps``;
- ``maps`` (bytes) uint8: the maps one after another, row by row, 255 for 1.

A shard is named by a hash of its keys and appears whole or not at all, so any number of processes may write to a cache.
"""

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from foveate import __version__
from foveate._files import write_bytes, write_text
from foveate.identity import identity, refuse_subclass
from foveate.images import check_tensor, picture_hash
from foveate.saliency._protocol import Maps, as_saliency, check_maps

_ABOUT = "saliency.json"


@dataclass(frozen=True)
class _Shard:
    """One file, mapped into memory."""

    keys: npt.NDArray[np.uint8]
    sizes: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    maps: Tensor

    @classmethod
    def open(cls, path: Path) -> "_Shard":
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            held = [file.get_tensor(name) for name in ("keys", "sizes", "offsets", "maps")]
        return cls(held[0].numpy(), held[1].numpy(), held[2].numpy(), held[3])

    def map_at(self, row: int) -> Tensor:
        height, width = (int(side) for side in self.sizes[row])
        start = int(self.offsets[row])
        return self.maps[start : start + height * width].view(1, height, width)


class MapCache:
    """The maps of one saliency in a cache folder; made where there are none yet.

    Args:
        folder: the subfolder of this saliency, see :meth:`of`.

    Raises:
        ValueError: if it holds no maps of a saliency.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.about: dict[str, Any] = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"cache: {folder} holds no saliency maps ({error})") from error
        self._lock = threading.Lock()
        self._shards: dict[str, _Shard] = {}
        self._index = _indexed([])

    @classmethod
    def of(cls, cache: str | Path, saliency: Maps) -> "MapCache":
        """Return the part of a cache that holds the maps of a saliency, made where it is missing.

        Raises:
            IdentityError: if the saliency has no identity.
        """
        saliency = as_saliency(saliency)
        text = identity(saliency, "saliency")
        name = hashlib.sha256(f"{text} foveate {__version__}".encode()).hexdigest()[:16]
        folder = Path(cache) / name
        if not (folder / _ABOUT).exists():
            folder.mkdir(parents=True, exist_ok=True)
            about = {
                "identity": text,
                "foveate": __version__,
                "uses_labels": saliency.uses_labels,
            }
            write_text(folder / _ABOUT, json.dumps(about, indent=1) + "\n")
        return cls(folder)

    def add(self, maps: Mapping[str, Tensor]) -> None:
        """Write a shard.

        Args:
            maps: by picture hash, (1, h, w) float in [0, 1]; they are rounded to 255 steps.

        Raises:
            ValueError: if something is not a map.
        """
        from safetensors.torch import save

        if not maps:
            return
        for saliency_map in maps.values():
            check_maps(saliency_map[None], 1)
        keys = sorted(maps)
        rounded = [maps[key].detach().cpu().float().mul(255).round().to(torch.uint8) for key in keys]
        counts = torch.tensor([one.numel() for one in rounded])
        tensors = {
            "keys": torch.tensor([list(bytes.fromhex(key)) for key in keys], dtype=torch.uint8),
            "sizes": torch.tensor([one.shape[-2:] for one in rounded], dtype=torch.int32),
            "offsets": counts.cumsum(0) - counts,
            "maps": torch.cat([one.flatten() for one in rounded]),
        }
        name = hashlib.sha256("".join(keys).encode()).hexdigest()[:16]
        write_bytes(self.folder / f"{name}.safetensors", save(tensors))

    def get(self, key: str) -> Tensor | None:
        """Return the map (1, h, w), uint8, of the picture with this hash, or None; newly written shards are seen."""
        found = self._look_up(key)
        if found is None and self._refresh():
            found = self._look_up(key)
        return found

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
                return shard.map_at(row)
        return None

    def _refresh(self) -> bool:
        """Take in shards that were written meanwhile; return whether there were any."""
        with self._lock:
            new = sorted(p for p in self.folder.glob("*.safetensors") if p.name not in self._shards)
            for path in new:
                self._shards[path.name] = _Shard.open(path)
            if new:  # in the order of names, so that of two maps of one picture everyone takes the same
                self._index = _indexed([self._shards[name] for name in sorted(self._shards)])
            return bool(new)


@dataclass(frozen=True)
class _Index:
    """Where the map of each picture is: parallel arrays, sorted by the first eight bytes of the hash."""

    shards: list[_Shard]
    prefixes: npt.NDArray[np.uint64]
    shard: npt.NDArray[np.int32]
    row: npt.NDArray[np.int32]


def _indexed(shards: list[_Shard]) -> _Index:
    prefixes = [np.ascontiguousarray(one.keys[:, :8]).view(">u8").ravel().astype(np.uint64) for one in shards]
    rows = [np.arange(len(one), dtype=np.int32) for one in prefixes]
    numbers = [np.full(len(one), k, np.int32) for k, one in enumerate(prefixes)]
    if not shards:
        return _Index([], np.empty(0, np.uint64), np.empty(0, np.int32), np.empty(0, np.int32))
    merged = np.concatenate(prefixes)
    order = np.argsort(merged, kind="stable")
    return _Index(shards, merged[order], np.concatenate(numbers)[order], np.concatenate(rows)[order])


class CachedSaliency:
    """Maps from a cache that ``foveate saliency`` or :func:`foveate.export.cache_maps` made.

    It asks no network, so it suits the workers of a DataLoader, also where the maps were made on a GPU. It is pickled
    as a path. A picture is known by its pixels: the transform that asks must come before any crop, resize or change of
    colours. Floats in [0, 1] that were made from uint8 are the same picture.

    Args:
        cache: the folder.
        identity: of the saliency, where the cache has maps of several: any part of the text in its ``saliency.json``,
            such as ``"ActivationMap"`` or a weights' hash.

    Raises:
        ValueError: if there is no such cache, or the identity does not choose one saliency in it.

    Example:
        >>> import tempfile
        >>> from foveate.export import cache_maps
        >>> from foveate.saliency import GradCam
        >>> from foveate.demo import PREPROCESS, Scenes
        >>> from foveate.images import as_tensor
        >>> scenes, cam = Scenes(2), GradCam("foveate.demo:scene_net", preprocess=PREPROCESS)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = cache_maps(scenes, folder, cam)
        ...     maps = CachedSaliency(folder)(as_tensor(scenes[0][0])[None])
        >>> maps.shape, float(maps.max())
        (torch.Size([1, 1, 20, 20]), 1.0)
    """

    def __init__(self, cache: str | Path, identity: str = "") -> None:
        self.cache, self._wanted = Path(cache), identity
        self._open()

    def _open(self) -> None:
        held = [MapCache(p.parent) for p in sorted(self.cache.glob(f"*/{_ABOUT}"))]
        fit = [one for one in held if self._wanted in one.about["identity"]]
        if len({one.about["identity"] for one in fit}) == 1:  # of several versions of Foveate: this one, or the last
            fit = [next((one for one in fit if one.about["foveate"] == __version__), fit[-1])]
        if len(fit) != 1:
            what = "; ".join(one.about["identity"] for one in held) or "none"
            asked = f" whose identity has {self._wanted!r}" if self._wanted else ""
            cure = "run 'foveate saliency' first" if not held else "choose one by identity="
            raise ValueError(f"cache: {self.cache} has {len(fit)} saliencies{asked} ({what}); {cure}")
        self._maps = fit[0]

    @property
    def identity(self) -> str:
        """That of the saliency that made the maps, and that they were rounded."""
        refuse_subclass(self, CachedSaliency)
        return f"CachedSaliency({self._maps.about['identity']}, foveate {self._maps.about['foveate']})"

    @property
    def uses_labels(self) -> bool:
        """Whether the saliency that made the maps said so."""
        return bool(self._maps.about["uses_labels"])

    def to(self, device: str | torch.device) -> Self:
        """Return this saliency: there is nothing to move, its maps go where the images are."""
        return self

    def __call__(self, images: Tensor) -> Tensor:
        """Return the maps of a batch.

        Args:
            images: (B, 3, H, W), uint8 or float in [0, 1], on any device.

        Returns:
            (B, 1, h, w) float32 in [0, 1], in steps of 1/255, on the images' device.

        Raises:
            LookupError: if a picture is not in the cache.
            TypeError, ValueError: if the images are none.
        """
        check_tensor(images)
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images: expected shape (B, 3, H, W), got {tuple(images.shape)}")
        if images.shape[0] == 0:
            return torch.empty(0, 1, 1, 1, dtype=torch.float32, device=images.device)
        return torch.stack([self._one(image) for image in images]).to(images.device).float() / 255

    def _one(self, image: Tensor) -> Tensor:
        found = self._maps.get(picture_hash(image))
        if found is None:
            height, width = image.shape[-2:]
            raise LookupError(
                f"images: {self.cache} has no map of this {height}x{width} picture; run 'foveate saliency' on it, and "
                "ask before any crop, resize or change of colours"
            )
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {"cache": self.cache, "_wanted": self._wanted}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __repr__(self) -> str:
        chosen = f", {self._wanted!r}" if self._wanted else ""
        return f"CachedSaliency({str(self.cache)!r}{chosen})"
