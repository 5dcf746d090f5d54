"""Fan the runs of tables out with Ray: over this machine's cores, or over a cluster."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sextet.errors import Interrupted
from sextet.training import SignalGuard
from sextet_bench.house import House
from sextet_bench.record import Record, write_record
from sextet_bench.run import Outcome, Task, attempt
from sextet_bench.tables import read_table

RETRIES = 3
"""How often a run whose worker or machine died is started again, there or elsewhere."""


def run_on_ray(
    house: House, tasks: Sequence[Task], workers: int, address: str = "", device: str = "auto"
) -> Iterator[Outcome]:
    """Fan tasks out, `workers` at a time on this machine or over the cluster at `address`.

    Each takes the CPUs, GPUs and memory that its profile names. Outcomes come as they are ready. A run whose worker or
    machine died is started again; where `runs/` lies on a file system that the machines share, it continues from its
    last checkpoint, else from its beginning. Records come home by Ray as well, so none needs that file system.

    Raises:
        Interrupted: after a signal; runs that were under way continue at the next start from their last checkpoint.
    """
    import ray
    from ray.exceptions import RayError

    cpus = workers * max(task.table.profile(task.profile_name).cpus for task in tasks)
    here = {} if address else {"num_cpus": cpus, "include_dashboard": False}
    ray.init(address=address or None, logging_level=logging.ERROR, log_to_driver=False, **here)
    remote = ray.remote(max_retries=RETRIES)(_attempt_remotely)
    waiting = {}
    try:
        for task in tasks:
            path = house.tables / f"{task.table.id}.yaml"
            words = (house, path, task.profile_name, task.cell_id, task.seed, device)
            waiting[remote.options(**resources(task)).remote(*words)] = task
        with SignalGuard() as guard:
            while waiting and not guard.signum:
                for ready in ray.wait(list(waiting), num_returns=1, timeout=0.5)[0]:
                    task = waiting.pop(ready)
                    try:
                        kind, record, message = ray.get(ready)
                    except RayError as error:
                        kind, record, message = "failed", None, f"its worker died: {error}"
                    bring_home(house, record)
                    yield Outcome(task, kind, record, message)
    finally:
        ray.shutdown()
    if waiting:
        raise Interrupted(guard.signum, house.runs)


def bring_home(house: House, record: Record | None) -> None:
    """Write a worker's record, unless it lies here already because the machines share `runs/`."""
    if record is not None and not (house.records / record.table / record.filename).exists():
        write_record(house.records, record)


def resources(task: Task) -> dict[str, float]:
    """What Ray sets aside for a run."""
    profile = task.table.profile(task.profile_name)
    wanted: dict[str, float] = {"num_cpus": profile.cpus, "num_gpus": profile.gpus}
    return wanted | ({"memory": int(profile.memory_gb * 2**30)} if profile.memory_gb else {})


def _attempt_remotely(house: House, path: Path, profile_name: str, cell_id: str, seed: int, device: str) -> Any:
    outcome = attempt(house, Task(read_table(path), profile_name, cell_id, seed), device)
    return outcome.kind, outcome.record, outcome.message
