"""Libraries that only some installations have."""

import importlib
from typing import Any


def require(module: str, extra: str) -> Any:
    """Import a library of an extra.

    Raises:
        ImportError: if it is not installed, with the line that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(f'{module} is not installed; pip install "foveate[{extra}]"') from error
