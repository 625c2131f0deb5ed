"""Timing several ways to do one thing in turn, so that a drift of the machine's speed does not distort the ratios."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def alternate(
    calls: Mapping[str, Callable[[], object]], repeats: int, against: str, times: int = 1
) -> dict[str, dict[str, object]]:
    """Time calls in turn, A B C A B C ...; the first round is not counted.

    Args:
        calls: by name.
        repeats: number of rounds that count.
        against: the call that the others are divided by, round by round.
        times: what to divide each call's time by, such as the number of images in a batch.

    Returns:
        By name: the median and the quartiles of the milliseconds, and of the ratio to ``against``.
    """
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            spent[name].append(1e3 * (time.perf_counter() - began) / times)
    out: dict[str, dict[str, object]] = {}
    for name, samples in spent.items():
        ratios = [a / b for a, b in zip(samples[1:], spent[against][1:], strict=True)]
        ms, ratio = quartiles(samples[1:]), quartiles(ratios)
        out[name] = {"ms": ms[1], "ms_quartiles": ms[::2], "ratio": ratio[1], "ratio_quartiles": ratio[::2]}
        out[name]["n"] = repeats
    return out


def quartiles(values: list[float]) -> list[float]:
    """Return the lower quartile, the median and the upper quartile, to four digits."""
    cuts = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return [float(f"{value:.4g}") for value in cuts]


def compare(ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> dict[str, object]:
    """Time two calls in turn and return the medians in milliseconds and the ratio ours / theirs."""
    timings = alternate({"ours": ours, "theirs": theirs}, repeats, "theirs")
    return {
        "ours_ms": timings["ours"]["ms"],
        "theirs_ms": timings["theirs"]["ms"],
        "ratio": timings["ours"]["ratio"],
        "ratio_quartiles": timings["ours"]["ratio_quartiles"],
    }
