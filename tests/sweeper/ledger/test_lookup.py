from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.storages import RDBStorage

from jobs import checkpoint
from sweeper.errors import ConfigError, DataFailure, EnvironmentFailure
from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import Ledger, create_ledger
from sweeper.ledger.lookup import find_trial, split
from sweeper.release.lookup import find_checkpoint
from sweeper.space.search_space import SearchSpace
from sweeper.storage.settings import read_stores


@pytest.fixture
def ledger(storage: RDBStorage, toy_space: Callable[..., SearchSpace], tmp_path: Path) -> Ledger:
    """Three trials that have ended, the second of them the best; only its checkpoint and answers were kept."""
    space = toy_space()
    ledger = create_ledger(storage, space, "toy")
    for value in (0.2, 0.9, 0.4):
        record = ledger.ask(space)
        assert record is not None
        folder = tmp_path / "trials" / str(record.number) / "checkpoint-000001"
        ledger.report(
            record.number, {"height": value, "eval_loss": 1 - value, "epoch": 1.0, "seconds": 1.0}, str(folder)
        )
        ledger.finish(record.number, "COMPLETE")
    unfinished = tmp_path / "trials" / "1" / "unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "weights").write_text("1 2 3")
    checkpoint.publish(unfinished, unfinished.parent, 1)
    checkpoint.write_json(unfinished.parent / checkpoint.PREDICTIONS, [{"id": "q1", "answer": "山"}])
    return ledger


def test_a_sweep_means_its_best_trial(ledger: Ledger) -> None:
    trial = find_trial("toy", ledger.storage)
    assert (trial.record.number, trial.name, trial.job) == (1, "toy/1", "tests.toy:JOB")
    assert trial.predictions() == [{"id": "q1", "answer": "山"}]


def test_a_number_means_that_trial(ledger: Ledger) -> None:
    assert find_trial("toy/2", ledger.storage).record.value == 0.4
    assert split("a/b/2") == ("a/b/2", None)


def test_what_is_not_there_is_answered_with_what_is(ledger: Ledger) -> None:
    with pytest.raises(ConfigError, match=r"toy has no trial 7; it has 0, 1, 2"):
        find_trial("toy/7", ledger.storage)
    with pytest.raises(ConfigError, match="did you mean 'toy'"):
        find_trial("toi", ledger.storage)


@pytest.mark.parametrize("name", ["toy/x", "toy/", "toy/1/2", "toy/-1"])
def test_what_is_no_number_of_a_trial_is_told(ledger: Ledger, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^trial {name}: .* is not the number of a trial; .* toy/0$"):
        find_trial(name, ledger.storage)
    with pytest.raises(ConfigError, match="unknown sweep 'tou'; did you mean 'toy'"):
        find_trial("tou/x", ledger.storage)


@pytest.mark.parametrize("folder", ["hw", "./hw", "a/hw", "toy"])
def test_a_folder_without_a_checkpoint_is_told_unless_a_sweep_has_its_name(
    here: Path, toy_space: Callable[..., SearchSpace], folder: str
) -> None:
    (here / folder).mkdir(parents=True)
    stores = read_stores()
    without_a_ledger = f"checkpoint {folder}: the folder holds no manifest.json"
    with pytest.raises(ConfigError, match=without_a_ledger):
        find_checkpoint(folder, stores)
    create_ledger(open_storage(stores.ledger), toy_space(), "toy")
    with pytest.raises(ConfigError, match="no trial has ended" if folder == "toy" else without_a_ledger):
        find_checkpoint(folder, stores)


def test_a_sweep_without_a_value_has_no_best_trial(storage: RDBStorage, toy_space: Callable[..., SearchSpace]) -> None:
    create_ledger(storage, toy_space(), "young")
    with pytest.raises(ConfigError, match="no trial has ended with a value yet"):
        find_trial("young", storage)


def test_a_checkpoint_is_found_by_trial_and_by_folder(ledger: Ledger, tmp_path: Path) -> None:
    stores = read_stores(tmp_path, {"SWEEPER_LEDGER": f"sqlite:///{tmp_path}/ledger.db"})
    folder = tmp_path / "trials" / "1" / "checkpoint-000001"
    assert find_checkpoint("toy", stores) == folder
    assert find_checkpoint(str(folder), stores) == folder


def test_one_that_was_not_kept_or_is_damaged_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match=r"toy/0: its checkpoint is not kept"):
        find_trial("toy/0", ledger.storage).checkpoint(tmp_path)
    with pytest.raises(DataFailure, match=r"toy/0: has left no predictions\.json"):
        find_trial("toy/0", ledger.storage).predictions()
    best = find_trial("toy", ledger.storage)
    (best.checkpoint(tmp_path) / "weights").write_text("1 2 4")
    with pytest.raises(EnvironmentFailure, match="changed since it was written"):
        best.checkpoint(tmp_path)
