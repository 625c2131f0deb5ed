"""The engine for many machines: actors of Ray Data, each with the same worker as a local process."""

import json
import logging
import os
import pickle
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

from foveate._extras import require
from foveate.export._plan import Part, Unit
from foveate.export._worker import Job, Report, pickled, portable
from foveate.export.local import Supervisor

DEATHS = 3
"""So often may actors die over one part."""


def run(job: Job, parts: Iterable[Part], workers: int | None = None, gpus: float = 0.0) -> Iterator[Report]:
    """Do parts on a Ray cluster, and yield what each came to, in the order in which they end.

    A cluster that this process is connected to is used, or that of ``RAY_ADDRESS``, or one of this machine's own is
    started and stopped again. Foveate must be installed on all nodes, and the source and the target be the same for
    all: a shared file system, or a URL. An actor has at most two parts at a time.

    Args:
        job: what to do; it is sent to each actor, which builds its models once.
        parts: what is to be done.
        workers: how many actors, of one CPU each; None takes one a CPU of the cluster.
        gpus: share of a GPU that each actor takes; those of one GPU share it.

    Raises:
        ImportError: if Ray is not installed, with the line that installs it.
        TypeError: if the job cannot be sent to actors.
        RuntimeError: if actors die again and again over the same part, or the cluster does.
        Exception: whatever a worker raises. Actors that die are started again, and their parts redone.
    """
    ray = require("ray", "ray")
    data = require("ray.data", "ray")
    sent = pickled(job, require("ray.cloudpickle", "ray").dumps)
    rows = [{"part": json.dumps([part.number, part.units])} for part in parts]
    if not rows:
        return
    with ExitStack() as stack:
        if not ray.is_initialized():
            _start(ray)
            stack.callback(ray.shutdown)
        count = max(1, int(ray.cluster_resources().get("CPU", 1))) if workers is None else workers
        stack.enter_context(_quiet(data.DataContext.get_current()))
        done = data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Actor,
            fn_constructor_args=(sent, job.timeout, ray.remote(num_cpus=0)(_Tries).remote()),
            batch_size=1,
            compute=data.ActorPoolStrategy(size=min(count, len(rows)), max_tasks_in_flight_per_actor=2),
            num_cpus=1,
            num_gpus=gpus or None,
        )
        try:
            for row in done.iter_rows():
                if row["error"]:
                    raise pickle.loads(row["error"])
                yield Report(**json.loads(row["report"]))
        except ray.exceptions.RayError as error:
            raise RuntimeError(f"workers: {type(error).__name__}: {str(error).splitlines()[0]}") from error


class _Tries:
    """An actor that counts how often a part was begun: Ray itself would try forever."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, number: int) -> int:
        self._counts[number] += 1
        return self._counts[number]


class _Actor:
    """What Ray Data makes once a process and calls with batches of one part.

    The work is done by a process of its own, which is watched as on one machine. An exception is returned, not raised,
    so that it reaches the caller as it is, without Ray's pages around it.
    """

    def __init__(self, job: bytes, timeout: float, tries: Any) -> None:
        self._tries, self._supervisor = tries, Supervisor(job, timeout)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        number, units = json.loads(str(batch["part"][0]))
        part = Part(number, tuple(Unit(*unit) for unit in units))
        try:
            if require("ray", "ray").get(self._tries.add.remote(number)) > DEATHS:
                raise RuntimeError(f"workers: actors died {DEATHS} times over part {number}; see the logs of Ray")
            report = self._supervisor(part)
            for lost in self._supervisor.lost:
                raise lost
        except Exception as error:
            return {"report": [""], "error": [portable(error)]}
        return {"report": [json.dumps(asdict(report))], "error": [b""]}


def _start(ray: Any) -> None:
    """Connect to the cluster of ``RAY_ADDRESS``, or start one; say errors only, unless the user asked for more."""
    name = "RAY_BACKEND_LOG_LEVEL"
    held = os.environ.get(name)
    os.environ.setdefault(name, "fatal")  # or Ray warns of every pool of actors, in the middle of our bar
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    finally:
        if held is None:
            del os.environ[name]


@contextmanager
def _quiet(context: Any) -> Iterator[None]:
    """Be without Ray Data's bars and announcements, which would stand between ours."""
    names = ("enable_progress_bars", "print_on_execution_start")
    held = {name: getattr(context, name) for name in names if hasattr(context, name)}
    handlers = [one for one in logging.getLogger("ray.data").handlers if isinstance(one, logging.StreamHandler)]
    for name in held:
        setattr(context, name, False)
    for handler in handlers:
        handler.addFilter(_matters)
    try:
        yield
    finally:
        for name, value in held.items():
            setattr(context, name, value)
        for handler in handlers:
            handler.removeFilter(_matters)


def _matters(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING and "rogress bars" not in record.getMessage()
