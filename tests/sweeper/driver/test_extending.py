from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.storages import RDBStorage
from rich.console import Console

from jobs.checkpoint import damage, has_state
from sweeper.cluster.capacity import Machine
from sweeper.driver.extending import copy_best_checkpoint, draws_of, extension_line, imported_trials
from sweeper.driver.run import run_sweep
from sweeper.driver.sweep import trial_folder
from sweeper.errors import ConfigError
from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import Ledger, create_ledger, load_ledger
from sweeper.ledger.record import ORIGIN, TrialRecord
from sweeper.process.signals import Interrupt
from sweeper.space.search_space import SearchSpace
from sweeper.storage.settings import Stores, read_stores
from tests.support.invariants import check
from tests.support.trials import evaluated, saved, saved_by_trainer
from tests.toy import JOB, ToyParams

Make = Callable[..., SearchSpace]
HILL = ("parameters.backbone=hill", "search={sampler: grid}", "parameters.learning_rate={values: [1e-3, 1e-2]}")
BOTH = ("parameters.backbone={values: [hill, valley]}", *HILL[1:])
CONSOLE = Console(quiet=True)


def ask(ledger: Ledger, space: SearchSpace) -> TrialRecord:
    record = ledger.ask(space)
    assert record is not None
    return record


def trained(ledger: Ledger, space: SearchSpace, folder: Path) -> None:
    """Every trial there is, as a sweep would run it."""
    for record in iter(lambda: ledger.ask(space), None):
        place = trial_folder(folder, record.number)
        place.mkdir(parents=True)
        JOB.train(
            ToyParams(**record.params),
            "sample",
            place,
            lambda metrics, checkpoint, number=record.number: ledger.report(
                number, {**metrics, "seconds": 1.0}, str(checkpoint)
            ),
        )
        ledger.finish(record.number, "COMPLETE")


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return read_stores(tmp_path, {})


@pytest.fixture
def old(stores: Stores, toy_space: Make) -> Ledger:
    """A finished sweep over one backbone."""
    space = toy_space(*HILL)
    ledger = create_ledger(open_storage(stores.ledger), space, "toy")
    trained(ledger, space, stores.root / "toy")
    return ledger


def extend(space: SearchSpace, stores: Stores) -> Ledger:
    outcome = run_sweep(space, stores, Machine(2, 0), CONSOLE, Interrupt(), extend=True)
    return load_ledger(open_storage(stores.ledger), outcome.name)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("default")
def test_a_backbone_added_later_is_all_that_is_trained(old: Ledger, stores: Stores, toy_space: Make) -> None:
    space = toy_space(*BOTH)
    ledger = extend(space, stores)
    records = ledger.records()
    assert ledger.name == "toy-2"
    assert [record.state for record in records] == ["COMPLETE"] * 4
    assert [record.params["backbone"] for record in records] == ["hill", "hill", "valley", "valley"]
    assert [record.origin for record in records] == ["toy/0", "toy/1", None, None]
    assert [record.value for record in records[:2]] == [record.value for record in old.records()]
    check(ledger, stores)
    assert [r.number for r in extend(space, stores).records()] == [0, 1, 2, 3]  # once more: nothing is left to do
    assert extend(space, stores).name == "toy-2"


def test_a_taken_over_trial_has_its_own_checkpoint(old: Ledger, stores: Stores, toy_space: Make) -> None:
    outcome = run_sweep(
        toy_space(*HILL, "keep.checkpoints=1", "objective=eval_loss"),
        stores,
        Machine(2, 0),
        CONSOLE,
        Interrupt(),
        extend=True,
    )
    records = load_ledger(open_storage(stores.ledger), outcome.name).records()
    best = min(records, key=lambda record: record.value or 0.0)
    assert best.checkpoint is not None
    assert best.checkpoint.startswith(str(stores.root / "toy-2"))
    shutil.rmtree(stores.root / "toy")
    assert damage(Path(best.checkpoint)) is None
    assert sum(Path(record.checkpoint or "gone").exists() for record in records) == 1  # retention knows its own only


def test_a_taken_over_checkpoint_shares_its_files_and_has_no_training_state(
    stores: Stores, toy_space: Make, tmp_path: Path
) -> None:
    space = toy_space()
    ledger = create_ledger(open_storage(stores.ledger), space, "toy")
    evaluated(ledger, ask(ledger, space).number, tmp_path / "0", 4, saved_by_trainer)
    best = Path(str(ledger.finish(0, "COMPLETE").checkpoint))
    copy = Path(str(copy_best_checkpoint(ledger.record(0), space, tmp_path / "copy")))
    assert damage(copy) is None
    assert {path.name for path in copy.iterdir()} == {
        "model.safetensors",
        "state.json",
        "trainer_state.json",
        "manifest.json",
    }
    assert (copy / "model.safetensors").samefile(best / "model.safetensors")
    assert damage(best) is None
    assert has_state([path.name for path in best.iterdir()])
    (best / "model.safetensors").unlink()
    assert copy_best_checkpoint(ledger.record(0), space, tmp_path / "again") is None
    assert not list((tmp_path / "again").iterdir())


def test_repeats_are_not_taken_along(stores: Stores, toy_space: Make, tmp_path: Path) -> None:
    """The new space would draw the repeat's seed too."""
    space = toy_space(*HILL, "parameters.learning_rate=1e-3", "parameters.seed={values: [42, 43]}")
    ledger = create_ledger(open_storage(stores.ledger), space, "toy")
    first = ask(ledger, space)
    for record in (first, ledger.repeat(first.number, 43 if first.params["seed"] == 42 else 42)):
        metrics = {"height": 0.5, "eval_loss": 0.5, "epoch": 4.0, "seconds": 1.0}
        ledger.report(record.number, metrics, str(saved(tmp_path / str(record.number), 4)))
        ledger.finish(record.number, "COMPLETE")
    assert [record.repeat_of for record in ledger.records()] == [None, first.number]
    (taken,) = imported_trials(ledger, space, lambda number: tmp_path / f"toy-2/{number}")
    assert taken.user_attrs[ORIGIN] == "toy/0"


def test_a_sweep_that_was_cut_short_before_it_was_ready_is_made_again(
    old: Ledger, stores: Stores, toy_space: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    space = toy_space(*HILL, "objective=eval_loss")
    monkeypatch.setattr("sweeper.ledger.ledger.grid", killed)  # after the import, before it is on record as ready
    with pytest.raises(Killed):
        extend(space, stores)
    monkeypatch.undo()
    assert [record.origin for record in extend(space, stores).records()] == ["toy/0", "toy/1"]


def test_a_trial_fits_where_the_space_would_draw_it(toy_space: Make, storage: RDBStorage) -> None:
    space = toy_space()
    params = dict(ask(create_ledger(storage, space, "toy"), space).params)
    draws = draws_of(space, params)
    assert draws is not None
    assert {label: value for label, (_, value) in draws.items()} == {
        "backbone": params["backbone"],
        "learning_rate": params["learning_rate"],
    }
    assert draws_of(toy_space("parameters.learning_rate={min: 0.5, max: 0.9}"), params) is None
    assert draws_of(toy_space("parameters.num_train_epochs=5"), params) is None
    assert draws_of(toy_space("parameters.warmup_ratio=0.1"), params) is None
    assert draws_of(toy_space(), {**params, "backbone": "dale"}) is None
    assert draws_of(toy_space(), {k: v for k, v in params.items() if k != "folder"}) is None


def test_a_line_tells_how_many_trials_fit_and_why_the_others_do_not(
    stores: Stores, toy_space: Make, tmp_path: Path
) -> None:
    space = toy_space("parameters.backbone={values: [hill, valley]}", *HILL[1:])
    ledger = create_ledger(open_storage(stores.ledger), space, "toy")
    trained(ledger, space, tmp_path)
    ledger.repeat(0, 7)
    assert [record.params["backbone"] for record in ledger.records()][:4] == ["hill", "hill", "valley", "valley"]
    lines = {
        change: extension_line(ledger, toy_space(*BOTH, change))
        for change in ("parameters.backbone=hill", "parameters.num_train_epochs=5", "parameters.seed=3", "name=other")
    }
    assert lines == {
        "parameters.backbone=hill": "--extend: 2 of 4 trials of toy fit and are reused; left out: backbone was valley, "
        "is now hill (trials 2, 3)",
        "parameters.num_train_epochs=5": "--extend: no trial of toy fits, so all trials are new: num_train_epochs was "
        "4, is now 5 (trials 0, 1, 2, 3)",
        "parameters.seed=3": "--extend: no trial of toy fits, so all trials are new: seed was 42, is now 3 "
        "(trials 0, 1, 2, 3)",
        "name=other": "--extend: 4 of 4 trials of toy fit and are reused",
    }
    ranged = toy_space(*HILL[:1], "parameters.learning_rate={min: 2e-3, max: 1e-2}", "search={trials: 2}")
    assert extension_line(ledger, ranged).startswith("--extend: 1 of 4 trials of toy fit and are reused; left out: ")
    assert "learning_rate was 0.001, is now 0.002 … 0.01 (trials 0, 2)" in extension_line(ledger, ranged)


def test_a_trial_that_has_not_ended_well_is_left_out_with_its_state(storage: RDBStorage, toy_space: Make) -> None:
    space = toy_space()
    ledger = create_ledger(storage, space, "toy")
    for _ in range(7):
        ledger.finish(ask(ledger, space).number, "FAIL", "broken")
    ask(ledger, space)
    assert extension_line(ledger, space) == (
        "--extend: no trial of toy fits, so all trials are new: has failed (trials 0, 1, 2, 3, 4 and 2 more); "
        "has not ended (trial 7)"
    )


def test_there_must_be_a_sweep_to_extend(stores: Stores, toy_space: Make) -> None:
    with pytest.raises(ConfigError, match="unknown sweep 'toy'"):
        extend(toy_space(), stores)
    assert not (stores.root / "toy").exists()
