"""Trials of two workers on real Ray: they are stopped, die and hang, and every CPU comes back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from optuna.storages import RDBStorage

from sweeper.cluster.capacity import Machine
from sweeper.cluster.ray_session import ray_session
from sweeper.driver.sweep import Sweep
from sweeper.driver.tuning import run_trials
from sweeper.ledger.ledger import Ledger, create_ledger
from sweeper.space.search_space import SearchSpace
from tests.support.invariants import starts
from tests.toy import FITS, ToyParams, height

Make = Callable[..., SearchSpace]
MACHINE = Machine(cpus=4, gpus=2)  # the GPUs exist for the scheduler only, so that the group talks through gloo
PATIENCE = 60.0
ASHA = "early_stopping={scheduler: asha, grace_period: 1, reduction_factor: 2}"

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        patch.setenv("SWEEPER_GPU_CHECK", "0")
        with ray_session(MACHINE):
            yield


@pytest.fixture
def run(storage: RDBStorage, toy_space: Make, tmp_path: Path) -> Callable[..., Ledger]:
    def run(*overrides: str) -> Ledger:
        space = toy_space("resources={workers: 2, gpus: 0}", *overrides)
        ledger = create_ledger(storage, space, "toy")
        run_trials(Sweep(ledger, space, tmp_path / "toy", MACHINE), lambda record: None)
        return ledger

    return run


def assert_all_free() -> None:
    """Ray hears of the end of a process a little later."""
    deadline = time.monotonic() + PATIENCE
    while (free := ray.available_resources().get("CPU")) != MACHINE.cpus:
        assert time.monotonic() < deadline, free
        time.sleep(0.05)


def test_asha_stops_trials_of_two_workers_and_their_cpus_come_back(run: Callable[..., Ledger], tmp_path: Path) -> None:
    records = run("search.trials=8", ASHA, "search.enqueue=[{backbone: hill, learning_rate: 1e-3}]").records()
    pruned = [record for record in records if record.state == "PRUNED"]
    assert len(records) == 8
    assert len(pruned) >= 4
    assert {record.state for record in records} == {"COMPLETE", "PRUNED"}
    for record in records:
        assert record.evaluations[-1]["height"] == pytest.approx(height(ToyParams(**record.params), int(record.epochs)))
        workdir = tmp_path / f"toy/trials/{record.number:04d}"
        assert starts(workdir) == 1
        assert "starts" in (workdir / "log-1.txt").read_text()  # the second worker was there
    assert_all_free()


@pytest.mark.parametrize("gpus", [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_worker_that_dies_is_a_trial_that_goes_on(run: Callable[..., Ledger], tmp_path: Path, gpus: int) -> None:
    """With a pretended GPU for each worker too, for which PyTorch has no NCCL."""
    record = run("search.trials=1", "parameters.trouble=worker_dies", f"resources.gpus={gpus}").records()[0]
    assert (record.state, record.epochs) == ("COMPLETE", 4)
    assert [(one["kind"], one["epoch"]) for one in record.incidents] == [("crash", 1.0)]
    assert (tmp_path / "toy/trials/0000/starts").read_text() == "0\n1\n"
    assert_all_free()


def test_a_worker_without_memory_halves_what_is_trained_at_once(run: Callable[..., Ledger]) -> None:
    record = run("search.trials=1", "parameters.trouble=worker_large").records()[0]
    assert record.state == "COMPLETE"
    assert {one["kind"] for one in record.incidents} == {"memory"}
    assert record.used["per_device_train_batch_size"] > FITS  # it had the trouble once, after its first epoch


def test_a_worker_that_hangs_is_ended_with_its_trial(run: Callable[..., Ledger], tmp_path: Path) -> None:
    """Stopped by the kernel, so that it hears no request to end."""
    record = run("search.trials=1", "parameters.trouble=worker_stuck", "budget.trial_time=25s").records()[0]
    assert (record.state, record.reason) == ("FAIL", "took longer than 25s, its budget.trial_time")
    assert record.epochs == 1
    assert_all_free()


def test_a_failure_of_the_first_worker_is_the_trials(run: Callable[..., Ledger]) -> None:
    record = run("search.trials=1", "parameters.trouble=nan").records()[0]
    assert (record.state, record.reason) == ("FAIL", "Diverged: height is nan, eval_loss is nan at epoch 1")
    assert_all_free()


def test_a_trial_sees_the_gpus_that_it_reserves_and_none_without(run: Callable[..., Ledger], tmp_path: Path) -> None:
    run(
        "job=tests.support.seeing:JOB",
        "objective=seen",
        "search={sampler: grid}",
        f"parameters={{folder: '{tmp_path}', seed: {{values: [1, 2]}}}}",
        "resources=[{when: {seed: 1}, gpus: 0}, {gpus: 2}]",
    )
    assert [(tmp_path / f"seed-{seed}").read_text() for seed in (1, 2)] == ["", "0,1"]
