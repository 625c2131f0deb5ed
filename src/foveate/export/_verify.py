"""Whether a finished export is as its manifest says."""

import hashlib
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from foveate._checks import check_count
from foveate.codecs import CodecError, codec
from foveate.export._manifest import manifest
from foveate.export._store import Store, own
from foveate.images import UNREADABLE, read


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file of a target."""

    name: str
    what: str

    def __str__(self) -> str:
        return f"{self.name}: {self.what}"


def verify(target: str | Path, *, threads: int = 4, progress: Callable[[], object] = lambda: None) -> list[Problem]:
    """Check every file of a target against the manifest, byte for byte, and decode every picture that was compressed.

    Args:
        target: of a finished export; a folder or a URL.
        threads: files that are read and decoded at once.
        progress: called after each line of the manifest that has a file.

    Returns:
        What is wrong: files that are missing, changed, of another size than they should have, cannot be decoded, or are
        not of this export. An empty list says that all is well.

    Raises:
        ValueError: if the target has no manifest, or ``threads`` is not an integer of at least 1.

    Example:
        >>> import tempfile
        >>> from foveate import Compressor
        >>> from foveate.demo import Scenes
        >>> from foveate.export import compress_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = compress_dataset(Scenes(2), folder, Compressor("jpeg:30"), workers=0)
        ...     sound = verify(folder)
        ...     _ = (Path(folder) / "00000001.jpg").write_bytes(b"")
        ...     broken = verify(folder)
        >>> sound, [problem.name for problem in broken]
        ([], ['00000001.jpg'])
    """
    threads = check_count("threads", threads)
    store = Store(target)
    shards: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    files: dict[str, dict[str, Any]] = {}
    for line in manifest(store):
        if "target" in line:
            shard, colon, member = line["target"].partition(".tar:")
            if colon:
                shards[f"{shard}.tar"][member] = line
            else:
                files[line["target"]] = line
    here = set(store.names())
    found: list[Problem] = []
    with ThreadPoolExecutor(threads, "foveate-verify") as pool:
        for problems in pool.map(partial(_file, store), files.values()):
            found += problems
            progress()
        for problems in pool.map(partial(_shard, store, progress), shards.items()):
            found += problems
    sidecars = {f"{name.rpartition('.')[0]}.json" for name in files}
    for name in sorted(here - files.keys() - shards.keys() - sidecars):
        if not own(name):
            found.append(Problem(name, "is not of this export"))
    return found


def _file(store: Store, line: dict[str, Any]) -> list[Problem]:
    try:
        data = store.read(line["target"])
    except FileNotFoundError:
        return [Problem(line["target"], "is missing")]
    return list(_checked(line, data))


def _shard(store: Store, progress: Callable[[], object], held: tuple[str, dict[str, dict[str, Any]]]) -> list[Problem]:
    shard, missing = held
    found: list[Problem] = []
    try:
        with store.open(shard) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                data = tar.extractfile(member)
                line = missing.pop(member.name, None)
                if line is not None and data is not None:
                    found += _checked(line, data.read())
                    progress()
    except FileNotFoundError:
        return [Problem(shard, "is missing")]
    except tarfile.TarError as error:
        found.append(Problem(shard, f"is no whole tar file ({error})"))
    return found + [Problem(line["target"], "is missing") for line in missing.values()]


def _checked(line: dict[str, Any], data: bytes) -> Iterator[Problem]:
    if len(data) != line["bytes"]:
        yield Problem(line["target"], f"has {len(data)} bytes, the manifest says {line['bytes']}")
    elif hashlib.sha256(data).hexdigest() != line["sha256"]:
        yield Problem(line["target"], "holds other bytes than the manifest says")
    elif line["kind"] in ("compressed", "kept"):
        try:
            height, width = _decoded_size(line, data)
        except (CodecError, *UNREADABLE) as error:
            yield Problem(line["target"], f"cannot be decoded: {error}")
            return
        scale = line["settings"]["scale"] if line["kind"] == "compressed" else 1.0
        wanted = [max(1, round(side * scale)) for side in line["size"]]
        if [height, width] != wanted:
            yield Problem(line["target"], f"is {height}x{width}, the manifest says {wanted[0]}x{wanted[1]}")


def _decoded_size(line: dict[str, Any], data: bytes) -> tuple[int, int]:
    if line["kind"] == "kept":
        pixels = read(data)
        return pixels.shape[-2], pixels.shape[-1]
    array = codec(line["settings"]["codec"]).decode(data)
    return array.shape[0], array.shape[1]
