"""How many bytes a setting saves where the classifier answers as well: the honest way to read two curves."""

from collections.abc import Sequence

import numpy as np


def saved_at_equal(rates: Sequence[float], accuracies: Sequence[float], rate: float, accuracy: float) -> float | None:
    """Return the share of bytes that a point saves against a reference curve at the same accuracy.

    The reference is what the curve reaches with at most so many bytes: a point of it that costs more and answers worse
    than another is passed over, in the reference's favour. Between its points the logarithm of the rate is linear in
    the accuracy.

    Args:
        rates: of the reference curve, in any unit, positive, in any order.
        accuracies: of the reference curve, in any unit that is better upwards.
        rate: of the point, in the curve's unit.
        accuracy: of the point.

    Returns:
        1 - rate / reference rate: positive where the point saves bytes, negative where it costs more. None where the
        point's accuracy lies outside the curve's range, so that there is nothing to compare with.

    Raises:
        ValueError: if the curve has fewer than two points or a rate is not positive.

    Example:
        >>> round(saved_at_equal([100, 400], [0.5, 0.9], rate=150, accuracy=0.7), 3)
        0.25
    """
    if len(rates) != len(accuracies) or len(rates) < 2 or min(rates) <= 0 or rate <= 0:
        raise ValueError("rates, accuracies: expected as many of each, at least two, with positive rates")
    order = np.argsort(rates)
    best = np.maximum.accumulate(np.asarray(accuracies, float)[order])
    logs = np.log(np.asarray(rates, float)[order])
    kept = np.concatenate([[True], np.diff(best) > 0])
    best, logs = best[kept], logs[kept]
    if len(best) < 2 or not best[0] <= accuracy <= best[-1]:
        return None
    return float(1 - rate / np.exp(np.interp(accuracy, best, logs)))
