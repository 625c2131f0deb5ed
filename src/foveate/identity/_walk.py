"""The walk through an object and everything it holds."""

import contextlib
import dataclasses
import functools
import hashlib
import logging
import types
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from foveate.identity._code import (
    is_closure,
    is_installed,
    is_setting,
    is_top_level,
    names_read,
    path_of,
    unwrapped,
    version_of,
)
from foveate.identity._values import (
    SEQUENCES,
    IdentityError,
    array_identity,
    plain_identity,
    refusal,
    script_identity,
)

_CODE = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodWrapperType)
_DESCRIPTORS = (property, staticmethod, classmethod, functools.cached_property)
_NOT_CODE = (  # prefixes of what Python adds to a class
    *("__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__firstlineno__", "__static_attributes__"),
    *("_abc_", "__abstractmethods__", "__parameters__", "__dataclass_", "__match_args__", "__annotat", "__slots__"),
)
_HEAP_TYPE = 1 << 9  # CPython's flag of types made by a class statement
# Attributes of a module that have no part in its answers, its mode among them; all others are its state.
_BOOKKEEPING = vars(nn.Module()).keys() - {
    *("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")
} | {
    *("_compiled_call_impl", "_is_torch_compile", "_compile_kwargs"),  # set by torch.compile
    # Set by Lightning; a module in training refers to the trainer, the data and the loggers.
    *("_trainer", "_fabric", "_fabric_optimizers", "_device", "_device_mesh", "_current_fx_name", "_compiler_ctx"),
}


class Description:
    """One walk through an object and what it holds; ``name`` is always for errors.

    Args:
        lenient: whether lambdas, closures and objects of any class have an identity, by their code and all they hold.
    """

    def __init__(self, *, lenient: bool) -> None:
        self.lenient = lenient
        self._open: dict[int, int] = {}
        self._done: dict[int, tuple[object, str]] = {}  # with the object, so that its id is not given to another

    def of(self, thing: Any, name: str) -> str:
        """Describe any object."""
        text = None if isinstance(thing, type) else plain_identity(thing, name)
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

    def object(self, thing: object, state: Mapping[str, object], name: str) -> str:
        """Describe an object by its class and its state."""
        parts = ", ".join(f"{key}={self.of(value, f'{name}.{key}')}" for key, value in state.items())
        return f"{self._class(type(thing), name)}({parts})"

    def _compound(self, thing: Any, name: str) -> str:
        if type(thing) in SEQUENCES or _is_named_tuple(thing):
            return self._sequence(thing, name)
        if isinstance(thing, Mapping):
            return self._mapping(thing, name)
        if isinstance(thing, types.ModuleType):
            return thing.__name__
        if isinstance(thing, functools.partial):
            return self.object(thing, {"func": thing.func, "args": thing.args, "keywords": thing.keywords}, name)
        if isinstance(thing, types.MethodType):
            return f"{self.of(thing.__self__, name)}.{self._member(thing.__func__, name)}"
        if isinstance(thing, _CODE):
            return self._function_or_class(thing, name)
        if isinstance(thing, nn.Module):
            return self._module(thing, name) if self.lenient else structure(thing)
        if dataclasses.is_dataclass(thing):
            return self.object(thing, _state(thing), name)
        return self._instance(thing, name)

    def _sequence(self, thing: Any, name: str) -> str:
        items = [self.of(item, f"{name}[{k}]") for k, item in enumerate(thing)]
        if isinstance(thing, set | frozenset):
            return "{" + ", ".join(sorted(items)) + "}"
        return f"{type(thing).__qualname__ if _is_named_tuple(thing) else ''}({', '.join(items)})"

    def _mapping(self, thing: Mapping[Any, Any], name: str) -> str:
        pairs = [(self.of(k, f"{name} key"), self.of(v, f"{name}[{k!r}]")) for k, v in thing.items()]
        pairs = pairs if isinstance(thing, OrderedDict) else sorted(pairs)
        kind = "" if type(thing) is dict else self._class(type(thing), name)
        return kind + "{" + ", ".join(f"{key}: {value}" for key, value in pairs) + "}"

    def _class(self, kind: type, name: str) -> str:
        """Describe a class by its name and, if it is the user's, by the code of it and its bases."""
        if is_installed(kind):
            return kind.__qualname__ if kind.__module__.startswith("foveate.") else f"{path_of(kind)}{version_of(kind)}"
        return self.of(kind, name)

    def _function_or_class(self, thing: Any, name: str) -> str:
        """Describe a function or class by its name and, if it is the user's, by its code."""
        path, top_level = path_of(thing), is_top_level(thing)
        if top_level and is_installed(thing):
            return f"{path}{version_of(thing)}"
        if isinstance(thing, types.BuiltinFunctionType | types.MethodWrapperType):
            return f"{self.of(thing.__self__, name)}.{path}"
        if not self.lenient and not top_level and (not isinstance(thing, type) or is_closure(thing)):
            raise refusal(name, "a function or class that is not at the top level of a module")
        parts = self._class_code(thing, name) if isinstance(thing, type) else self._function_code(thing, name)
        digest = hashlib.blake2b("\0".join(parts).encode(errors="surrogatepass"), digest_size=8)
        return f"{path} {digest.hexdigest()}"

    def _class_code(self, kind: type, name: str) -> Iterator[str]:
        for base in kind.__bases__:
            yield self._inside._class(base, name)
        for key, value in sorted(vars(kind).items(), key=lambda item: item[0]):
            if not key.startswith(_NOT_CODE) and not issubclass(kind, torch.fx.GraphModule):  # whose code is its state
                yield from (f"{key} {self._inside._member(part, f'{name}.{key}')}" for part in unwrapped(value))

    def _member(self, value: Any, name: str) -> str:
        """Describe an attribute of a class: a method by its code, whatever its own name is."""
        if isinstance(value, types.FunctionType):
            return " ".join(self._function_code(value, name))
        try:
            return self.of(value, name)
        except IdentityError:
            return type(value).__qualname__  # a descriptor of some library, for example

    def _function_code(self, function: types.FunctionType, name: str) -> Iterator[str]:
        """Yield its bytecode and what it refers to: defaults, the closure, and globals that are settings or code."""
        yield from _bytecode(function.__code__)
        references = [function.__defaults__, function.__kwdefaults__, getattr(function, "__wrapped__", None)]
        for cell in function.__closure__ or ():
            with contextlib.suppress(ValueError):  # if it is still empty
                references.append(cell.cell_contents)
        global_names = sorted(names_read(function.__code__) & function.__globals__.keys())
        references += [value for value in map(function.__globals__.__getitem__, global_names) if is_setting(value)]
        yield from (self._inside.of(value, name) for value in references)

    @property
    def _inside(self) -> "Description":
        """The walk through what code refers to, where every object has an identity by all it holds."""
        if self.lenient:
            return self
        inside = Description(lenient=True)
        inside._open = self._open
        return inside

    def _module(self, module: nn.Module, name: str) -> str:
        """Describe a network by its class, weights, buffers, settings and hooks, and its submodules by theirs."""
        if any(base.__module__.startswith("torchmetrics.") for base in type(module).__mro__):
            return path_of(type(module))  # its state counts the answers, which do not depend on it
        if isinstance(module, torch.jit.ScriptModule):
            return f"{path_of(type(module))} {script_identity(module)}"
        state = {key: value for key, value in vars(module).items() if key not in _BOOKKEEPING and value is not None}
        for key in ("_forward_hooks", "_forward_pre_hooks"):
            state[key] = tuple(state[key].values())  # their keys count the hooks of the process
        state["_modules"] = tuple(module._modules.items())  # in order, as a Sequential runs them
        if isinstance(module, torch.fx.GraphModule):
            state = {key: state[key] for key in ("_parameters", "_buffers", "_modules")} | {"code": module.code}
        return self.object(module, state, name)

    def _instance(self, thing: Any, name: str) -> str:
        """Describe an object of any class by everything it holds."""
        if not self.lenient:
            raise refusal(name, f"an object of class {type(thing).__qualname__}")
        if isinstance(thing, logging.Logger | weakref.ref) or type(thing).__module__ in ("_thread", "threading"):
            return type(thing).__qualname__  # no answer depends on these
        if isinstance(thing, torch.Generator):
            return f"Generator {array_identity(thing.get_state())}"
        if isinstance(thing, _DESCRIPTORS):
            return ", ".join(self._member(part, name) for part in unwrapped(thing))
        state = _state(thing)
        if not state and not type(thing).__flags__ & _HEAP_TYPE:
            try:
                state = {"reduced": thing.__reduce_ex__(4)}
            except TypeError as error:
                raise refusal(name, f"a {type(thing).__qualname__}, which shows none of its state,") from error
        return self.object(thing, state, name)


def structure(thing: object) -> str:
    """Return the class of an object and 16 hexadecimal digits of everything it holds, its functions by their code.

    For networks and other objects that are identified by their parts, whatever these are: a lambda in a network is
    identified by its code.

    Raises:
        IdentityError: if it holds an object that shows none of its state.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> before = structure(net)
        >>> _ = net.weight.data.add_(1)
        >>> structure(net) == before, structure(net.eval()) == structure(net.train())
        (False, True)
    """
    while type(thing).__name__ == "OptimizedModule":  # compiled by torch.compile
        thing = thing._orig_mod  # type: ignore[attr-defined]
    text = Description(lenient=True).of(thing, type(thing).__name__)
    return f"{type(thing).__name__}({hashlib.blake2b(text.encode(), digest_size=8).hexdigest()})"


def _is_named_tuple(thing: object) -> bool:
    return isinstance(thing, tuple) and hasattr(thing, "_fields")


def _bytecode(code: types.CodeType) -> Iterator[str]:
    yield f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {code.co_freevars} {code.co_flags}"
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _bytecode(constant)
        else:
            yield Description(lenient=False).of(constant, "constant")


def _state(thing: object) -> dict[str, object]:
    """Return everything an object holds, except for what is derived from the rest."""
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
