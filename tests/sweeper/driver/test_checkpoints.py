"""What is left of a sweep, and where its trials go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.storages import RDBStorage

from jobs.checkpoint import remove_state
from sweeper.driver.checkpoints import resume_checkpoints
from sweeper.driver.repeats import resume_summary
from sweeper.ledger.ledger import create_ledger
from sweeper.ledger.record import TrialRecord
from sweeper.space.search_space import SearchSpace
from tests.support.trials import asked, evaluated, saved, saved_by_trainer

Make = Callable[..., SearchSpace]


@pytest.fixture
def begun(storage: RDBStorage, toy_space: Make, tmp_path: Path) -> TrialRecord:
    """A trial of which two epochs are on record."""
    space = toy_space()
    ledger = create_ledger(storage, space, "toy")
    return evaluated(ledger, asked(ledger, space).number, tmp_path / "work", 2)


def test_a_trial_goes_on_from_its_newest_evaluation(begun: TrialRecord, tmp_path: Path) -> None:
    assert resume_checkpoints(begun, tmp_path / "work") == (str(tmp_path / "work/checkpoint-000002"),)


def test_a_checkpoint_that_never_reached_the_ledger_is_removed(begun: TrialRecord, tmp_path: Path) -> None:
    unknown = saved(tmp_path / "work", 3)
    assert resume_checkpoints(begun, tmp_path / "work") == (str(tmp_path / "work/checkpoint-000002"),)
    assert not unknown.exists()


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(begun: TrialRecord, tmp_path: Path) -> None:
    damaged = tmp_path / "work/checkpoint-000002"
    (damaged / "state.json").write_text("7")
    assert resume_checkpoints(begun, tmp_path / "work") == (str(tmp_path / "work/checkpoint-000001"),)
    assert not damaged.exists()  # its name is free for the epoch to be written again


def test_without_any_whole_checkpoint_a_trial_starts_afresh(begun: TrialRecord, tmp_path: Path) -> None:
    for checkpoint in (tmp_path / "work").glob("checkpoint-*"):
        (checkpoint / "manifest.json").unlink()
    assert resume_checkpoints(begun, tmp_path / "work") == ()
    assert not list((tmp_path / "work").glob("checkpoint-*"))


def test_a_checkpoint_without_training_state_gives_way_to_the_one_before_it(
    storage: RDBStorage, toy_space: Make, tmp_path: Path
) -> None:
    """As in a ledger restored from a backup: the trial had ended since."""
    space = toy_space()
    ledger = create_ledger(storage, space, "toy")
    record = evaluated(ledger, asked(ledger, space).number, tmp_path, 2, saved_by_trainer)
    assert resume_checkpoints(record, tmp_path) == (str(tmp_path / "checkpoint-000002"),)
    remove_state(tmp_path / "checkpoint-000002")
    assert resume_checkpoints(record, tmp_path) == (str(tmp_path / "checkpoint-000001"),)
    remove_state(tmp_path / "checkpoint-000001")
    assert resume_checkpoints(record, tmp_path) == ()
    assert not list(tmp_path.glob("checkpoint-*"))


def test_the_outlook_says_what_is_finished_goes_on_and_is_new(
    storage: RDBStorage, toy_space: Make, tmp_path: Path
) -> None:
    space = toy_space()
    ledger = create_ledger(storage, space, "toy")
    assert resume_summary(ledger.records(), space) == "0 of 8 trials are finished, 8 are new"
    for number in range(3):
        evaluated(ledger, asked(ledger, space).number, tmp_path / str(number), 4)
        ledger.finish(number, "COMPLETE")
    evaluated(ledger, asked(ledger, space).number, tmp_path / "3", 2)
    assert resume_summary(ledger.records(), space) == "3 of 8 trials are finished, 1 resumes from epoch 2, 4 are new"
    asked(ledger, space)
    evaluated(ledger, asked(ledger, space).number, tmp_path / "5", 3)
    assert resume_summary(ledger.records(), space) == (
        "3 of 8 trials are finished, 2 resume from epochs 2 and 3, 1 starts again, 2 are new"
    )


def test_a_finished_sweep_has_nothing_left_to_do(storage: RDBStorage, toy_space: Make, tmp_path: Path) -> None:
    space = toy_space("search.trials=1", "repeats={top: 1, seeds: [42]}")  # 42 is the seed it had
    ledger = create_ledger(storage, space, "toy")
    evaluated(ledger, asked(ledger, space).number, tmp_path / "0", 4)
    ledger.finish(0, "COMPLETE")
    assert resume_summary(ledger.records(), space) == (
        "the sweep is finished: its 1 trials have ended, nothing remains to do"
    )
    more = toy_space("search.trials=3")
    assert resume_summary(ledger.records(), more) == "1 of 3 trials are finished, 2 are new"
