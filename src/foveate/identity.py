"""What a thing is, as one line of text: the same in every process, and another for whatever would act otherwise.

Whatever is written to a disk to be found again (maps in a cache, the records of an evaluation, an export in progress)
is bound to the :func:`identity` of all that it depends on. What has none is refused there, since its work could be
taken for that of another.
"""

import contextlib
import dataclasses
import enum
import functools
import hashlib
import importlib.metadata
import io
import logging
import re
import sys
import sysconfig
import types
import weakref
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = (type(None), bool, int, float, complex, str, bytes, range, slice, type(Ellipsis), torch.dtype, torch.device)
_SEQUENCES = (list, tuple, set, frozenset, torch.Size)
_CODE = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodWrapperType)
_WRAPPERS = (property, staticmethod, classmethod, functools.cached_property)
_OF_PYTHON = (  # what a class has beside its code
    *("__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__firstlineno__", "__static_attributes__"),
    *("_abc_", "__abstractmethods__", "__parameters__", "__dataclass_", "__match_args__", "__annotat", "__slots__"),
)
_AT = " at 0x"
_STEADY = ("builtins", "foveate", "numpy", "torch", "torchvision")
_PYTHON_CLASS = 1 << 9  # the flag of a type that was made by a class statement
# Of a module: its mode, and what has no part in its answers; all else is its state.
_BOOKKEEPING = vars(nn.Module()).keys() - {
    *("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")
} | {
    *("_compiled_call_impl", "_is_torch_compile", "_compile_kwargs"),  # by torch.compile
    # By Lightning, of which a module in training knows trainer, data and loggers.
    *("_trainer", "_fabric", "_fabric_optimizers", "_device", "_device_mesh", "_current_fx_name", "_compiler_ctx"),
}


class IdentityError(ValueError):
    """Something that cannot be told from others of its kind, where that would be taken for it."""


def identity(thing: object, name: str | None = None) -> str:
    """Return what ``thing`` is, as one line of text, equal wherever it would do the same.

    Known are, also within one another: objects with a property ``identity`` (a text), by it and their class; plain
    values, tensors and arrays; lists, tuples, sets, mappings; dataclasses, by their class and all they hold; modules,
    by their classes, weights, buffers, settings and hooks; functions and classes at the top level of a module, by their
    name, their code and the plain values, functions and classes that they read there; bound methods and
    ``functools.partial``, by their parts. Code of installed packages counts by its name and their version, that of
    Foveate, NumPy, torch and torchvision by its name.

    Args:
        thing: anything.
        name: what an error calls it; None takes its class.

    Raises:
        IdentityError: for all else, such as a lambda, a closure, or an object of a class without ``identity``.

    Example:
        >>> from foveate.models import Preprocess
        >>> identity(Preprocess(crop=8)).startswith("Preprocess(resize=None, crop=8, ")
        True
        >>> identity(lambda images: images)
        Traceback (most recent call last):
        foveate.identity.IdentityError: function: a function or class that is not at the top level of a module cannot...
    """
    return _Description(False).of(thing, name or type(thing).__name__)


def structure(thing: object) -> str:
    """Return the class of an object and 16 hexadecimal digits of all that it holds, its functions by their code.

    For networks and other objects that are known by their parts, whatever these are: a lambda in a network is told by
    its code.

    Raises:
        IdentityError: if it holds what shows none of its state.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> before = structure(net)
        >>> _ = net.weight.data.add_(1)
        >>> structure(net) == before, structure(net.eval()) == structure(net.train())
        (False, True)
    """
    while type(thing).__name__ == "OptimizedModule":  # compiled by torch.compile
        thing = thing._orig_mod  # type: ignore[attr-defined]
    digest = hashlib.blake2b(_Description(True).of(thing, type(thing).__name__).encode(), digest_size=8)
    return f"{type(thing).__name__}({digest.hexdigest()})"


def in_memory(thing: object, name: str | None = None) -> str:
    """Return the :func:`identity` of ``thing``, or, where it has none, a text that no other object has meanwhile.

    For what is not written down.

    Example:
        >>> in_memory((1, 2)), in_memory(min) == in_memory(max)
        ('(1, 2)', False)
    """
    try:
        return identity(thing, name)
    except IdentityError:
        return f"{getattr(thing, '__qualname__', type(thing).__qualname__)}{_AT}{id(thing):x}"


def is_lasting(text: str) -> bool:
    """Whether a text from :func:`in_memory` means the same in another process.

    Example:
        >>> is_lasting(in_memory((1, 2))), is_lasting(in_memory(lambda: 1))
        (True, False)
    """
    return _AT not in text


def describe(thing: object, state: Mapping[str, object]) -> str:
    """Return the identity of an object of a class that knows its state: the class, its code, and the state by name.

    For ``identity`` properties that subclasses may inherit: a class from outside this package is told by its code.

    Example:
        >>> class Threshold:
        ...     def __init__(self, at): self.at = at
        ...     identity = property(lambda self: describe(self, vars(self)))
        >>> identity(Threshold(0.5)).endswith("Threshold(at=0.5)"), identity(Threshold(1)) == identity(Threshold(2))
        (True, False)
    """
    return _Description(False).object(thing, state, type(thing).__name__)


def refuse_subclass(thing: object, of: type) -> None:
    """Raise if ``thing`` is of a class from outside this package that inherits the identity of a class in it.

    Raises:
        IdentityError: naming the cure.
    """
    if not _is_installed(type(thing)):
        raise IdentityError(
            f"{type(thing).__qualname__}: the `identity` that it inherits from {of.__name__} does not know what it "
            "adds; give it a property `identity` of its own"
        )


class _Description:
    """One walk through a thing and what it holds.

    Args:
        lenient: whether lambdas, closures and objects of any class count, by their code and all they hold.
    """

    def __init__(self, lenient: bool) -> None:
        self.lenient = lenient
        self._open: dict[int, int] = {}
        self._done: dict[int, tuple[object, str]] = {}  # with the object, lest its id be given to another

    def of(self, thing: Any, name: str) -> str:
        """Describe anything; ``name`` is for errors."""
        text = None if isinstance(thing, type) else _plain(thing, name)
        if text is not None:
            return text
        key = id(thing)
        if key in self._open:  # within itself
            return f"<{self._open[key]}>"
        if key not in self._done:
            self._open[key] = len(self._open)
            text = self._compound(thing, name)
            del self._open[key]
            if self.lenient and len(text) > 120:
                text = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()
            self._done[key] = thing, text
        return self._done[key][1]

    def _compound(self, thing: Any, name: str) -> str:
        named_tuple = isinstance(thing, tuple) and hasattr(thing, "_fields")
        if type(thing) in _SEQUENCES or named_tuple:
            items = [self.of(item, f"{name}[{k}]") for k, item in enumerate(thing)]
            if isinstance(thing, set | frozenset):
                return "{" + ", ".join(sorted(items)) + "}"
            return f"{type(thing).__qualname__ if named_tuple else ''}({', '.join(items)})"
        if isinstance(thing, Mapping):
            pairs = [(self.of(k, f"{name} key"), self.of(v, f"{name}[{k!r}]")) for k, v in thing.items()]
            pairs = pairs if isinstance(thing, OrderedDict) else sorted(pairs)
            kind = "" if type(thing) is dict else self._class(type(thing), name)
            return kind + "{" + ", ".join(f"{key}: {value}" for key, value in pairs) + "}"
        if isinstance(thing, types.ModuleType):
            return thing.__name__
        if isinstance(thing, functools.partial):
            return self.object(thing, {"func": thing.func, "args": thing.args, "keywords": thing.keywords}, name)
        if isinstance(thing, types.MethodType):
            return f"{self.of(thing.__self__, name)}.{self._called(thing.__func__, name)}"
        if isinstance(thing, _CODE):
            return self._code_at(thing, name)
        if isinstance(thing, nn.Module):
            return self._module(thing, name) if self.lenient else structure(thing)
        if dataclasses.is_dataclass(thing):
            return self.object(thing, _state(thing), name)
        return self._any(thing, name)

    def object(self, thing: object, state: Mapping[str, object], name: str) -> str:
        """Describe an object by its class and its state."""
        parts = ", ".join(f"{key}={self.of(value, f'{name}.{key}')}" for key, value in state.items())
        return f"{self._class(type(thing), name)}({parts})"

    def _class(self, kind: type, name: str) -> str:
        """A class by its name and, where it is the user's, the code of it and its bases."""
        if _is_installed(kind):
            return kind.__qualname__ if kind.__module__.startswith("foveate.") else f"{_path(kind)}{_version(kind)}"
        return self.of(kind, name)

    def _code_at(self, thing: Any, name: str) -> str:
        """A function or class by its name and, where it is the user's, its code."""
        path, top_level = _path(thing), _resolves(thing)
        if top_level and _is_installed(thing):
            return f"{path}{_version(thing)}"
        if isinstance(thing, types.BuiltinFunctionType | types.MethodWrapperType):
            return f"{self.of(thing.__self__, name)}.{path}"
        if not self.lenient and not top_level and (not isinstance(thing, type) or _closes_over(thing)):
            raise _refusal(name, "a function or class that is not at the top level of a module")
        parts = self._code_of_class(thing, name) if isinstance(thing, type) else self._code_of(thing, name)
        digest = hashlib.blake2b("\0".join(parts).encode(errors="surrogatepass"), digest_size=8)
        return f"{path} {digest.hexdigest()}"

    def _code_of_class(self, kind: type, name: str) -> Iterator[str]:
        for base in kind.__bases__:
            yield self._inside._class(base, name)
        for key, value in sorted(vars(kind).items(), key=lambda item: item[0]):
            if not key.startswith(_OF_PYTHON) and not issubclass(kind, torch.fx.GraphModule):  # whose code is its state
                yield from (f"{key} {self._inside._called(part, f'{name}.{key}')}" for part in _parts(value))

    def _called(self, value: Any, name: str) -> str:
        """What a class holds under a name: a method by its code, whatever its own name is."""
        if isinstance(value, types.FunctionType):
            return " ".join(self._code_of(value, name))
        try:
            return self.of(value, name)
        except IdentityError:
            return type(value).__qualname__  # some library's descriptor, say

    def _code_of(self, function: types.FunctionType, name: str) -> Iterator[str]:
        """Its bytecode, and what that refers to: defaults, the closure, and those globals that are settings or code."""
        yield from _bytecode(function.__code__)
        read = [function.__defaults__, function.__kwdefaults__, getattr(function, "__wrapped__", None)]
        for cell in function.__closure__ or ():
            with contextlib.suppress(ValueError):  # of one that is not filled yet
                read.append(cell.cell_contents)
        words = sorted(word for word in _words(function.__code__) if word in function.__globals__)
        read += [value for value in map(function.__globals__.__getitem__, words) if _is_setting(value)]
        yield from (self._inside.of(value, name) for value in read)

    @property
    def _inside(self) -> "_Description":
        """The walk through what code refers to: any object there counts by all it holds."""
        if self.lenient:
            return self
        inside = _Description(True)
        inside._open = self._open
        return inside

    def _module(self, module: nn.Module, name: str) -> str:
        """A network by its class, weights, buffers, settings and hooks, and its submodules by theirs."""
        if any(base.__module__.startswith("torchmetrics.") for base in type(module).__mro__):
            return _path(type(module))  # whose counts are of what was answered
        if isinstance(module, torch.jit.ScriptModule):
            return f"{_path(type(module))} {_archive(module)}"
        state = {key: value for key, value in vars(module).items() if key not in _BOOKKEEPING and value is not None}
        for key in ("_forward_hooks", "_forward_pre_hooks"):
            state[key] = tuple(state[key].values())  # their keys count the hooks of the process
        state["_modules"] = tuple(module._modules.items())  # in their order, in which a Sequential runs them
        if isinstance(module, torch.fx.GraphModule):
            state = {key: state[key] for key in ("_parameters", "_buffers", "_modules")} | {"code": module.code}
        return self.object(module, state, name)

    def _any(self, thing: Any, name: str) -> str:
        """An object of any class, by all that it holds."""
        if not self.lenient:
            raise _refusal(name, f"an object of class {type(thing).__qualname__}")
        if isinstance(thing, logging.Logger | weakref.ref) or type(thing).__module__ in ("_thread", "threading"):
            return type(thing).__qualname__  # which no answer depends on
        if isinstance(thing, torch.Generator):
            return f"Generator {_values(thing.get_state())}"
        if isinstance(thing, _WRAPPERS):
            return ", ".join(self._called(part, name) for part in _parts(thing))
        state = _state(thing)
        if not state and not type(thing).__flags__ & _PYTHON_CLASS:
            try:
                state = {"reduced": thing.__reduce_ex__(4)}
            except TypeError as error:
                raise _refusal(name, f"a {type(thing).__qualname__}, which shows none of its state,") from error
        return self.object(thing, state, name)


def _refusal(name: str, what: str) -> IdentityError:
    return IdentityError(
        f"{name}: {what} cannot be told from another of its kind when its work is found again on a disk; "
        "give it a property `identity`, a text that changes with all that its results depend on (or, of a function, "
        "define it at the top level of a module)"
    )


def _plain(thing: Any, name: str) -> str | None:
    """The text of what is known by its value, or states its identity itself; None for all else."""
    if type(thing) in _PLAIN or isinstance(thing, re.Pattern):
        return repr(thing)
    if isinstance(thing, np.generic):
        return f"{thing.dtype.name} {thing.item()!r}"
    if isinstance(thing, PurePath):
        return repr(str(thing))
    if isinstance(thing, enum.Enum):
        value = f"={thing.value!r}" if type(thing.value) in _PLAIN else ""
        return f"{type(thing).__qualname__}.{thing.name}{value}"
    if isinstance(thing, Tensor | np.ndarray):
        return _values(thing)
    if not hasattr(type(thing), "identity") and "identity" not in getattr(thing, "__dict__", ()):
        return None
    text = thing.identity
    if isinstance(text, str) and text:
        return text if type(thing).__module__.startswith("foveate.") else f"{type(thing).__qualname__}: {text}"
    if isinstance(thing, nn.Module):
        return None  # many a network has a layer of this name
    raise IdentityError(
        f"{name}: `identity` of the class {type(thing).__qualname__} is to be a property that gives a text, got "
        f"{type(text).__name__}"
    )


def _state(thing: object) -> dict[str, object]:
    """All that an object holds, but for what is derived from the rest."""
    fields = [field.name for field in dataclasses.fields(thing)] if dataclasses.is_dataclass(thing) else []
    slots = [name for kind in type(thing).__mro__ for name in _slots(kind) if hasattr(thing, name)]
    derived = {
        name
        for kind in type(thing).__mro__
        for name, value in vars(kind).items()
        if isinstance(value, functools.cached_property)
    }
    names = dict.fromkeys([*fields, *slots, *getattr(thing, "__dict__", ())])
    return {name: getattr(thing, name) for name in names if name not in derived and hasattr(thing, name)}


def _slots(kind: type) -> list[str]:
    slots = vars(kind).get("__slots__", ())
    return [slot for slot in ([slots] if isinstance(slots, str) else slots) if slot not in ("__dict__", "__weakref__")]


def _values(values: "Tensor | np.ndarray[Any, Any]") -> str:
    """A tensor or an array by kind, shape and values."""
    if isinstance(values, np.ndarray) and values.dtype.hasobject:
        raise IdentityError(f"an array of objects ({values.dtype}) has no values to tell it by")
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


def _archive(module: torch.jit.ScriptModule) -> str:
    """A scripted module by what it is saved as: its code and all that it holds."""
    stream = io.BytesIO()
    torch.jit.save(module, stream)
    digest = hashlib.blake2b(digest_size=8)
    with zipfile.ZipFile(stream) as archive:
        for member in sorted(archive.infolist(), key=lambda member: member.filename):
            path = member.filename.partition("/")[2]
            if "debug" not in path and not path.startswith(".data"):
                digest.update(f"{path} {member.CRC}".encode())
    return digest.hexdigest()


def _home(thing: Any) -> str:
    return getattr(thing, "__module__", None) or "torch"  # whose own functions say nothing


def _name(thing: Any) -> str:
    return str(thing.__qualname__).removeprefix("_VariableFunctionsClass.")


def _path(thing: Any) -> str:
    return f"{_home(thing)}.{_name(thing)}"


def _resolves(thing: Any) -> bool:
    """Whether a function or class is what its module has under its name."""
    place: Any = sys.modules.get(_home(thing))
    for part in _name(thing).split("."):
        place = getattr(place, part, None)
    return place is thing


def _is_installed(thing: Any) -> bool:
    """Whether the code of a class or function is of Python, of an installed package, or of this one."""
    return _home(thing).partition(".")[0] == "foveate" or _lies_among_packages(_home(thing))


def _version(thing: Any) -> str:
    """The version of the package that a class or function is of, where its name may stand for other code some day."""
    top = _home(thing).partition(".")[0]
    return "" if top in _STEADY or top in sys.stdlib_module_names else _version_of(top)


@functools.lru_cache
def _version_of(package: str) -> str:
    try:
        return f" {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:  # the package is called otherwise than its distribution
        return f" {getattr(sys.modules.get(package), '__version__', '')}".rstrip()


@functools.lru_cache(4096)
def _lies_among_packages(module: str) -> bool:
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return module.partition(".")[0] in sys.stdlib_module_names
    paths = sysconfig.get_paths()
    return any(PurePath(file).is_relative_to(paths[place]) for place in ("stdlib", "platstdlib", "purelib", "platlib"))


def _closes_over(kind: Any) -> bool:
    return isinstance(kind, type) and any(
        function.__closure__ and any(name != "__class__" for name in function.__code__.co_freevars)
        for value in vars(kind).values()
        for function in _parts(value)
        if isinstance(function, types.FunctionType)
    )


def _parts(value: Any) -> list[Any]:
    """The functions that an attribute of a class stands for; the value itself where it is of another kind."""
    if isinstance(value, property):
        return [function for function in (value.fget, value.fset) if function is not None]
    if isinstance(value, staticmethod | classmethod):
        return [value.__func__]
    return [value.func] if isinstance(value, functools.cached_property) else [value]


def _bytecode(code: types.CodeType) -> Iterator[str]:
    yield f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {code.co_freevars} {code.co_flags}"
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _bytecode(constant)
        else:
            yield _Description(False).of(constant, "constant")


def _words(code: types.CodeType) -> set[str]:
    """The names that code looks up."""
    nested = (_words(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*nested)


def _is_setting(value: Any) -> bool:
    """Whether a global that a function reads has a part in what it is: plain values, and code or objects of the user.

    Of all else (modules, files, data sets, caches) it is not known whether it has.
    """
    if type(value) in _PLAIN or isinstance(value, Tensor | np.ndarray | np.generic | enum.Enum | nn.Module):
        return True
    if isinstance(value, type | types.FunctionType):
        return not _is_installed(value)
    if type(value) in _SEQUENCES:
        return all(map(_is_setting, value))
    if type(value) is dict:
        return all(map(_is_setting, value.values()))
    return isinstance(value, functools.partial) or dataclasses.is_dataclass(value)
