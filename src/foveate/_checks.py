"""Checks of arguments that all settings share, and the limit on the size of an image."""

import math
import operator
from typing import Any

import numpy as np

MAX_PIXELS = 1 << 26
"""Images of more pixels (8192 x 8192) are refused, so that a small hostile file cannot fill the memory."""


def check_number(name: str, value: Any, low: float, high: float = math.inf, *, above: bool = False) -> float:
    """Return ``value`` as a float if it is a number in [low, high], or in (low, high] with ``above``.

    Raises:
        ValueError: if it is not; booleans and NaN do not count as numbers.

    Example:
        >>> check_number("scale", 1.5, 0, 1, above=True)
        Traceback (most recent call last):
        ValueError: scale: expected a number in (0, 1], got 1.5
    """
    try:
        fits = (
            not isinstance(value, bool | np.bool_ | str) and (low < value if above else low <= value) and value <= high
        )
    except (TypeError, ValueError, RuntimeError):  # from comparing a string, an array or a tensor with a number
        fits = False
    if not fits:
        ends = f"{'(' if above else '['}{low:g}, {high:g}{']' if high < math.inf else ')'}"
        raise ValueError(f"{name}: expected a number in {ends}, got {value!r}")
    return float(value)


def is_hashable(thing: object) -> bool:
    """Whether ``thing`` has a hash, which needs all its parts to have one.

    Example:
        >>> is_hashable((1, 2)), is_hashable((1, [2]))
        (True, False)
    """
    try:
        hash(thing)
    except TypeError:
        return False
    return True


def check_count(name: str, value: Any, least: int = 1) -> int:
    """Return ``value`` as an int if it is an integer, of NumPy or other libraries too, of at least ``least``.

    Raises:
        ValueError: if it is not; booleans are not integers here.

    Example:
        >>> check_count("workers", np.int64(2), 0)
        2
    """
    try:
        count = least - 1 if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        count = least - 1
    if count < least:
        raise ValueError(f"{name}: expected an integer of at least {least}, got {value!r}")
    return count
