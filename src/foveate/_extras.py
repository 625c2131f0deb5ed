"""Optional dependencies, imported when they are needed."""

import importlib
import re
from importlib.metadata import requires
from typing import Any


def require(module: str, extra: str) -> Any:
    """Return a module of the libraries that one of Foveate's extras installs.

    Raises:
        ImportError: if it is not installed, with the command that installs it.

    Example:
        >>> require("io", "codecs").__name__
        'io'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(f"{module} is not installed; {install_line(extra)}") from error


def install_line(extra: str) -> str:
    """Return the command that installs the libraries of an extra, from a clone as from a release.

    Example:
        >>> install_line("ray").startswith('pip install "ray[data]')
        True
    """
    libraries = [line.partition(";")[0].strip() for line in requires("foveate") or () if _is_of(line, extra)]
    return " ".join(["pip install", *(f'"{library}"' for library in libraries)])


def _is_of(requirement: str, extra: str) -> bool:
    return re.search(rf"extra == ['\"]{extra}['\"]", requirement) is not None
