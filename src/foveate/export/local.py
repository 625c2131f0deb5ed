"""The engine for one machine: a pool of processes, in which no part is lost with the process that did it."""

import multiprocessing
import os
import pickle
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import wait as wait_for

import torch

from foveate.export._worker import DEATHS, Job, Part, Report, Worker, died, pickled

_CONTEXT = multiprocessing.get_context("spawn")
_job: bytes | None = None  # of this process, where it is one of the pool's
_worker: Worker | None = None


def run(job: Job, parts: Iterable[Part], workers: int | None = None) -> Iterator[Report]:
    """Do parts, and yield what each came to, in the order in which they end.

    Processes are started afresh, not forked, so a model on a GPU is nothing to fear. At most two parts a process are
    under way or waiting. When a process dies, the pool is made anew and its unfinished parts are done again.

    Args:
        job: what to do; it is sent to each process.
        parts: what is to be done.
        workers: how many processes; 0 does the work in this one, None takes one a CPU.

    Raises:
        RuntimeError: if processes die again and again over the same part, as for want of memory.
        Exception: whatever a worker raises; parts that are not finished then are done by the next run.
    """
    if workers == 0:
        threads = torch.get_num_threads()
        try:
            yield from map(Worker(job), parts)
        finally:
            torch.set_num_threads(threads)
        return
    workers = cpus() if workers is None else workers
    sent = pickled(job)
    waiting = iter(parts)
    again: list[Part] = []
    deaths: Counter[int] = Counter()
    while True:
        with ProcessPoolExecutor(workers, _CONTEXT, _start, (sent,)) as pool:
            under_way: dict[Future[Report], Part] = {}
            try:
                while True:
                    room = 2 * workers - len(under_way)
                    next_ones = again[:room]
                    del again[:room]
                    next_ones += islice(waiting, room - len(next_ones))
                    for part in next_ones:
                        again.append(part)  # until it is under way, as a pool that is broken takes none
                        under_way[pool.submit(_do, part)] = part
                        again.remove(part)
                    if not under_way:
                        return
                    done, _ = wait(under_way, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield future.result()
                        del under_way[future]
            except BrokenProcessPool:
                again += under_way.values()
                deaths.update(part.number for part in under_way.values())
                number, most = max(deaths.items(), key=lambda pair: pair[1], default=(0, 0))
                if most >= DEATHS:
                    part = next(part for part in again if part.number == number)
                    raise died(part) from None
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(job: bytes) -> None:
    global _job
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _job = job


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, however it ended: or it would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for([parent.sentinel])
    os._exit(1)


def _do(part: Part) -> Report:
    global _worker
    if _worker is None:  # here and not at the start, so that what goes wrong is raised to whoever waits for the part
        assert _job is not None
        _worker = Worker(pickle.loads(_job))
    return _worker(part)
