from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.cluster import capacity
from sweeper.cluster.capacity import Machine, Node, cluster_of, reservation_of, reservations, reserve, workers_at_once
from sweeper.errors import EnvironmentFailure
from sweeper.space.search_space import SearchSpace
from sweeper.space.sections import Resources


@pytest.mark.parametrize(
    ("resources", "machine", "expected"),
    [
        (None, Machine(2, 0), (1, 0, 2)),
        (None, Machine(8, 2), (4, 1, 2)),  # a whole GPU where there is one, and half of the CPUs
        (None, Machine(9, 2), (4, 1, 2)),
        (None, Machine(1, 2), (1, 1, 1)),
        (None, Machine(6, 2, quota=6.5), (3, 1, 2)),
        (Resources(cpus=2), Machine(8, 2), (2, 1, 2)),
        (Resources(gpus=0), Machine(8, 2), (1, 0, 8)),
        (Resources(gpus=0.5), Machine(8, 2), (2, 0.5, 4)),
        (Resources(gpus=0.4), Machine(8, 2), (2, 0.4, 4)),  # two fit on a GPU, none across two
        (Resources(gpus=0.5), Machine(3, 2), (1, 0.5, 3)),  # the CPUs run out first
        (Resources(gpus=2), Machine(8, 3), (8, 2, 1)),
        (Resources(cpus=2), Machine(5, 0), (2, 0, 2)),
        (Resources(cpus=0.5), Machine(2, 0), (0.5, 0, 4)),
    ],
)
def test_how_many_trials_fit(resources: Resources | None, machine: Machine, expected: tuple[float, float, int]) -> None:
    found = reserve(resources, machine, trials=100)
    assert (found.cpus, found.gpus, found.slots) == expected


@pytest.mark.parametrize(
    ("resources", "message"),
    [(Resources(gpus=1), "wants 1 and this machine has 0; run on the CPU with resources.gpus=0"),
     (Resources(cpus=3), "resources.cpus: a trial wants 3 and this machine has 2")],
)  # fmt: skip
def test_what_can_never_run_is_refused_at_once(resources: Resources, message: str) -> None:
    with pytest.raises(EnvironmentFailure, match=message):
        reserve(resources, Machine(2, 0), 8)


def test_the_reason_is_said() -> None:
    assert reserve(None, Machine(2, 0), 8).why(Machine(2, 0)) == "2 at once: each reserves 1 CPU, of 2 CPU"
    wanted = reserve(Resources(gpus=0.5), Machine(8, 2), 8)
    told = "4 at once: each reserves 2 CPU and 0.5 GPU, 2 on each GPU, of 8 CPU and 2 GPU"
    assert wanted.why(Machine(8, 2)) == told


def test_few_trials_share_all_threads() -> None:
    assert (reserve(None, Machine(16, 0), 3).cpus, reserve(None, Machine(16, 0), 3).slots) == (5, 3)
    assert reserve(None, Machine(2, 0), 1).cpus == 2
    assert (reserve(None, Machine(16, 4), 2).cpus, reserve(None, Machine(16, 4), 2).slots) == (8, 2)


SIZES = st.integers(1, 64)
NODES = st.lists(st.builds(Node, st.just("node"), SIZES, st.integers(1, 8)), min_size=1, max_size=4)


@given(NODES, st.sampled_from([0.25, 0.5, 1]), st.integers(1, 100))
def test_a_share_of_the_cpus_costs_no_trial_and_leaves_no_cpu_that_all_could_have(
    nodes: list[Node], gpus: float, trials: int
) -> None:
    machine = cluster_of(tuple(nodes))
    found = reserve(Resources(gpus=gpus), machine, trials)
    least = min(trials, workers_at_once(1, gpus, machine.parts))
    assert found.slots >= least
    assert workers_at_once(found.cpus + 1, gpus, machine.parts) < least


CLUSTER = cluster_of((Node("a", 4, 2), Node("b", 8, 1), Node("c", 16, 0)))


@pytest.mark.parametrize(
    ("resources", "slots"),
    [
        (Resources(), 3),
        (Resources(gpus=0.5), 6),  # not more than the GPUs of each node give
        (Resources(gpus=0), 28),
        (Resources(gpus=0, cpus=3), 8),  # 1 + 2 + 5: none is spread over two nodes
        (Resources(gpus=2), 1),
        (Resources(gpus=1, cpus=4), 2),
        (Resources(gpus=1, workers=2), 1),  # the third GPU has no partner
        (Resources(gpus=1, workers=3), 1),  # over two nodes
        (Resources(gpus=0, workers=4), 7),
    ],
)
def test_how_many_trials_fit_into_a_cluster(resources: Resources, slots: int) -> None:
    assert reserve(resources, CLUSTER, trials=100).slots == slots


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        (Resources(gpus=3), "resources.gpus: a worker wants 3 and the largest node has 2"),
        (Resources(gpus=0, cpus=17), "resources.cpus: a worker wants 17 and the largest node has 16"),
        (Resources(gpus=1, cpus=9), "resources: no node has 9 CPU and 1 GPU together, which a worker wants"),
        (
            Resources(gpus=1, workers=4),
            "resources.workers: a trial wants 4 of 1 CPU and 1 GPU and this cluster has room for 3",
        ),
    ],
)
def test_what_no_node_or_the_whole_cluster_could_ever_run_is_refused(resources: Resources, message: str) -> None:
    with pytest.raises(EnvironmentFailure, match=message):
        reserve(resources, CLUSTER, 8)


def test_workers_are_told_with_the_nodes_they_fit_on() -> None:
    told = reserve(Resources(gpus=1, workers=2), CLUSTER, 8).why(CLUSTER)
    assert told == (
        "1 at once: each reserves 2 workers of 2 CPU and 1 GPU, of 28 CPU and 3 GPU on 3 nodes; "
        "workers that fit: a 2, b 1, c 0"
    )


def test_a_cpu_trial_of_a_cluster_never_asks_for_more_than_its_largest_node() -> None:
    cpus_only = cluster_of((Node("a", 4, 0), Node("b", 8, 0)))
    assert reserve(None, cpus_only, 1).cpus == 8
    assert reserve(Resources(workers=3), cpus_only, 1).cpus == 4
    uneven = cluster_of((Node("a", 6, 0), Node("b", 2, 0)))
    assert reserve(Resources(workers=2), uneven, 1).cpus == 3


def test_half_a_gpu_for_base_and_a_whole_one_for_large(toy_space: Callable[..., SearchSpace]) -> None:
    space = toy_space("resources=[{when: {backbone: hill}, gpus: 0.5}, {gpus: 1}]")
    assert reservation_of(space, {"backbone": "hill"}, Machine(8, 2)).slots == 4
    assert reservation_of(space, {"backbone": "valley"}, Machine(8, 2)).slots == 2
    assert sorted(one.slots for one in reservations(space, Machine(8, 2))) == [2, 4]


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        (None, Machine(3, 0)),
        (0.5, Machine(1, 0, quota=0.5)),  # one at least
        (2.9, Machine(2, 0, quota=2.9)),
        (3.0, Machine(3, 0)),
        (64.0, Machine(3, 0)),  # the affinity allows fewer
    ],
)
def test_a_cpu_quota_counts_beside_the_affinity(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, expected: Machine
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(capacity.os, "sched_getaffinity", lambda pid: {0, 1, 5})
    monkeypatch.setattr(capacity, "cpu_quota", lambda: quota)
    assert capacity.local_machine() == expected


def test_a_quota_is_told_where_it_limits_trials() -> None:
    machine = Machine(1, 0, quota=1.5)
    assert reserve(None, machine, 8).why(machine) == "1 at once: each reserves 1 CPU, of 1 CPU (cgroup quota 1.5)"
    with pytest.raises(EnvironmentFailure, match=r"wants 2 and this machine has 1 by a cgroup quota of 1.5; lower it"):
        reserve(Resources(cpus=2), machine, 8)


def test_the_memory_that_counts_is_told_with_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "machine_memory", lambda: 16 * 2**30)
    monkeypatch.setattr(capacity, "memory_limit", lambda: None)
    assert capacity.memory_text() == "16.0 GiB"
    monkeypatch.setattr(capacity, "memory_limit", lambda: 2200 * 2**20)
    assert capacity.memory_text() == "2.1 GiB (cgroup limit; the machine has 16.0 GiB)"
