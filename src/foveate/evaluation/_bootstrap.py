"""Paired bootstrap over images: how much a figure would vary with other images."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from foveate.evaluation.curves import NoOverlapError

Interval = tuple[float | None, float | None]
"""Ends of a 95 % interval; None for an end that lies outside what was measured."""


class Bootstrap:
    """Resamples of n images with replacement, the same for everything that is compared: hence paired.

    (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993; the percentile interval.)

    Args:
        n: number of images.
        seed: of the draws; torch's global generator is not touched.
        resamples: their number.

    Raises:
        ValueError: if there is no image or no resample.

    Example:
        >>> draws = Bootstrap(100)
        >>> means = draws.means(torch.arange(100.0)[None])[:, 0]
        >>> low, high = interval(means)
        >>> 40 < low < 49.5 < high < 59
        True
    """

    def __init__(self, n: int, seed: int = 0, resamples: int = 1000) -> None:
        if n < 1 or resamples < 1:
            raise ValueError(f"n, resamples: expected at least 1 of each, got {n} and {resamples}")
        self.n, self.seed, self.resamples = n, seed, resamples

    def means(self, values: Tensor) -> npt.NDArray[np.float64]:
        """Return the mean of each of k quantities in each resample, the same resamples at every call.

        Args:
            values: (k, n), one value per image.

        Returns:
            (resamples, k) float64. Of counts and bytes the sums are exact, so the means are the same on every machine.
        """
        generator = torch.Generator().manual_seed(self.seed)
        columns = values.double().T
        unit = torch.ones(self.n, dtype=torch.float64)
        block = max(1, min(64, (1 << 24) // self.n))  # of at most 128 MiB
        means = []
        for begin in range(0, self.resamples, block):
            counts = torch.zeros(min(block, self.resamples - begin), self.n, dtype=torch.float64)
            for row in counts:
                row.index_add_(0, torch.randint(self.n, (self.n,), generator=generator), unit)
            means.append(counts @ columns / self.n)
        array: npt.NDArray[np.float64] = torch.cat(means).numpy()
        return array


def interval(values: npt.NDArray[np.float64]) -> Interval:
    """Return the 95 % percentile interval of a resampled figure.

    Args:
        values: one per resample; inf or -inf if the figure was outside what could be compared, on that side; NaN if it
            is unknown, which opens both ends.

    Returns:
        Its ends, None for one that lies outside what was measured.

    Example:
        >>> interval(np.array([0.1] * 50 + [0.3] * 45 + [np.inf] * 5))
        (0.1, None)
    """
    low = np.quantile(np.where(np.isnan(values), -np.inf, values), 0.025, method="lower")
    high = np.quantile(np.where(np.isnan(values), np.inf, values), 0.975, method="higher")
    return (float(low) if np.isfinite(low) else None, float(high) if np.isfinite(high) else None)


def resampled(function: Callable[[int], float], resamples: int, better: float = 1.0) -> npt.NDArray[np.float64]:
    """Return a figure in every resample, infinite where its curves have nothing in common.

    Args:
        function: the figure in resample k; it may raise :class:`NoOverlapError`.
        resamples: their number.
        better: the sign of the figure if the test curve is the better one (-1 for a BD-rate).
    """
    values = np.empty(resamples)
    for k in range(resamples):
        try:
            values[k] = function(k)
        except NoOverlapError as error:
            values[k] = better * error.side * np.inf if error.side else np.nan
    return values


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927), which is not a point where all or none succeeded.

    Args:
        successes: their number, from 0 to n.
        n: number of trials, at least 1.

    Returns:
        Both ends, in [0, 1].

    Raises:
        ValueError: if there are more successes than trials, or either is out of range.

    Example:
        >>> [round(end, 3) for end in wilson(200, 200)]
        [0.981, 1.0]
    """
    from scipy.stats import binomtest

    ends = binomtest(successes, n).proportion_ci(method="wilson")
    return float(ends.low), float(ends.high)
