"""How many trials run at once after one was killed for want of memory: a real ledger, no Ray processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.storages import RDBStorage
from ray.air.execution._internal import RayActorManager
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, RayActorError

from sweeper.cluster.capacity import Machine
from sweeper.driver import searcher as module
from sweeper.driver.callbacks import LedgerCallback
from sweeper.driver.searcher import LedgerSearcher, new_trials_source
from sweeper.driver.sweep import Sweep
from sweeper.driver.tuning import unknown_errors_as_deaths
from sweeper.ledger.ledger import Ledger, create_ledger
from sweeper.process.signals import Interrupt
from sweeper.space.search_space import SearchSpace
from sweeper.trial.handover import TrialFailure

Make = Callable[..., SearchSpace]
KILLED = TrialFailure("memory", "out of memory: the kernel killed its process", killed=True)
GIB = 2**30


class Driver:
    """A sweep on four CPUs whose trials are only said to run."""

    def __init__(self, ledger: Ledger, space: SearchSpace, folder: Path) -> None:
        self.ledger = ledger
        self.sweep = Sweep(ledger, space, folder, Machine(4, 0))
        source = new_trials_source(self.sweep)
        self.searcher = LedgerSearcher(self.sweep, source, lambda record: None, Interrupt())
        self.callback = LedgerCallback(self.searcher)

    def start(self) -> list[int]:
        """Begin trials until no more are given. Return the numbers of all that run."""
        while config := self.searcher.suggest(f"tune-{len(self.ledger.records())}-{len(self.searcher.given)}"):
            assert isinstance(config, dict)
            self.register(config["number"])
        return sorted(self.searcher.given.values())

    def register(self, number: int) -> None:
        folder = self.sweep.workdir(number)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "process").write_text(f"{1000 + number} here 0")

    def fail(self, number: int, failure: TrialFailure = KILLED) -> Any:
        """End a trial as Tune does; return the record."""
        self.callback.handle_failure(number, failure)
        for name in [name for name, one in self.searcher.given.items() if one == number]:
            self.searcher.on_trial_complete(name, error=True)
        return self.ledger.record(number)


@pytest.fixture
def begin(
    storage: RDBStorage, toy_space: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Driver]:
    """Begin a sweep, or go on with it."""
    ledgers: list[Ledger] = []
    monkeypatch.setattr(module, "usable_memory", lambda: 8 * GIB)

    def begin(*overrides: str) -> Driver:
        space = toy_space("search.trials=9", *overrides)
        ledgers.append(ledgers[0] if ledgers else create_ledger(storage, space, "toy"))
        return Driver(ledgers[0], space, tmp_path / "toy")

    return begin


def test_fewer_run_at_once_after_one_of_several_was_killed(begin: Callable[..., Driver]) -> None:
    driver = begin()
    assert driver.start() == [0, 1, 2, 3]
    (incident,) = driver.fail(2).incidents
    assert (incident["changed"], incident["at_once"]) == ({"per_device_train_batch_size": 4}, 3)
    assert driver.start() == [0, 1, 3]
    assert driver.searcher.max_running() == 3
    assert driver.fail(0).incidents[0]["at_once"] == 2


def test_trials_that_are_killed_in_the_same_moment_were_not_alone(begin: Callable[..., Driver]) -> None:
    driver = begin("parameters.per_device_train_batch_size=1", "resources.cpus=2")
    assert driver.start() == [0, 1]
    for number in (0, 1):
        record = driver.fail(number)
        assert (record.state, record.incidents[0]["at_once"]) == ("RUNNING", 1)
    assert driver.start() == [0]  # alone now
    failed = driver.fail(0)
    assert failed.state == "FAIL"
    assert str(failed.reason) == "out of memory: the kernel killed its process (with per_device_train_batch_size 1)"


def test_a_trial_alone_goes_down_to_one_and_fails(begin: Callable[..., Driver]) -> None:
    driver = begin("resources.cpus=4")
    sizes = []
    while driver.start() == [0]:
        record = driver.fail(0)
        if record.state == "FAIL":
            break
        assert "at_once" not in record.incidents[-1]
        sizes.append(record.used["per_device_train_batch_size"])
    assert sizes == [4, 2, 1]
    assert "(with per_device_train_batch_size 1)" in str(record.reason)
    assert record.params["per_device_train_batch_size"] == 8


@pytest.mark.parametrize("failure", [TrialFailure("memory", "CUDA out of memory"), TrialFailure("crash", "kill -9")])
def test_another_failure_leaves_the_number_as_it_is(begin: Callable[..., Driver], failure: TrialFailure) -> None:
    driver = begin()
    driver.start()
    assert "at_once" not in driver.fail(1, failure).incidents[0]
    assert driver.start() == [0, 1, 2, 3]
    driver.fail(2)
    assert "at_once" not in driver.fail(3, failure).incidents[0]  # though it ran beside one that was killed
    assert driver.searcher.max_running() == 3


def test_the_number_is_kept_when_the_sweep_goes_on_unless_there_is_more_memory(
    begin: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = begin()
    driver.start()
    driver.fail(3)
    assert begin().searcher.max_running() == 3
    monkeypatch.setattr(module, "usable_memory", lambda: 16 * GIB)
    assert begin().searcher.max_running() == 4


@pytest.mark.parametrize(
    "error", [OutOfMemoryError("killed: running low on memory"), NodeDiedError("gone"), OSError("odd")]
)
def test_no_error_of_ray_about_a_process_ends_the_sweep(error: Exception) -> None:
    told: list[Exception] = []
    actor = SimpleNamespace(actor_id=1, _on_error=None)
    task = SimpleNamespace(_tracked_actor=actor, _on_error=lambda actor, error: told.append(error))
    manager: Any = SimpleNamespace(_failed_actor_ids=set(), _cleanup_actor=lambda tracked_actor: None)
    with unknown_errors_as_deaths():
        RayActorManager._actor_task_failed(manager, task, error)
        RayActorManager._actor_task_failed(manager, task, died := ActorDiedError())
    assert isinstance(told[0], RayActorError)
    assert str(told[0]) == str(error)
    assert told[1] is died
    with pytest.raises(RuntimeError, match="unexpected"):
        RayActorManager._actor_task_failed(manager, task, error)
