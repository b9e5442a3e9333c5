"""Sweeps on a real Ray cluster of several nodes on this machine. Their GPUs exist for the scheduler only."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from optuna.storages import RDBStorage

from sweeper.cluster import nodes as cluster
from sweeper.cluster.nodes import NodeReport, node_differences
from sweeper.cluster.ray_session import joined_cluster
from sweeper.cluster.sharing import TrialMemory
from sweeper.driver import callbacks
from sweeper.driver.sweep import Sweep
from sweeper.driver.tuning import run_trials
from sweeper.errors import ConfigError, EnvironmentFailure
from sweeper.ledger.ledger import create_ledger
from sweeper.ledger.record import TrialRecord
from sweeper.process.cgroups import memory_state
from sweeper.process.signals import Interrupt
from sweeper.space.search_space import SearchSpace
from sweeper.storage.settings import Stores
from sweeper.trial.handover import ProcessAddress, read_processes
from tests.support.invariants import check, starts
from tests.support.spaces import TOY
from tests.sweeper.cluster.test_gpus import GIB, H200, T4

ROOT = Path(__file__).parents[3]
Make = Callable[..., SearchSpace]
SEEN = NodeReport("mark", "f00d", {"python": "3.11.2", "ray": "2.60.0", "sweeper": "0.1.0"})
FOLDER = Path("/shared/sweeps/toy")


@pytest.mark.parametrize(
    ("seen", "problem"),
    [
        (replace(SEEN, marker=None), "does not see the sweep's folder /shared/sweeps/toy; put it on storage that all"),
        (replace(SEEN, marker="other"), "does not see the sweep's folder"),
        (replace(SEEN, fingerprint="beef"), "data /hw: has fingerprint f00d here, there beef; put one copy where all"),
        (replace(SEEN, versions={**SEEN.versions, "ray": "2.59.0"}), "has ray 2.59.0, here it is 2.60.0; install the"),
        (replace(SEEN, versions={**SEEN.versions, "ray": None}), "has ray not at all, here it is 2.60.0"),
        (replace(SEEN, versions={**SEEN.versions, "sweeper": None}), None),  # it came with the trial
        (SEEN, None),
    ],
)
def test_what_a_node_lacks_is_told_with_its_cure(seen: NodeReport, problem: str | None) -> None:
    found = node_differences(seen, SEEN, FOLDER, "/hw")
    assert len(found) == (problem is not None)
    assert problem is None or found[0].startswith(problem)


def test_a_ray_client_address_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"--address ray://head:10001: is an address for Ray's client; run on the cluster's head node"
    ):
        joined_cluster("ray://head:10001").__enter__()


PATIENCE = 120.0


class Nodes:
    """A cluster of Ray's own, whose head runs no trials: two GPUs on one node, one on another."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.add(gpus=2)
        self.add(gpus=1)
        self.cluster.wait_for_nodes()

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add(self, gpus: int, cpus: int = 4, pretended: bool = True) -> Any:
        """Add a node. On one whose GPUs are not said to be pretended, trials find out that there are none."""
        said = {"SWEEPER_GPU_CHECK": "0"} if pretended else {}
        return self.cluster.add_node(num_cpus=cpus, num_gpus=gpus, object_store_memory=80 * 2**20, env_vars=said)

    def remove(self, node: Any) -> None:
        self.cluster.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    made = Nodes()
    try:
        with joined_cluster(made.address):
            yield made
    finally:
        made.cluster.shutdown()


@pytest.fixture
def sweep(storage: RDBStorage, toy_space: Make, tmp_path: Path) -> Callable[..., Sweep]:
    def sweep(*overrides: str) -> Sweep:
        space = toy_space(*overrides)
        folder = tmp_path / "toy"  # the ledger lies in the root
        folder.mkdir(parents=True, exist_ok=True)
        return Sweep(create_ledger(storage, space, "toy"), space, folder, cluster.cluster_machine())

    return sweep


def silent(record: TrialRecord) -> None:
    pass


def until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def meanwhile(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def meeting(folder: Path, size: int) -> tuple[str, ...]:
    parameters = f"parameters={{folder: '{folder}', size: {size}, seed: {{values: [1, 2, 3, 4, 5, 6, 7, 8]}}}}"
    return ("job=tests.support.meeting:JOB", "objective=met", "search={sampler: grid}", parameters)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.timeout(300)
class TestOnNodes:
    def test_half_gpus_are_packed_on_all_nodes_and_never_more(
        self, nodes: Nodes, sweep: Callable[..., Sweep], tmp_path: Path
    ) -> None:
        """Six trials at half a GPU wait for each other; the last two begin when one has ended."""
        packed = sweep(*meeting(tmp_path, 6), "resources.gpus=0.5")
        run_trials(packed, silent)
        records = packed.ledger.records()
        assert [(record.state, record.value) for record in records] == [("COMPLETE", 1.0)] * 8
        assert max(record.metrics["crowd"] for record in records) <= 6

    @pytest.mark.long
    def test_a_node_with_a_fast_gpu_takes_three_trials_and_one_with_slow_ones_one_on_each(
        self, nodes: Nodes, sweep: Callable[..., Sweep], tmp_path: Path
    ) -> None:
        """Five trials wait for each other: three on the node with one GPU, two on that with two."""
        shared = sweep(*meeting(tmp_path, 5), "resources.gpus=auto")
        kinds = tuple(replace(node, gpu=H200 if node.gpus == 1 else T4) for node in shared.machine.nodes)
        machine = replace(shared.machine, nodes=kinds, memory=TrialMemory(GIB, measured=True))
        run_trials(replace(shared, machine=machine), silent)
        records = shared.ledger.records()
        assert [(record.state, record.value) for record in records] == [("COMPLETE", 1.0)] * 8
        assert max(record.metrics["crowd"] for record in records) == 5

    def test_three_workers_train_one_trial_on_two_nodes(
        self, nodes: Nodes, sweep: Callable[..., Sweep], tmp_path: Path
    ) -> None:
        spread = sweep("search.trials=1", "resources={workers: 3, gpus: 1}", "parameters.pace=0.5")
        places: list[ProcessAddress] = []

        def look(record: TrialRecord) -> None:
            if record.epochs:
                places.extend(read_processes(spread.workdir(record.number)))

        run_trials(spread, look)
        assert [(one.state, one.epochs) for one in spread.ledger.records()] == [("COMPLETE", 4.0)]
        assert len({place.pid for place in places}) == 3
        assert len({place.node for place in places}) == 2

    @pytest.mark.long
    def test_a_trial_that_hangs_is_ended_on_its_own_node(self, nodes: Nodes, sweep: Callable[..., Sweep]) -> None:
        stuck = sweep("search.trials=1", "parameters.trouble=worker_stuck", "resources={workers: 2, gpus: 0}")
        stuck = replace(
            stuck, space=replace(stuck.space, budget=stuck.space.budget.model_copy(update={"trial_time": 20}))
        )
        run_trials(stuck, silent)
        record = stuck.ledger.records()[0]
        assert (record.state, record.reason) == ("FAIL", "took longer than 20s, its budget.trial_time")

    def test_trials_of_a_node_that_is_lost_go_on_elsewhere(
        self, nodes: Nodes, sweep: Callable[..., Sweep], tmp_path: Path, stores: Stores
    ) -> None:
        """On two nodes at first; both trials have trained two epochs when one node goes."""
        extra = nodes.add(gpus=3, cpus=3)
        nodes.cluster.wait_for_nodes()
        seeds = "seed: {values: [1, 2, 3, 4, 5, 6]}"
        parameters = f"parameters={{trouble: wait, folder: '{tmp_path}', num_train_epochs: 4, {seeds}}}"
        moving = sweep("search={sampler: grid}", parameters, "resources.gpus=1", "budget.retries=0")

        def lose() -> None:
            until(lambda: len(list(tmp_path.glob("here-*"))) == 6)
            nodes.remove(extra)
            until(lambda: any(record.incidents for record in moving.ledger.records()))
            (tmp_path / "go").touch()

        thread = meanwhile(lose)
        run_trials(moving, silent)
        thread.join()
        records = moving.ledger.records()
        assert [(record.state, record.epochs) for record in records] == [("COMPLETE", 4.0)] * 6
        moved = [record for record in records if record.incidents]
        assert len(moved) == 3
        assert {(one["kind"], one["epoch"]) for record in moved for one in record.incidents} == {("node", 2.0)}
        for record in records:
            assert starts(moving.workdir(record.number)) == 1 + (record in moved)
        check(moving.ledger, stores, mirrored=False, tidy=False)

    @pytest.mark.long
    def test_a_node_that_joins_is_used(self, nodes: Nodes, sweep: Callable[..., Sweep], tmp_path: Path) -> None:
        """Four trials wait for each other, and there is room for three: the fourth is offered, and then a node."""
        growing = sweep(*meeting(tmp_path, 4), "resources.gpus=1", "parameters.seed={values: [1, 2, 3, 4]}")
        added: list[Any] = []

        def join(record: TrialRecord) -> None:
            if record.number == 3 and not added:
                added.append(nodes.add(gpus=1))

        run_trials(growing, join)
        assert [(record.state, record.value) for record in growing.ledger.records()] == [("COMPLETE", 1.0)] * 4
        nodes.remove(added[0])

    def test_a_node_that_joins_with_gpus_that_cannot_be_used_trains_no_trial(
        self, nodes: Nodes, sweep: Callable[..., Sweep], tmp_path: Path
    ) -> None:
        """Three of four trials fit; the fourth waits until the node joins, is refused there, and goes elsewhere."""
        parameters = f"parameters={{trouble: wait, folder: '{tmp_path}', seed: {{values: [1, 2, 3, 4]}}}}"
        growing = sweep("search={sampler: grid}", parameters, "resources.gpus=1")
        said = list[str]()
        added: list[Any] = []

        def join(record: TrialRecord) -> None:
            """In the main thread, as Ray wants it."""
            if not added and record.epochs:
                added.append(nodes.add(gpus=2, pretended=False))

        def go() -> None:
            until(lambda: said)
            (tmp_path / "go").touch()

        thread = meanwhile(go)
        run_trials(growing, join, say=said.append)
        thread.join()
        nodes.remove(added[0])
        records = growing.ledger.records()
        assert [(record.state, record.incidents) for record in records] == [("COMPLETE", ())] * 4
        assert [starts(growing.workdir(record.number)) for record in records] == [1] * 4
        (line,) = said
        assert line.startswith("node ")
        assert "GPUs: " in line
        assert line.endswith("it gets no trials that reserve a GPU")

    def test_a_sweep_whose_last_node_is_lost_says_so_and_ends(
        self, nodes: Nodes, sweep: Callable[..., Sweep], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, seconds in {"CHECK_SECONDS": 0.1, "NOTICE_SECONDS": 0.5, "NO_NODE_SECONDS": 2.0}.items():
            monkeypatch.setattr(callbacks, name, seconds)
        only = nodes.add(gpus=5, cpus=5)
        nodes.cluster.wait_for_nodes()
        lonely = sweep(
            "search.trials=1", "resources.gpus=5", "parameters.trouble=wait", f"parameters.folder={tmp_path}"
        )
        interrupt, said = Interrupt(), list[str]()

        def lose() -> None:
            until(lambda: list(tmp_path.glob("here-*")))
            nodes.remove(only)

        thread = meanwhile(lose)
        run_trials(lonely, silent, interrupt, said.append)
        thread.join()
        record = lonely.ledger.records()[0]
        assert (record.state, [one["kind"] for one in record.incidents]) == ("RUNNING", ["node"])
        assert len(said) == 1
        assert said[0].startswith("no node can run the next trial; it needs 1 × 5 CPU and 5 GPU; nodes: ")
        assert str(interrupt.cause).startswith("sweep toy: for 2 s no node could run a trial; it needs 1 × 5 CPU")
        assert str(interrupt.cause).endswith("add one, then sweeper resume toy")

    def test_each_node_tells_its_memory_and_a_lost_one_nothing(self, nodes: Nodes) -> None:
        here = memory_state()
        states = [cluster.memory_on_node(str(node["NodeID"])) for node in cluster.live_ray_nodes()]
        assert len(states) >= 3
        assert {state.total for state in states if state} == {here.total}
        assert cluster.memory_on_node("ab" * 28) is None
        assert cluster.memory_on_node("") is None

    def test_data_that_differs_is_refused_before_the_first_trial(
        self, nodes: Nodes, sweep: Callable[..., Sweep]
    ) -> None:
        other = sweep("search.trials=1")
        other = replace(other, space=replace(other.space, data_fingerprint="0" * 64))
        with pytest.raises(EnvironmentFailure) as failure:
            run_trials(other, silent)
        assert len(failure.value.lines) == 3  # the head would run no trial, but tells first what is wrong everywhere
        assert all("data sample: has fingerprint 0000" in line for line in failure.value.lines)
        assert other.ledger.records() == []

    def test_plan_tells_how_many_trials_fit_on_which_node(
        self, nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "toy.yaml").write_text(TOY, encoding="utf-8")
        done = sweeper(tmp_path, "plan", "toy.yaml", "--address", nodes.address, "resources.gpus=0.5")
        assert done.returncode == 0, done.stderr
        line = next(line for line in done.stdout.splitlines() if line.startswith("trials: "))
        assert "6 at once: each reserves 1 CPU and 0.5 GPU, 2 on each GPU, of 8 CPU and 3 GPU on 2 nodes" in line
        monkeypatch.setenv("SWEEPER_GPU_CHECK", "1")
        unusable = sweeper(tmp_path, "plan", "toy.yaml", "--address", nodes.address, "resources.gpus=0.5")
        assert (unusable.returncode, unusable.stderr.count("GPUs: ")) == (4, 2), unusable.stderr  # a line for each node
        assert "CUDA_VISIBLE_DEVICES=" not in unusable.stderr  # the check itself sees the GPUs though it reserves none
        refused = sweeper(tmp_path, "plan", "toy.yaml", "--address", nodes.address, "resources.gpus=3")
        assert (refused.returncode, "a worker wants 3 and the largest node has 2" in refused.stderr) == (4, True)

    def test_a_trial_that_reserves_no_gpu_sees_none(self, sweep: Callable[..., Sweep], tmp_path: Path) -> None:
        parameters = f"parameters={{folder: '{tmp_path}', seed: {{values: [1]}}}}"
        job = ("job=tests.support.seeing:JOB", "objective=seen", "search={sampler: grid}", parameters)
        run_trials(sweep(*job, "resources.gpus=0"), silent)
        assert (tmp_path / "seed-1").read_text() == ""

    def test_a_source_tree_travels_to_the_nodes(self, nodes: Nodes) -> None:
        head = ray.get_runtime_context().get_node_id()
        assert ray.get(cluster.call_on_node(head, packages_brought)) == ["jobs", "sweeper"]


def packages_brought() -> list[str]:
    """By Ray, into folders of its own that it puts on the path."""
    brought = [Path(place) for place in sys.path if "py_modules" in place]
    return sorted(module.parent.name for place in brought for module in place.glob("*/__init__.py"))


def sweeper(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from sweeper.cli import main; main()", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
