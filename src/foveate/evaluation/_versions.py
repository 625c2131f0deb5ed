"""Versions of what a result can depend on."""

import platform
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = (
    "foveate",
    "torch",
    "torchvision",
    "kornia",
    "captum",
    "pillow",
    "numpy",
    "imagecodecs",
    "av",
    "pillow-heif",
)


def versions() -> dict[str, str]:
    """Return the versions of Python, Foveate and the libraries that a result can depend on, if they are installed.

    Example:
        >>> "torch" in versions()
        True
    """
    numbers = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            numbers[name] = version(name)
        except PackageNotFoundError:
            continue
    return numbers
