"""The engine for many machines: actors of Ray Data, each of which watches a process as on one machine."""

import json
import logging
import os
import pickle
import socket
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

from tqdm import tqdm

from foveate._extras import require
from foveate.export._plan import Part, Unit
from foveate.export._supervisor import PartLostError, Supervisor
from foveate.export._work import Outcomes, Report, pickled, portable
from foveate.export._worker import Job

DEATHS = 3
"""How often actors may die over one part."""

SILENCE = 20.0
"""Seconds in which no part ends before a message names what the run waits for; the next pause is twice as long."""

PATIENCE = 600.0
"""Seconds that an autoscaler may take to add the first node that an actor fits on."""

_INSTALL = (
    "install Foveate, and the modules that the source and the models come from, on all nodes, or name their folder in "
    "ray.init(runtime_env={'py_modules': [...]})"
)


def run(job: Job, parts: Iterable[Part], workers: int | None = None, gpus: float = 0.0) -> Outcomes:
    """Do parts on a Ray cluster, and yield the report of each, in the order in which they end.

    The cluster is the one that this process is connected to, or that of ``RAY_ADDRESS``, or the one that ``ray start``
    began on this machine; else one of this machine alone is started, and stopped at the end. Foveate must be installed
    on all nodes, and the source and the target be the same for all: a shared file system, or a URL. An actor has at
    most two parts at a time, and does them in a process of its own. While actors wait for room on the cluster, standard
    error says so.

    Args:
        job: what to do; it is sent to each actor, whose process builds its models once.
        parts: what it is done with.
        workers: how many actors, of one CPU each; if the cluster has room for fewer now, the others wait. None takes
            as many as there is room for, and leaves a CPU to Ray.
        gpus: share of a GPU that each actor takes, or how many GPUs.

    Raises:
        ImportError: if Ray is not installed, with the line that installs it, or a node lacks a module.
        TypeError: if the job cannot be sent to actors.
        ValueError: if ``gpus`` is not a share that Ray knows, or the cluster that was started has no room for the
            actors.
        RuntimeError: if no node joins a cluster that has no room; if processes die at their start, or the cluster
            does; at the end, if actors or their processes died over a part again and again.
        Exception: whatever a worker raises. Actors that die are started again, and their parts redone.
    """
    if gpus > 1 and gpus % 1:
        raise ValueError(f"gpus: Ray gives an actor a share of one GPU, or whole ones, not {gpus}; round it")
    ray = require("ray", "ray")
    sent = pickled(job, require("ray.cloudpickle", "ray").dumps)
    rows = [{"part": json.dumps([part.number, part.units])} for part in parts]
    if not rows:
        return
    lost: list[PartLostError] = []
    with ExitStack() as stack:
        started = False
        if not ray.is_initialized():
            started = _start(ray)
            stack.callback(ray.shutdown)
        count = _count(ray.nodes(), workers, gpus, parts=len(rows), started=started)
        ledger = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_ledger()).remote(DEATHS)
        left = len(rows)
        part_ended = stack.enter_context(_explaining(lambda: _waits_for(ray, ledger, min(count, left), gpus)))
        _await_room(ray, gpus)
        try:
            for row in stack.enter_context(_rows(rows, (sent, job.timeout, ledger), count, gpus)):
                left -= 1
                part_ended()
                if row["error"]:
                    error = pickle.loads(row["error"])
                    if not isinstance(error, PartLostError):
                        raise error
                    lost.append(error)
                yield Report(**json.loads(row["report"]))
        except ray.exceptions.RayError as error:
            raise RuntimeError(f"workers: {_summary(error)}") from error
    if lost:
        raise lost[0]


@contextmanager
def _rows(
    rows: list[dict[str, str]], arguments: tuple[Any, ...], count: int, gpus: float
) -> Iterator[Iterator[dict[str, Any]]]:
    """Have actors do parts; yield an iterator over what they return, during which Ray Data is quiet.

    Args:
        rows: the parts, as JSON.
        arguments: of :class:`_Actor`.
        count: how many actors.
        gpus: how many GPUs each of them takes.
    """
    data = require("ray.data", "ray")
    with _quiet(data.DataContext.get_current()):
        results = data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Actor,
            fn_constructor_args=arguments,
            batch_size=1,
            compute=data.ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=2),
            num_cpus=1,
            num_gpus=gpus or None,
        )
        yield results.iter_rows()


def _ledger() -> type:
    """A class of actors that keep which parts are being done, and how often they were begun."""

    # Ray sends a class that is defined in a function by value: its process need not import Foveate and PyTorch.
    class Ledger:
        def __init__(self, deaths: int) -> None:
            self._deaths = deaths
            self._begun: Counter[int] = Counter()

        def begin(self, number: int) -> bool:
            """Note that a part is begun; return whether it may be: Ray itself would try forever."""
            self._begun[number] += 1
            return self._begun[number] <= self._deaths

        def end(self, number: int) -> None:
            del self._begun[number]

        def at_work(self) -> int:
            return len(self._begun)

    return Ledger


class _Actor:
    """What Ray Data creates once per process and calls with batches of one part.

    The work is done by another process, which is watched as on one machine. An exception is returned, not raised, so
    that it reaches the caller as it is, without Ray's pages around it.
    """

    def __init__(self, job: bytes, timeout: float, ledger: Any) -> None:
        self._ledger, self._supervisor = ledger, Supervisor(job, timeout)
        vars(sys.modules["__main__"]).pop("__file__", None)  # Ray's script, which each process would import, for 2 s

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        number, units = json.loads(str(batch["part"][0]))
        part = Part(number, tuple(Unit(*unit) for unit in units))
        report, data = Report(number, len(units)), b""
        try:
            if not require("ray", "ray").get(self._ledger.begin.remote(number)):
                raise PartLostError(
                    f"workers: actors of Ray died again and again over part {number} ({part.units[0].name} to "
                    f"{part.units[-1].name}): if memory runs out, take fewer workers per node; all other parts are "
                    "done, and the same call does this one"
                )
            report = self._supervisor(part)
            if self._supervisor.lost:
                raise self._supervisor.lost.pop()
        except ModuleNotFoundError as missing:
            data = portable(ModuleNotFoundError(f"{missing}, on the node {socket.gethostname()} of Ray; {_INSTALL}"))
        except Exception as error:
            data = portable(error)
        self._ledger.end.remote(number)
        return {"report": [json.dumps(asdict(report))], "error": [data]}


def _count(nodes: list[dict[str, Any]], workers: int | None, gpus: float, *, parts: int, started: bool) -> int:
    """How many actors to ask for: no more than parts, nor than fit on a cluster that was started for this run."""
    room, cpus = _room(nodes, gpus), _room(nodes, 0)
    count = min(parts, max(1, min(room, cpus - 1)) if workers is None else workers)
    if started and count > room:
        raise ValueError(
            f"workers: this machine has room for {room} {_actors(gpus)}, not for {count}; take fewer workers or gpus, "
            "or set RAY_ADDRESS to a cluster that has more"
        )
    return count


def _room(nodes: list[dict[str, Any]], gpus: float) -> int:
    """How many actors fit on nodes that have nothing else to do; none gets shares of two GPUs."""
    room = 0
    for node in nodes:
        if node["Alive"]:
            of_cpus, of_gpus = (int(node["Resources"].get(kind, 0)) for kind in ("CPU", "GPU"))
            if gpus > 1:
                of_gpus //= int(gpus)
            elif gpus:
                of_gpus *= int(round(1 / gpus, 6))
            room += min(of_cpus, of_gpus) if gpus else of_cpus
    return room


def _await_room(ray: Any, gpus: float) -> None:
    """If an actor fits on no node, wait for an autoscaler to add one; Ray does not know whether there is any."""
    if _room(ray.nodes(), gpus):
        return
    request = ray.remote(num_cpus=1, num_gpus=gpus or None)(_nothing).remote()
    if not ray.wait([request], timeout=PATIENCE)[0]:
        ray.cancel(request)
        raise RuntimeError(
            f"workers: no node of the cluster has room for {_actors(gpus)}, and none with room has joined it in "
            f"{PATIENCE:g} s; take less of a GPU (gpus=), or add nodes"
        )


def _nothing() -> None:
    pass


def _actors(gpus: float) -> str:
    return f"actors of 1 CPU and {gpus:g} GPUs" if gpus else "actors of 1 CPU"


def _waits_for(ray: Any, ledger: Any, count: int, gpus: float) -> str | None:
    """Describe what a number of actors wait for; None if all are at work, or Ray does not answer."""
    try:
        at_work = ray.get(ledger.at_work.remote(), timeout=5)
        has, free = ray.cluster_resources(), ray.available_resources()
        room = _room(ray.nodes(), gpus)
    except ray.exceptions.RayError:
        return None
    if at_work >= count and room >= count:
        return None
    kinds = ("CPU", "GPU") if gpus else ("CPU",)
    share = " and ".join(f"{free.get(kind, 0):g} of {has.get(kind, 0):g} {kind}s" for kind in kinds)
    return f"ray: waits for {_actors(gpus)}: {at_work} of {count} are at work; the cluster has {share} free"


@contextmanager
def _explaining(reason: Callable[[], str | None]) -> Iterator[Callable[[], None]]:
    """Write to standard error now and then why no part ends; yields a function to be called when one does."""
    ended, closed = threading.Event(), threading.Event()

    def tell() -> None:
        pause = SILENCE
        while not closed.is_set():
            if ended.wait(pause):
                ended.clear()
                pause = SILENCE
            else:
                if text := reason():
                    tqdm.write(text, file=sys.stderr)
                pause *= 2

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield ended.set
    finally:
        closed.set()
        ended.set()
        teller.join()


def _summary(error: Exception) -> str:
    """The text of an error of Ray in one line, without the pages around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    if getattr(error, "actor_init_failed", False):  # its traceback is there, and ends with what went wrong
        return f"an actor of Ray cannot start: {lines[-1]}; {_INSTALL}"
    return f"{type(error).__name__}: {lines[0]}"


def _start(ray: Any) -> bool:
    """Connect to the cluster that Ray finds, or start one; return whether it was started.

    Ray logs errors only, unless the user wants more.
    """
    name = "RAY_BACKEND_LOG_LEVEL"
    level = os.environ.get(name)
    os.environ.setdefault(name, "fatal")  # or Ray warns of every pool of actors, in the middle of our bar
    try:
        with _without_lines(name.encode()):  # Ray logs that the level is set
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    finally:
        if level is None:
            del os.environ[name]
    return bool(getattr(ray._private.worker._global_node, "head", False))


@contextmanager
def _without_lines(text: bytes) -> Iterator[None]:
    """Keep lines with some text off standard error, whoever writes them; all other lines follow at the end."""
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as buffer:
        os.dup2(buffer.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            buffer.seek(0)
            for line in buffer:
                if text not in line and line.strip():
                    os.write(2, line)


@contextmanager
def _quiet(context: Any) -> Iterator[None]:
    """Let Ray Data log to its files only, not between progress bars, and wait for a part however long it takes."""
    ours = {"enable_progress_bars": False, "print_on_execution_start": False, "execution_no_progress_timeout_s": -1}
    before = {name: getattr(context, name) for name in ours if hasattr(context, name)}
    handlers = [h for h in logging.getLogger("ray.data").handlers if isinstance(h, logging.StreamHandler)]
    levels = [handler.level for handler in handlers]
    for name in before:
        setattr(context, name, ours[name])
    for handler in handlers:
        handler.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)
