"""A trial that goes back to an earlier checkpoint: what the ledger and early stopping know of it. No Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.storages import RDBStorage

from sweeper.cluster.capacity import Machine
from sweeper.driver.callbacks import LedgerCallback
from sweeper.driver.searcher import LedgerSearcher, new_trials_source
from sweeper.driver.stopping.schedulers import LedgerAsha, early_stopping_scheduler
from sweeper.driver.sweep import Sweep
from sweeper.ledger.ledger import create_ledger
from sweeper.process.signals import Interrupt
from sweeper.space.search_space import SearchSpace
from tests.support.trials import asked, evaluated

Make = Callable[..., SearchSpace]
ASHA = "early_stopping={scheduler: asha, grace_period: 1, reduction_factor: 2}"
MACHINE = Machine(cpus=2, gpus=0)


@pytest.fixture
def sweep(storage: RDBStorage, toy_space: Make, tmp_path: Path) -> Sweep:
    """A sweep with one running trial of which three epochs are on record."""
    space = toy_space(ASHA, "search.trials=1")
    ledger = create_ledger(storage, space, "toy")
    evaluated(ledger, asked(ledger, space).number, tmp_path / "toy/trials/0000", 3)
    return Sweep(ledger, space, tmp_path / "toy", MACHINE)


def damage(sweep: Sweep, epoch: int) -> None:
    (sweep.workdir(0) / f"checkpoint-{epoch:06d}/state.json").write_text("7")


def heights(sweep: Sweep) -> list[float]:
    return [evaluation["height"] for evaluation in sweep.ledger.record(0).evaluations]


def searcher(sweep: Sweep) -> LedgerSearcher:
    return LedgerSearcher(sweep, new_trials_source(sweep), lambda record: None, Interrupt())


def report(sweep: Sweep, epoch: int, height: float, **more: Any) -> None:
    """Let a trial's process report to the driver."""
    callback, trial = (
        LedgerCallback(searcher(sweep)),
        SimpleNamespace(config={"number": 0, "params": {"num_train_epochs": 4}}),
    )
    metrics = {"height": height, "eval_loss": 0.5, "epoch": float(epoch), "seconds": 1.0}
    callback.on_trial_result(0, [], trial, {**metrics, "checkpoint": None, "timing": {}, "conditions": {}, **more})


@pytest.mark.parametrize(("damaged", "left"), [((), 3), ((3,), 2), ((2, 3), 1), ((1, 2, 3), 0)])
def test_epochs_after_the_checkpoint_it_resumes_from_are_removed(
    sweep: Sweep, damaged: tuple[int, ...], left: int
) -> None:
    for epoch in damaged:
        damage(sweep, epoch)
    seen: list[int] = []
    asking = LedgerSearcher(
        sweep, new_trials_source(sweep), lambda record: seen.append(len(record.evaluations)), Interrupt()
    )
    config = asking.suggest("first")
    assert isinstance(config, dict)
    assert str(config["resume_from"]).endswith(f"checkpoint-{left:06d}") or not left
    assert heights(sweep) == [0.1, 0.2, 0.3][:left]
    assert seen == [left]  # MLflow is told of no epoch that is trained again


def test_a_process_that_found_its_checkpoint_damaged_tells_where_it_began(sweep: Sweep) -> None:
    report(sweep, 3, 0.7, resumed_from="checkpoint-000001")
    assert heights(sweep) == [0.1, 0.7]
    report(sweep, 4, 0.8)
    assert heights(sweep) == [0.1, 0.7, 0.8]


def test_a_process_that_found_no_checkpoint_begins_anew(sweep: Sweep) -> None:
    report(sweep, 2, 0.7, resumed_from=None)
    assert heights(sweep) == [0.7]


# early stopping


def test_a_stop_is_written_down_with_the_report_that_led_to_it(sweep: Sweep) -> None:
    report(sweep, 2, 0.1, done=False)
    assert not sweep.ledger.record(0).stopped
    report(sweep, 3, 0.1, done=True)  # Tune's word for it, before it ends the trial
    assert sweep.ledger.record(0).stopped
    report(sweep, 4, 0.1, done=True)
    assert sweep.ledger.record(0).trained
    assert not sweep.ledger.record(0).stopped


def known(scheduler: Any) -> dict[float, dict[Any, float]]:
    """Return the values that ASHA compares with, by epoch."""
    return {epoch: dict(values) for epoch, values in scheduler._brackets[0]._rungs}


def tune_trial(name: str) -> Any:
    return SimpleNamespace(trial_id=name, config={"number": 0})


def test_early_stopping_counts_a_trial_that_resumes_once(sweep: Sweep) -> None:
    scheduler = early_stopping_scheduler(sweep.ledger, sweep.space)
    scheduler.on_trial_add(None, tune_trial("after a crash"))
    scheduler.on_trial_result(None, tune_trial("after a crash"), {"epoch": 3.0, "height": 0.5})
    assert known(scheduler) == {4: {}, 2: {0: 0.2}, 1: {0: 0.1}}


def test_early_stopping_forgets_what_is_trained_again(sweep: Sweep) -> None:
    scheduler = early_stopping_scheduler(sweep.ledger, sweep.space)
    sweep.ledger.rewind(0, 1.0)
    scheduler.on_trial_add(None, tune_trial("resumed"))
    assert known(scheduler) == {4: {}, 2: {}, 1: {0: 0.1}}
    scheduler.on_trial_result(None, tune_trial("resumed"), {"epoch": 2.0, "height": 0.9})
    assert known(scheduler) == {4: {}, 2: {0: 0.9}, 1: {0: 0.1}}
    scheduler.on_trial_complete(None, tune_trial("resumed"), {"epoch": 2.0, "height": 0.9})
    assert known(scheduler) == {4: {}, 2: {0: 0.9}, 1: {0: 0.1}}


def test_early_stopping_replaces_a_value_that_is_reported_again(sweep: Sweep) -> None:
    scheduler = early_stopping_scheduler(sweep.ledger, sweep.space)
    scheduler.on_trial_add(None, tune_trial("from a bucket"))
    scheduler.on_trial_result(None, tune_trial("from a bucket"), {"epoch": 1.0, "height": 0.6})
    assert known(scheduler) == {4: {}, 2: {}, 1: {0: 0.6}}
    assert isinstance(scheduler, LedgerAsha)
