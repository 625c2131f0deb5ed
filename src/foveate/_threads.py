"""Work on several images at once, on as many threads as torch may use in this process."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

A = TypeVar("A")
B = TypeVar("B")


def parallel_map(function: Callable[[A], B], items: Iterable[A]) -> list[B]:
    """Return ``[function(item) for item in items]``, computed on ``torch.get_num_threads()`` threads.

    The pool lives for one call, so that a process forked later does not inherit a pool without its threads. DataLoader
    workers have one torch thread each: there, this is a plain loop. It pays if ``function`` releases the GIL.

    Raises:
        Exception: the first that ``function`` raises.

    Example:
        >>> parallel_map(len, ["a", "bc"])
        [1, 2]
    """
    jobs = list(items)
    threads = min(len(jobs), torch.get_num_threads())
    if threads < 2:
        return [function(job) for job in jobs]
    with ThreadPoolExecutor(threads, "foveate") as pool:
        return list(pool.map(function, jobs))
