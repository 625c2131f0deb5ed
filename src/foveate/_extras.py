"""Optional dependencies, imported when they are needed."""

import importlib
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
        raise ImportError(f'{module} is not installed; pip install "foveate[{extra}]"') from error
