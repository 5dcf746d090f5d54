from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from toy_checkout import change, numbers

from sextet_bench.fan_out import bring_home, resources, run_on_ray
from sextet_bench.run import Outcome, plan_tasks, run_here


def sequentially(toy, table):
    apart = replace(toy, runs=toy.root / "sequential")
    list(run_here(apart, plan_tasks(apart, table, "laptop")[0]))
    return numbers(apart)


def test_a_run_takes_what_its_profile_names(toy):
    table = change(toy, {"cpus": 2, "gpus": 1, "memory_gb": 1.5})
    task = plan_tasks(toy, table, "laptop")[0][0]
    assert resources(task) == {"num_cpus": 2, "num_gpus": 1, "memory": 3 * 2**29}
    assert resources(plan_tasks(toy, change(toy), "laptop")[0][0]) == {"num_cpus": 1, "num_gpus": 0}


@pytest.mark.slow
def test_fanned_out_on_one_machine_it_gives_the_same_records(toy):
    table = change(toy, bad={"fail": "no"})
    outcomes = list(run_on_ray(toy, plan_tasks(toy, table, "laptop")[0], workers=2))
    assert sorted(outcome.kind for outcome in outcomes) == ["done"] * 3 + ["failed"] * 3
    assert numbers(toy) == sequentially(toy, table)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray's own test cluster
def test_a_machine_that_dies_in_mid_run_costs_no_record(toy):
    """Two machines of one core each; one is killed while both run; its run goes on elsewhere from its checkpoint."""
    from ray.cluster_utils import Cluster

    table = change(toy, good={"steps": 60}, bad={"steps": 60})
    tasks, _ = plan_tasks(toy, table, "laptop")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        killed_at = None
        outcomes: list[Outcome] = []
        for outcome in run_on_ray(toy, tasks, workers=1, address=cluster.address):
            outcomes.append(outcome)
            if killed_at is None:
                killed_at = begun_but_not_done(toy.runs / "work", outcomes)
                cluster.remove_node(second, allow_graceful=False)
        assert killed_at, "both machines were at work when one died"
        assert [outcome.kind for outcome in outcomes] == ["done"] * 6, [outcome.message for outcome in outcomes]
    finally:
        cluster.shutdown()
    assert numbers(toy) == sequentially(toy, table)


def test_records_come_home_without_a_shared_file_system(toy):
    """What a worker wrote where the driver cannot see it arrives all the same."""
    (outcome,) = run_here(toy, plan_tasks(toy, change(toy), "laptop")[0][:1])
    there = numbers(toy)
    shutil.rmtree(toy.records)
    bring_home(toy, outcome.record)
    assert numbers(toy) == there
    bring_home(toy, None)


def begun_but_not_done(work: Path, outcomes: list[Outcome]) -> list[Path]:
    """Folders of runs that have a checkpoint and no outcome yet."""
    done = {(outcome.task.cell_id, f"seed-{outcome.task.seed}") for outcome in outcomes}
    folders = [path.parent for path in work.rglob("checkpoints")]
    return [path for path in folders if (f"{path.parent.parent.name}/{path.parent.name}", path.name) not in done]
