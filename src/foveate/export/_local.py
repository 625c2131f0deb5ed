"""The engine for one machine: a pool of processes, each of which is watched."""

import os
import queue
import threading
from collections.abc import Iterable

import torch

from foveate.export._plan import Part
from foveate.export._supervisor import Supervisor
from foveate.export._work import Batch, Outcomes, Report, Step, Task, Work, pickled


def run(work: Work, parts: Iterable[Part], workers: int | None = None) -> Outcomes:
    """Do parts, and yield the report of each, in the order in which they end; and before that its batches and steps.

    Processes are spawned, not forked, so that a model on a GPU does no harm; each does one part at a time.

    Args:
        work: what to do; it is sent to each process.
        parts: what it is done with.
        workers: how many processes; 0 does the work in this one, which is neither ended after ``work.timeout`` nor
            limited in its memory; None takes one per CPU.

    Raises:
        RuntimeError: if processes die at their start; at the end, if they died over a part again and again though over
            none of its images alone.
        Exception: whatever a worker raises; parts that are not finished then are done by the next run.
    """
    if workers == 0:
        yield from _run_here(work, parts)
    else:
        yield from _Pool(work, parts, cpus() if workers is None else workers).run()


def _run_here(work: Work, parts: Iterable[Part]) -> Outcomes:
    threads = torch.get_num_threads()
    try:
        worker = work.worker()
        for part in parts:
            yield from worker(Task(part))
    finally:
        torch.set_num_threads(threads)


class _Pool:
    """Watched processes, with a thread for each that gives it parts, one after another."""

    def __init__(self, work: Work, parts: Iterable[Part], count: int) -> None:
        data = pickled(work)
        self._parts, self._lock = iter(parts), threading.Lock()
        self._outcomes: queue.Queue[Report | Batch | Step | BaseException | None] = queue.Queue(2 * count)
        self._supervisors = [Supervisor(data, work.timeout) for _ in range(count)]

    def run(self) -> Outcomes:
        try:
            for supervisor in self._supervisors:
                threading.Thread(target=self._supervise, args=(supervisor,), daemon=True).start()
            running = len(self._supervisors)
            while running:
                outcome = self._outcomes.get()
                if outcome is None:
                    running -= 1
                elif isinstance(outcome, BaseException):
                    raise outcome
                else:
                    yield outcome
        finally:
            for supervisor in self._supervisors:
                supervisor.close()
        for supervisor in self._supervisors:
            for error in supervisor.lost:
                raise error

    def _supervise(self, supervisor: Supervisor) -> None:
        """Have a process do parts until there are no more, or it is closed; put what comes of them, and None."""

        def put(outcome: Report | Batch | Step | BaseException | None) -> None:
            while True:  # whoever takes it may be gone
                try:
                    return self._outcomes.put(outcome, timeout=1)
                except queue.Full:
                    if supervisor.closed:
                        return None

        try:
            while True:
                with self._lock:
                    part = next(self._parts, None)
                if part is None or supervisor.closed:
                    break
                put(supervisor(part, put))
        except BaseException as error:
            put(error)
        put(None)


def cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_share(workers: int) -> int | None:
    """Return the bytes that each of some processes may take: its share, or 4 GiB; None if the total is not known.

    What is limited is what a process may write to, of which PyTorch alone reserves one GiB, though it uses less.
    """
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path) as stream:
                total = min(total, int(stream.read()))
        except (OSError, ValueError):  # there is no such file, or it says "max"
            continue
    return max(total // max(1, workers), 4 << 30)
