"""The engine for one machine: processes that are watched, so that no picture and no death of one stops a run."""

import multiprocessing
import os
import pickle
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from typing import Any

import torch

from foveate.export._plan import Part
from foveate.export._worker import Batch, Report, Task, Work, pickled, portable

_CONTEXT = multiprocessing.get_context("spawn")

STARTS = 3
"""So often may a process die before it has begun anything."""


def run(job: Work, parts: Iterable[Part], workers: int | None = None) -> "Iterator[Report | Batch]":
    """Do parts, and yield what each came to, in the order in which they end; and before that what it gives.

    Processes are started afresh, not forked, so a model on a GPU is nothing to fear; each does one part at a time.

    Args:
        job: what to do; it is sent to each process.
        parts: what is to be done.
        workers: how many processes; 0 does the work in this one, which is neither ended after ``job.timeout`` nor
            limited in its memory; None takes one a CPU.

    Raises:
        RuntimeError: if processes die at their start; at the end, if they died over a part again and again though none
            of its pictures did that alone.
        Exception: whatever a worker raises; parts that are not finished then are done by the next run.
    """
    if workers == 0:
        threads = torch.get_num_threads()
        try:
            worker = job.worker()
            for part in parts:
                yield from worker(Task(part))
        finally:
            torch.set_num_threads(threads)
        return
    data = pickled(job)
    waiting, lock = iter(parts), threading.Lock()
    count = cpus() if workers is None else workers
    ended: queue.Queue[Report | Batch | BaseException | None] = queue.Queue(2 * count)
    supervisors = [Supervisor(data, job.timeout) for _ in range(count)]

    def work(supervisor: Supervisor) -> None:
        def put(outcome: Report | Batch | BaseException | None) -> None:
            while True:  # whoever takes it may be gone
                try:
                    return ended.put(outcome, timeout=1)
                except queue.Full:
                    if supervisor.closed:
                        return None

        try:
            while True:
                with lock:
                    part = next(waiting, None)
                if part is None or supervisor.closed:
                    break
                put(supervisor(part, put))
        except BaseException as error:
            put(error)
        put(None)

    try:
        for supervisor in supervisors:
            threading.Thread(target=work, args=(supervisor,), daemon=True).start()
        running = len(supervisors)
        while running:
            outcome = ended.get()
            if outcome is None:
                running -= 1
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                yield outcome
    finally:
        for supervisor in supervisors:
            supervisor.close()
    for supervisor in supervisors:
        for error in supervisor.lost:
            raise error


class PartLostError(RuntimeError):
    """Processes died over a part again and again, though none of its pictures did that alone."""


class Supervisor:
    """One worker process, which is watched: it is started when there is work, and anew when it has died.

    When it dies over a part, or takes too long over a picture, the part is done again; when it does so again, each of
    its entries is tried alone, and the one that ends the process alone, twice, is set aside.

    Args:
        job: a pickled :class:`Work`.
        timeout: seconds that a picture may take.
    """

    def __init__(self, job: bytes, timeout: float) -> None:
        self._job, self._timeout = job, timeout
        self._process: Any = None
        self._connection: Connection | None = None
        self.closed = False
        self.lost: list[PartLostError] = []

    def __call__(self, part: Part, give: "Callable[[Batch], object]" = lambda batch: None) -> Report:
        """Do a part; where that cannot be, note it in :attr:`lost` and report nothing done.

        Args:
            part: what is to be done.
            give: called with what it gives before it is done, with each batch once.

        Raises:
            RuntimeError: if the process dies at its start.
            Exception: whatever the worker raises.
        """
        aside: dict[int, str] = {}
        self._given, self._give = 0, give
        retries, rounds = 1, 2
        while True:
            outcome = self._ask(Task(part, aside))
            if isinstance(outcome, Report):
                return outcome
            if not outcome.late and retries:
                retries -= 1  # it may have been no fault of the part's
                continue
            culprit = self._culprit(part, aside, outcome)
            if culprit is not None and culprit.place is not None:
                aside[culprit.place] = culprit.reason
                retries, rounds = 1, 2
                continue
            rounds -= 1
            if not rounds:
                self.lost.append(_lost(part, outcome.reason))
                return Report(part.number, len(part.units))

    def _culprit(self, part: Part, aside: dict[int, str], death: "_Death") -> "_Death | None":
        """Find the entry over which the process dies alone, twice."""
        if death.late and death.place is not None and death.count == 1:
            return death  # the clock ran for that one alone
        suspect = self._ask(Task(part, aside, "all"))
        if isinstance(suspect, Report) or suspect.place is None:
            return None
        if suspect.late:
            return suspect
        again = self._ask(Task(part, aside, suspect.place))
        return None if isinstance(again, Report) else _Death(suspect.place, 1, again.reason, again.late)

    def _ask(self, task: Task) -> "Report | _Death":
        process, connection = self._started()
        with suppress(OSError):  # where it has died since, which is seen below
            connection.send(task)
        place: int | None = None
        count = 0
        until: float | None = None
        while True:
            left = None if until is None else max(0.0, until - time.monotonic())
            ready = wait_for([connection, process.sentinel], left)
            if not ready:
                process.kill()
                process.join()
                return _Death(place, count, f"it took more than {self._timeout:g} s; timeout= allows more", True)
            try:
                message = connection.recv() if connection.poll() else None
            except (EOFError, OSError):
                message = None
            if message is None:
                process.join()
                return _Death(place, count, _words(process.exitcode), False)
            if isinstance(message, tuple):
                place, count = message
                until = None if place is None else time.monotonic() + self._timeout * count
            elif isinstance(message, bytes):
                raise pickle.loads(message)
            elif isinstance(message, Batch):
                if message.number == self._given:  # those before it were given when the part was first begun
                    self._given += 1
                    self._give(message)
            else:
                report: Report = message
                return report

    def _started(self) -> tuple[Any, Connection]:
        """A process that is ready, and the connection to it."""
        process, connection = self._process, self._connection
        if process is not None and connection is not None and process.is_alive():
            return process, connection
        for _ in range(STARTS):
            self._end()
            if self.closed:
                raise RuntimeError("workers: the run was ended")
            connection, theirs = _CONTEXT.Pipe()
            process = _CONTEXT.Process(target=_serve, args=(theirs, self._job), name="foveate-worker")
            self._process, self._connection = process, connection
            process.start()
            theirs.close()
            wait_for([connection, process.sentinel])
            try:
                message = connection.recv() if connection.poll() else None
            except (EOFError, OSError):
                message = None
            if isinstance(message, bytes):
                raise pickle.loads(message)
            if message is not None:
                return process, connection
            process.join()
            code = process.exitcode
        raise RuntimeError(
            f"workers: processes die at their start (with code {code}): for want of memory, then take "
            "fewer; or the script that calls this does so outside `if __name__ == '__main__':`; or take workers=0"
        )

    def close(self) -> None:
        """End the process."""
        self.closed = True
        self._end()

    def _end(self) -> None:
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if process is not None:
            process.kill()
            process.join()
        if connection is not None:
            connection.close()


@dataclass(frozen=True)
class _Death:
    """How a process ended while it worked on an entry, or on several, or on none that is known."""

    place: int | None
    count: int
    reason: str
    late: bool


def _lost(part: Part, reason: str) -> PartLostError:
    names = f"{part.units[0].name} to {part.units[-1].name}"
    return PartLostError(
        f"workers: processes died again and again over part {part.number} ({names}), but over none of its pictures "
        f"alone ({reason}): for want of memory, then take fewer workers; all else is done, and the same command does "
        "what is left"
    )


def cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_of_each(workers: int) -> int | None:
    """Return the bytes that each of some processes may take: its share, or 4 GiB; None where that is not known.

    What is limited is what a process may write to, of which PyTorch alone asks for one GiB, though it uses less.
    """
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path) as stream:
                total = min(total, int(stream.read()))
        except (OSError, ValueError):  # there is none, or it is "max"
            continue
    return max(total // max(1, workers), 4 << 30)


def limit_memory(size: int) -> None:
    """Let this process have no more memory than so many bytes, where the system has a limit for that."""
    try:
        import resource
    except ImportError:
        return
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    size = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (size, hard))


def _words(code: int | None) -> str:
    """Say how a process ended."""
    if code is not None and code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        cause = ", as for want of memory" if name == "SIGKILL" else ""
        return f"a worker process was ended by {name} over it{cause}"
    return f"a worker process ended itself over it, with code {code}"


def _serve(connection: Connection, job: bytes) -> None:
    """Do what is asked for on a connection, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work: Work = pickle.loads(job)
        if work.memory is not None:
            limit_memory(work.memory)
        worker = work.worker(lambda place, count: connection.send((place, count)))
        connection.send(True)
    except Exception as error:
        connection.send(portable(error))
        return
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            for message in worker(task):
                connection.send(message)
        except Exception as error:
            connection.send(portable(error))


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, however it ended: or it would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for([parent.sentinel])
    os._exit(1)
