"""One worker process that is watched, so that neither an image nor the death of the process stops a run."""

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from typing import Any

from foveate.export._plan import Part
from foveate.export._work import Batch, Report, Step, Task, Work, portable

_CONTEXT = multiprocessing.get_context("spawn")

STARTS = 3
"""How often a process may die before it has begun anything."""


class PartLostError(RuntimeError):
    """Processes died over a part again and again, though over none of its images alone."""


class Supervisor:
    """Watches one worker process, which is started when there is work, and again when it has died.

    When it dies over a part, or takes too long over an image, the part is done again; when it does so again, each of
    the entries is tried alone, and the one that ends the process alone, twice, is set aside.

    Args:
        work: a pickled :class:`foveate.export._work.Work`.
        timeout: seconds that an image may take.

    Attributes:
        closed: whether :meth:`close` was called.
        lost: errors of parts that could not be done.
    """

    def __init__(self, work: bytes, timeout: float) -> None:
        self._work, self._timeout = work, timeout
        self._process: Any = None
        self._connection: Connection | None = None
        self._lock = threading.Lock()  # who closes is another thread, which a process that just starts must not escape
        self.closed = False
        self.lost: list[PartLostError] = []

    def __call__(self, part: Part, emit: "Callable[[Batch | Step], object]" = lambda outcome: None) -> Report:
        """Do a part; if that is impossible, note it in :attr:`lost` and report nothing done.

        Args:
            part: the part.
            emit: called once with each batch of the part, and with steps, which begin again where the part does.

        Raises:
            RuntimeError: if the process dies at its start.
            Exception: whatever the worker raises.
        """
        aside: dict[int, str] = {}
        self._emitted, self._emit = 0, emit
        retries, rounds = 1, 2
        while True:
            outcome = self._ask(Task(part, aside))
            if isinstance(outcome, Report):
                return outcome
            if not outcome.late and retries:
                retries -= 1  # the part may not be to blame
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
            return death  # the clock ran for that entry alone
        suspect = self._ask(Task(part, aside, "all"))
        if isinstance(suspect, Report) or suspect.place is None:
            return None
        if suspect.late:
            return suspect
        again = self._ask(Task(part, aside, suspect.place))
        return None if isinstance(again, Report) else _Death(suspect.place, 1, again.reason, again.late)

    def _ask(self, task: Task) -> "Report | _Death":
        process, connection = self._started()
        with suppress(OSError):  # if it has died since, which is seen below
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
                return _Death(place, count, _cause(process.exitcode), False)
            if isinstance(message, tuple):
                place, count = message
                until = None if place is None else time.monotonic() + self._timeout * count
            elif isinstance(message, bytes):
                raise pickle.loads(message)
            elif isinstance(message, Step):
                self._emit(message)
            elif isinstance(message, Batch):
                if message.number == self._emitted:  # those before it were emitted when the part was first begun
                    self._emitted += 1
                    self._emit(message)
            else:
                report: Report = message
                return report

    def _started(self) -> tuple[Any, Connection]:
        """A process that is ready, and the connection to it."""
        process, connection = self._process, self._connection
        if process is not None and connection is not None and process.is_alive():
            return process, connection
        for _ in range(STARTS):
            process, connection = self._start()
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
            f"workers: processes die at their start (with code {code}): if memory runs out, take fewer; if the script "
            "calls this outside `if __name__ == '__main__':`, move the call inside; or take workers=0"
        )

    def _start(self) -> tuple[Any, Connection]:
        with self._lock:
            self._end()
            if self.closed:
                raise RuntimeError("workers: the run was ended")
            connection, theirs = _CONTEXT.Pipe()
            process = _CONTEXT.Process(target=_serve, args=(theirs, self._work), name="foveate-worker")
            process.start()
            self._process, self._connection = process, connection
            theirs.close()
        return process, connection

    def close(self) -> None:
        """End the process, and let none be started."""
        with self._lock:
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
    """How a process ended while it worked on entries, of which the first is at a place, if that is known."""

    place: int | None
    count: int
    reason: str
    late: bool


def _lost(part: Part, reason: str) -> PartLostError:
    names = f"{part.units[0].name} to {part.units[-1].name}"
    return PartLostError(
        f"workers: processes died again and again over part {part.number} ({names}), but over none of its images alone "
        f"({reason}): if memory runs out, take fewer workers; all other parts are done, and the same call does this one"
    )


def limit_memory(size: int) -> None:
    """Limit the memory of this process to a number of bytes, if the system has a limit for that."""
    try:
        import resource
    except ImportError:
        return
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    size = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (size, hard))


def _cause(code: int | None) -> str:
    """Describe how a process ended."""
    if code is not None and code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        guess = ", as when memory runs out" if name == "SIGKILL" else ""
        return f"a worker process was ended by {name} over it{guess}"
    return f"a worker process ended itself over it, with code {code}"


def _serve(connection: Connection, data: bytes) -> None:
    """Do the tasks that come by a connection, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work: Work = pickle.loads(data)
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
    """End this process when the one that started it is gone, however that ended, so that it does not wait forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for([parent.sentinel])
    os._exit(1)
