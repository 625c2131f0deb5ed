"""The identity of plain values, tensors and arrays, and of objects that state theirs."""

import enum
import hashlib
import io
import re
import zipfile
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PLAIN = (type(None), bool, int, float, complex, str, bytes, range, slice, type(Ellipsis), torch.dtype, torch.device)
SEQUENCES = (list, tuple, set, frozenset, torch.Size)


class IdentityError(ValueError):
    """An object has no identity, where it could be mistaken for another of its kind."""


def refusal(name: str, description: str) -> IdentityError:
    """Return the error for an object without an identity, with the cure."""
    return IdentityError(
        f"{name}: {description} has no identity, by which its work could be found again on a disk; give it a property "
        "`identity`, a text that changes with everything its results depend on (or, for a function, define it at the "
        "top level of a module)"
    )


def plain_identity(thing: Any, name: str) -> str | None:
    """Return the text of an object that is known by its value, or states its identity itself; None for all others."""
    if type(thing) in PLAIN or isinstance(thing, re.Pattern):
        return repr(thing)
    if isinstance(thing, np.generic):
        return f"{thing.dtype.name} {thing.item()!r}"
    if isinstance(thing, PurePath):
        return repr(str(thing))
    if isinstance(thing, enum.Enum):
        value = f"={thing.value!r}" if type(thing.value) in PLAIN else ""
        return f"{type(thing).__qualname__}.{thing.name}{value}"
    if isinstance(thing, Tensor | np.ndarray):
        return array_identity(thing)
    if not hasattr(type(thing), "identity") and "identity" not in getattr(thing, "__dict__", ()):
        return None
    text = thing.identity
    if isinstance(text, str) and text:
        return text if type(thing).__module__.startswith("foveate.") else f"{type(thing).__qualname__}: {text}"
    if isinstance(thing, nn.Module):
        return None  # many networks have a layer of this name
    raise IdentityError(
        f"{name}: expected `identity` of the class {type(thing).__qualname__} to be a property that returns a text, "
        f"got {type(text).__name__}"
    )


def array_identity(values: "Tensor | np.ndarray[Any, Any]") -> str:
    """Return the class, dtype and shape of a tensor or an array, and a hash of its values."""
    if isinstance(values, np.ndarray) and values.dtype.hasobject:
        raise IdentityError(f"an array of objects ({values.dtype}) has no values to identify it by")
    if isinstance(values, Tensor) and nn.parameter.is_lazy(values):
        return type(values).__name__
    kind = type(values).__name__
    if isinstance(values, Tensor):
        dense = values.detach()
        dense = (dense.dequantize() if dense.is_quantized else dense.to_dense()).cpu().contiguous().resolve_conj()
        raw = dense.resolve_neg().flatten().view(torch.uint8).numpy().data if dense.numel() else b""
        shape = tuple(values.shape)
    else:
        raw, shape = np.ascontiguousarray(values).data, values.shape
    return f"{kind} {values.dtype} {shape} {hashlib.blake2b(raw, digest_size=8).hexdigest()}"


def script_identity(module: torch.jit.ScriptModule) -> str:
    """Return a hash of a scripted module as it is saved: its code and everything it holds."""
    stream = io.BytesIO()
    torch.jit.save(module, stream)
    digest = hashlib.blake2b(digest_size=8)
    with zipfile.ZipFile(stream) as archive:
        for member in sorted(archive.infolist(), key=lambda member: member.filename):
            path = member.filename.partition("/")[2]
            if "debug" not in path and not path.startswith(".data"):
                digest.update(f"{path} {member.CRC}".encode())
    return digest.hexdigest()
