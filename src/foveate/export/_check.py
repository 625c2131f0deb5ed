"""Whether the files of a part in a target are as the manifest says."""

import hashlib
import math
import re
import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import IO, Any, TypeVar, cast

from foveate.codecs import as_codec, read_image
from foveate.export._choices import UNWRITTEN, Kind
from foveate.export._names import check_inside, is_reserved
from foveate.export._store import Store, copy_stream
from foveate.export._suffixes import suffix_of

T = TypeVar("T")
S = TypeVar("S")

_KINDS = tuple(kind for kind in Kind if kind not in UNWRITTEN)
"""Kinds that have lines in a manifest."""
_WAIT = 0.2
"""Seconds between two calls of ``waiting``, see :func:`in_order`."""
_IMAGES = (Kind.COMPRESSED, Kind.KEPT)


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file of a target.

    Attributes:
        name: of the file; of a member of a shard, that of the shard before a colon.
        description: what is wrong, such as ``"is missing"``.

    Example:
        >>> str(Problem("cat/1.webp", "is missing"))
        'cat/1.webp: is missing'
    """

    name: str
    description: str

    def __str__(self) -> str:
        return f"{self.name}: {self.description}"


def check_line(line: Any) -> None:
    """Check the keys and values of a line of a manifest.

    Raises:
        ValueError: if one is not as it must be, or names a file outside of its target.
    """
    if not isinstance(line, dict):
        raise ValueError(f"is {line!r:.60}, and not an object")
    _expect(line, "source", isinstance(line.get("source"), str))
    _expect(line, "kind", line.get("kind") in _KINDS)
    _expect(line, "source_bytes", line.get("source_bytes") is None or _is_count(line["source_bytes"]))
    for put in puts(line) if "target" in line else ():
        _expect(put, "target", isinstance(put.get("target"), str))
        _expect(put, "member", isinstance(put.get("member", ""), str))
        _expect(put, "bytes", _is_count(put.get("bytes")))
        _expect(put, "sha256", isinstance(put.get("sha256"), str) and re.fullmatch("[0-9a-f]{64}", put["sha256"]))
        check_inside(put["target"])
        if is_reserved(put["target"]):
            raise ValueError(f"names {put['target']}, which belongs to the bookkeeping")
    _expect(line, "label", "label" not in line or _is_count(line["label"]))
    if line["kind"] in _IMAGES:
        _expect(line, "target", "target" in line)
        size = line.get("size")
        _expect(line, "size", isinstance(size, list) and len(size) == 2 and all(_is_count(side, 1) for side in size))
    if line["kind"] == Kind.COMPRESSED:
        settings = line.get("settings")
        scale = settings.get("scale") if isinstance(settings, dict) else None
        fits = isinstance(scale, int | float) and not isinstance(scale, bool) and 0 < scale < math.inf
        _expect(line, "settings", fits and isinstance(cast(dict[str, Any], settings).get("codec"), str))


def _expect(line: Mapping[str, Any], key: str, fits: object) -> None:
    if not fits:
        raise ValueError(f"has a {key} that cannot be: {line.get(key)!r:.60}")


def _is_count(value: object, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def puts(line: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield what was written for a line, in order: the image or file, and its sidecars."""
    if "target" in line:
        yield line
        sidecars = line.get("sidecars", ())
        if not isinstance(sidecars, list | tuple) or not all(isinstance(put, Mapping) for put in sidecars):
            raise ValueError(f"has sidecars that cannot be: {sidecars!r:.60}")
        yield from sidecars


def name_of(put: Mapping[str, Any]) -> str:
    """Return the name of a file of a target; of a member, with its shard."""
    return f"{put['target']}:{put['member']}" if "member" in put else str(put["target"])


def check_files(store: Store, line: Mapping[str, Any], decode: bool) -> Iterator[Problem]:
    """Check the files of a line in a tree."""
    for put in puts(line):
        name = name_of(put)
        try:
            if store.is_link(put["target"]):
                yield Problem(name, "is a link, which no export writes")
                continue
            if store.local is not None and (size := store.size(put["target"])) != put["bytes"]:  # of any size
                yield Problem(name, f"has {size} bytes, the manifest says {put['bytes']}")
                continue
            data = store.read(put["target"])
        except FileNotFoundError:
            yield Problem(name, "is missing")
        except (OSError, ValueError) as error:
            yield Problem(name, f"cannot be read: {error}")
        else:
            yield from _check_data(line, put, data, decode and put is line)


def check_shard(
    store: Store,
    shard: str,
    lines: Sequence[Mapping[str, Any]],
    whole: tuple[int, str] | None,
    decode: bool,
    progress: Callable[[], object] = lambda: None,
) -> Iterator[Problem]:
    """Check a tar file: its bytes and SHA-256 (``whole``, if they are known), and its members, in their order."""
    expected = deque((line, put) for line in lines for put in puts(line))
    try:
        if store.is_link(shard):
            yield Problem(shard, "is a link, which no export writes")
        with store.open(shard) as stream:
            if whole is not None:
                size, digest = copy_stream(stream)
                if (size, digest) != whole:
                    yield Problem(shard, f"is not as it was written: it has {size} bytes with the SHA-256 {digest}")
                elif not decode:
                    return
        with store.open(shard) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                plain = member.isreg() and not member.issparse()
                if not expected or expected[0][1].get("member") != member.name or not plain:
                    later = next((k for k, (_, put) in enumerate(expected) if put.get("member") == member.name), None)
                    if later is None or not plain:
                        yield Problem(f"{shard}:{member.name}", "does not belong to this export")
                        continue
                    for _ in range(later):
                        yield Problem(name_of(expected.popleft()[1]), "is missing, or not in its place")
                line, put = expected.popleft()
                if member.size != put["bytes"]:
                    yield Problem(name_of(put), f"has {member.size} bytes, the manifest says {put['bytes']}")
                else:
                    data = cast(IO[bytes], tar.extractfile(member)).read()
                    yield from _check_data(line, put, data, decode and put is line)
                if put is line:
                    progress()
    except FileNotFoundError:
        yield Problem(shard, "is missing")
        return
    except tarfile.TarError as error:
        yield Problem(shard, f"is not a whole tar file ({error})")
    except (OSError, ValueError) as error:
        yield Problem(shard, f"cannot be read: {error}")
        return
    for _, put in expected:
        yield Problem(name_of(put), "is missing")


def _check_data(line: Mapping[str, Any], put: Mapping[str, Any], data: bytes, decode: bool) -> Iterator[Problem]:
    if len(data) != put["bytes"]:
        yield Problem(name_of(put), f"has {len(data)} bytes, the manifest says {put['bytes']}")
    elif hashlib.sha256(data).hexdigest() != put["sha256"]:
        yield Problem(name_of(put), "holds other bytes than were written")
    elif decode and line["kind"] in _IMAGES:
        try:
            height, width = _decoded_size(line, data)
        except Exception as error:  # a decoder may raise anything on damaged data
            yield Problem(name_of(put), f"cannot be decoded: {error}")
            return
        scale = line["settings"]["scale"] if line["kind"] == Kind.COMPRESSED else 1.0
        wanted = [max(1, round(side * scale)) for side in line["size"]]
        if [height, width] != wanted:
            yield Problem(name_of(put), f"is {height}x{width}, the manifest says {wanted[0]}x{wanted[1]}")


def _decoded_size(line: Mapping[str, Any], data: bytes) -> tuple[int, int]:
    if line["kind"] == Kind.KEPT:
        pixels = read_image(data, suffix_of(str(line.get("member", line["target"]))))
        return pixels.shape[-2], pixels.shape[-1]
    array = as_codec(line["settings"]["codec"]).decode(data)
    return array.shape[0], array.shape[1]


def in_order(
    function: Callable[[S], T],
    items: Iterable[S],
    threads: int,
    ahead: int = 64,
    waiting: Callable[[], object] | None = None,
) -> Iterator[T]:
    """Map a function by threads, in order, with a limited number of items under way, also of an endless stream.

    Args:
        function: called with each item, in a thread.
        items: taken in this thread.
        threads: how many.
        ahead: how many items may be under way.
        waiting: called in this thread now and then while it waits for a result.
    """
    with ThreadPoolExecutor(threads, "foveate-check") as pool:
        under_way: deque[Future[T]] = deque()

        def first() -> T:
            future = under_way.popleft()
            while waiting is not None and not wait([future], _WAIT).done:
                waiting()
            return future.result()

        try:
            for item in items:
                under_way.append(pool.submit(function, item))
                if len(under_way) > ahead:
                    yield first()
            while under_way:
                yield first()
        finally:
            for future in under_way:
                future.cancel()
