"""Two rate–accuracy curves compared honestly: bytes at equal accuracy, and Bjøntegaard deltas.

A curve is the accuracy that can be *reached* with at most so many bytes: a point that costs more than another and is
not more accurate is left out. So every curve rises, even if accuracy, unlike PSNR, dips from one quality to the next.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "NoOverlapError",
    "bd_accuracy",
    "bd_rate",
    "overlap",
    "rate_at",
    "saved_at_equal",
    "saved_or_beyond",
]

_Floats = npt.NDArray[np.float64]


class NoOverlapError(ValueError):
    """Two curves have no accuracy (or no rate) in common, so they cannot be compared.

    Attributes:
        side: 1 if the whole test curve is on the better side, -1 if it is on the worse; 0 if that is not known.
    """

    def __init__(self, reason: str, side: int) -> None:
        super().__init__(reason)
        self.side = side


def saved_at_equal(rates: Sequence[float], accuracies: Sequence[float], rate: float, accuracy: float) -> float | None:
    """Return the share of bytes that a point saves against a reference curve at the same accuracy.

    Between the reference's points the logarithm of the rate is linear in the accuracy.

    Args:
        rates: of the reference curve, in any unit, positive, in any order.
        accuracies: of the reference curve, in any unit, higher is better.
        rate: of the point, in the curve's unit.
        accuracy: of the point.

    Returns:
        1 - rate / reference rate: positive if the point saves bytes, negative if it costs more. None if the point's
        accuracy is outside the curve's range.

    Raises:
        ValueError: if the curve has fewer than two points or a rate is not positive.

    Example:
        >>> round(saved_at_equal([100, 400], [0.5, 0.9], rate=150, accuracy=0.7), 3)
        0.25
    """
    saved = saved_or_beyond(rates, accuracies, rate, accuracy)
    return saved if np.isfinite(saved) else None


def saved_or_beyond(rates: Sequence[float], accuracies: Sequence[float], rate: float, accuracy: float) -> float:
    """Return what :func:`saved_at_equal` does, or on which side of the curve's range the point is.

    Args:
        rates: as for :func:`saved_at_equal`.
        accuracies: likewise.
        rate: likewise.
        accuracy: likewise.

    Returns:
        inf if the point is more accurate than the whole curve, -inf if it is less accurate, NaN if the curve does not
        rise.

    Raises:
        ValueError: as :func:`saved_at_equal` does.

    Example:
        >>> saved_or_beyond([100, 400], [0.5, 0.9], rate=150, accuracy=0.95)
        inf
    """
    logs, best = _reached(rates, accuracies)
    if rate <= 0:
        raise ValueError(f"rate: expected a positive number, got {rate}")
    if len(best) < 2 or np.isnan(accuracy):
        return np.nan
    if not best[0] <= accuracy <= best[-1]:
        return np.inf if accuracy > best[-1] else -np.inf
    return float(1 - rate / np.exp(np.interp(accuracy, best, logs)))


def rate_at(rates: Sequence[float], accuracies: Sequence[float], floor: float) -> float:
    """Return the lowest rate at which a curve reaches an accuracy.

    Between points the logarithm of the rate is linear in the accuracy.

    Args:
        rates: of the curve's points, positive, in any unit and order.
        accuracies: of the points.
        floor: the accuracy to reach.

    Returns:
        The rate; that of the cheapest point if it reaches the accuracy already, infinity if no point does.

    Raises:
        ValueError: if there is no point or a rate is not positive.

    Example:
        >>> round(rate_at([100, 400], [0.5, 0.9], 0.7)), rate_at([100, 400], [0.5, 0.9], 0.95)
        (200, inf)
    """
    logs, best = _reached(rates, accuracies, least=1)
    return float(np.exp(np.interp(floor, best, logs))) if floor <= best[-1] else np.inf


def overlap(
    anchor_rates: Sequence[float],
    anchor_accuracies: Sequence[float],
    test_rates: Sequence[float],
    test_accuracies: Sequence[float],
) -> tuple[float, float]:
    """Return the lowest and the highest accuracy that both curves reach.

    Raises:
        NoOverlapError: if they have none in common.
        ValueError: if a curve has fewer than two points or a rate is not positive.

    Example:
        >>> overlap([1, 2], [0.5, 0.8], [1, 2], [0.7, 0.9])
        (0.7, 0.8)
    """
    return _common(_reached(anchor_rates, anchor_accuracies)[1], _reached(test_rates, test_accuracies)[1])


def bd_rate(
    anchor_rates: Sequence[float],
    anchor_accuracies: Sequence[float],
    test_rates: Sequence[float],
    test_accuracies: Sequence[float],
    method: str = "pchip",
) -> float:
    """Return the Bjøntegaard delta rate: how much more the test curve needs, on average at equal accuracy.

    The logarithm of the rate is interpolated over the accuracy, piecewise cubic, and the difference averaged over the
    accuracies that both curves reach (Bjøntegaard, VCEG-M33, 2001; piecewise as in JCTVC-L1100).

    Args:
        anchor_rates: in any unit, positive, in any order.
        anchor_accuracies: in any unit, higher is better.
        test_rates: in the anchor's unit.
        test_accuracies: in the anchor's unit.
        method: ``"pchip"`` or ``"akima"``, the interpolation (of SciPy).

    Returns:
        A share: -0.1 if the test curve needs 10 % fewer bytes.

    Raises:
        NoOverlapError: if no accuracy is reached by both, or a curve reaches only one.
        ValueError: if a curve has fewer than two points, a rate is not positive, or there is no such method.

    Example:
        >>> accuracies = [0.6, 0.8, 0.9, 0.95]
        >>> round(bd_rate([100, 200, 400, 800], accuracies, [90, 180, 360, 720], accuracies), 6)
        -0.1
    """
    logs, best = _reached(anchor_rates, anchor_accuracies)
    test_logs, test_best = _reached(test_rates, test_accuracies)
    low, high = _common(best, test_best)
    cubic = _interpolation(method)
    gap = cubic(test_best, test_logs).integrate(low, high) - cubic(best, logs).integrate(low, high)
    return float(np.exp(gap / (high - low)) - 1)


def bd_accuracy(
    anchor_rates: Sequence[float],
    anchor_accuracies: Sequence[float],
    test_rates: Sequence[float],
    test_accuracies: Sequence[float],
    method: str = "pchip",
) -> float:
    """Return the Bjøntegaard delta accuracy: how much better the test curve answers, on average at equal rate.

    The accuracy is interpolated over the logarithm of the rate, piecewise cubic, and the difference averaged over the
    rates that both curves have.

    Args:
        anchor_rates: as for :func:`bd_rate`, like all other arguments.

    Returns:
        In the unit of the accuracies, positive if the test curve answers better.

    Raises:
        NoOverlapError: if the curves have no rates in common.
        ValueError: as :func:`bd_rate` does.

    Example:
        >>> rates = [100, 200, 400, 800]
        >>> round(bd_accuracy(rates, [0.6, 0.8, 0.9, 0.95], rates, [0.61, 0.81, 0.91, 0.96]), 6)
        0.01
    """
    logs, best = _reached(anchor_rates, anchor_accuracies, rising=False)
    test_logs, test_best = _reached(test_rates, test_accuracies, rising=False)
    low, high = max(logs[0], test_logs[0]), min(logs[-1], test_logs[-1])
    if not low < high:
        raise NoOverlapError("the curves have no rates in common", 0)
    cubic = _interpolation(method)
    gap = cubic(test_logs, test_best).integrate(low, high) - cubic(logs, best).integrate(low, high)
    return float(gap / (high - low))


def _reached(
    rates: Sequence[float], accuracies: Sequence[float], rising: bool = True, least: int = 2
) -> tuple[_Floats, _Floats]:
    """Logarithms of the rates, and the best accuracy up to each; ``rising`` keeps only points that improve on it."""
    if len(rates) != len(accuracies) or len(rates) < least or not min(rates) > 0:
        raise ValueError(f"rates, accuracies: expected as many of each, at least {least}, with positive rates")
    order = np.lexsort((accuracies, rates))
    best = np.maximum.accumulate(np.asarray(accuracies, float)[order])
    logs = np.log(np.asarray(rates, float)[order])
    kept = np.concatenate([np.diff(logs) > 0, [True]])  # of points at one rate, the best
    best, logs = best[kept], logs[kept]
    if rising:
        kept = np.concatenate([[True], np.diff(best) > 0])
        best, logs = best[kept], logs[kept]
    return logs, best


def _common(anchor: _Floats, test: _Floats) -> tuple[float, float]:
    if len(anchor) < 2 or len(test) < 2:
        flat = "anchor" if len(anchor) < 2 else "test"
        raise NoOverlapError(f"the {flat} curve does not rise: it reaches one accuracy only", 0)
    low, high = max(anchor[0], test[0]), min(anchor[-1], test[-1])
    if not low < high:
        raise NoOverlapError(
            f"the curves have no accuracy in common: {anchor[0]:.3f} to {anchor[-1]:.3f} and {test[0]:.3f} to "
            f"{test[-1]:.3f}",
            1 if test[0] >= anchor[-1] else -1,
        )
    return float(low), float(high)


def _interpolation(method: str) -> Callable[[_Floats, _Floats], Any]:
    from scipy.interpolate import Akima1DInterpolator, PchipInterpolator

    methods = {"pchip": PchipInterpolator, "akima": Akima1DInterpolator}
    if method not in methods:
        raise ValueError(f"method: expected 'pchip' or 'akima', got {method!r}")
    return methods[method]
