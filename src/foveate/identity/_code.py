"""Functions and classes: what they are called, where they come from, and what they read."""

import dataclasses
import enum
import functools
import importlib.metadata
import sys
import sysconfig
import types
from pathlib import PurePath
from typing import Any

import numpy as np
from torch import Tensor, nn

from foveate.identity._values import PLAIN, SEQUENCES

_STABLE = ("builtins", "foveate", "numpy", "torch", "torchvision")
"""Packages whose names stand for the same code in every version."""


def module_of(thing: Any) -> str:
    """Return the name of the module that a function or class is from; torch's own functions do not say."""
    return getattr(thing, "__module__", None) or "torch"


def _name(thing: Any) -> str:
    return str(thing.__qualname__).removeprefix("_VariableFunctionsClass.")


def path_of(thing: Any) -> str:
    """Return the dotted path of a function or class."""
    return f"{module_of(thing)}.{_name(thing)}"


def is_top_level(thing: Any) -> bool:
    """Whether a function or class is what its module has under its name."""
    value: Any = sys.modules.get(module_of(thing))
    for part in _name(thing).split("."):
        value = getattr(value, part, None)
    return value is thing


def is_installed(thing: Any) -> bool:
    """Whether a class or function is from Python, an installed package, or this one."""
    return module_of(thing).partition(".")[0] == "foveate" or _is_in_packages(module_of(thing))


@functools.lru_cache(4096)
def _is_in_packages(module: str) -> bool:
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return module.partition(".")[0] in sys.stdlib_module_names
    paths = sysconfig.get_paths()
    return any(PurePath(file).is_relative_to(paths[place]) for place in ("stdlib", "platstdlib", "purelib", "platlib"))


def version_of(thing: Any) -> str:
    """Return a space and the version of the package that a class or function is from; empty for stable packages."""
    package = module_of(thing).partition(".")[0]
    return "" if package in _STABLE or package in sys.stdlib_module_names else _package_version(package)


@functools.lru_cache
def _package_version(package: str) -> str:
    try:
        return f" {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:  # the distribution has another name than the package
        return f" {getattr(sys.modules.get(package), '__version__', '')}".rstrip()


def is_closure(kind: Any) -> bool:
    """Whether a method of a class reads variables of a function around the class."""
    return isinstance(kind, type) and any(
        function.__closure__ and any(name != "__class__" for name in function.__code__.co_freevars)
        for value in vars(kind).values()
        for function in unwrapped(value)
        if isinstance(function, types.FunctionType)
    )


def unwrapped(value: Any) -> list[Any]:
    """Return the functions in a property or another descriptor of a class; any other value as it is."""
    if isinstance(value, property):
        return [function for function in (value.fget, value.fset) if function is not None]
    if isinstance(value, staticmethod | classmethod):
        return [value.__func__]
    return [value.func] if isinstance(value, functools.cached_property) else [value]


def names_read(code: types.CodeType) -> set[str]:
    """Return the global names and attributes that code looks up, nested functions included."""
    nested = (names_read(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*nested)


def is_setting(value: Any) -> bool:
    """Whether a global that a function reads is part of its identity: plain values, and the user's code and objects.

    For all others (modules, files, data sets, caches) it is not known whether the function's results depend on them.
    """
    if type(value) in PLAIN or isinstance(value, Tensor | np.ndarray | np.generic | enum.Enum | nn.Module):
        return True
    if isinstance(value, type | types.FunctionType):
        return not is_installed(value)
    if type(value) in SEQUENCES:
        return all(map(is_setting, value))
    if type(value) is dict:
        return all(map(is_setting, value.values()))
    return isinstance(value, functools.partial) or dataclasses.is_dataclass(value)
