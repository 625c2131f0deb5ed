"""The engine for many machines: actors of Ray Data, each with the same worker as a local process."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from foveate._extras import require
from foveate.export._worker import Job, Part, Report, Worker


def run(job: Job, parts: Iterable[Part], workers: int, gpus: float = 0.0) -> Iterator[Report]:
    """Do parts on a Ray cluster, and yield what each came to, in the order in which they end.

    A cluster that this process is connected to is used, or that of ``RAY_ADDRESS``, or one of this machine's own is
    started and stopped again. The source and the target must be the same for all nodes: a shared file system, or a URL.

    Args:
        job: what to do; it is sent to each actor, which builds its models once.
        parts: what is to be done.
        workers: how many actors, of one CPU each.
        gpus: share of a GPU that each actor takes; those of one GPU share it.

    Raises:
        ImportError: if Ray is not installed, with the line that installs it.
        Exception: whatever a worker raises, as Ray tells it. Actors that die are started again, and their parts redone.
    """
    ray = require("ray", "ray")
    require("ray.data", "ray")
    ours = not ray.is_initialized()
    if ours:
        ray.init(include_dashboard=False, log_to_driver=False)
    try:
        rows = [{"part": json.dumps([part.number, part.names])} for part in parts]
        if not rows:
            return
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Actor,
            fn_constructor_args=(job,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows))),
            num_cpus=1,
            num_gpus=gpus or None,
        )
        for row in done.iter_rows():
            yield Report(**json.loads(row["report"]))
    finally:
        if ours:
            ray.shutdown()


class _Actor:
    """What Ray Data makes once a process and calls with batches of one part."""

    def __init__(self, job: Job) -> None:
        self._worker = Worker(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        number, names = json.loads(str(batch["part"][0]))
        report = self._worker(Part(number, tuple((a, b) for a, b in names)))
        return {"report": [json.dumps(asdict(report))]}
