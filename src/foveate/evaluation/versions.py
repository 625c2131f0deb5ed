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
    """Versions of Python, Foveate and the libraries a result can depend on; those not installed are left out.

    Example:
        >>> "torch" in versions()
        True
    """
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
