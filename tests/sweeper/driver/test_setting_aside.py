"""Trials in a sweep's folder that its ledger does not know are set aside, never deleted. No Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.cluster.capacity import Machine
from sweeper.driver.mirroring import mirror_of
from sweeper.driver.opening import create_extended, open_ledger, set_aside_line
from sweeper.driver.sweep import CREATING, Sweep, free_storage, set_aside
from sweeper.ledger.database import LedgerStorage, open_storage
from sweeper.ledger.ledger import create_ledger, load_ledger, sweep_exists
from sweeper.space.search_space import SearchSpace
from sweeper.storage.settings import Stores
from tests.support.trials import asked, evaluated

Make = Callable[..., SearchSpace]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder that a sweep of two trials has left."""
    folder = tmp_path / "toy"
    for number in (0, 1):
        (folder / f"trials/{number:04d}").mkdir(parents=True)
        (folder / f"trials/{number:04d}/log.txt").write_text(f"{number}")
    for name in ("lock", "owner", "log.txt"):
        (folder / name).write_text(name)
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_sweep_that_is_created_again_finds_an_empty_folder(folder: Path) -> None:
    assert set_aside(folder, None) == folder.with_name("toy.old")
    assert files(folder) == ["lock", "owner"]
    assert files(folder.with_name("toy.old")) == ["log.txt", "trials/0000/log.txt", "trials/0001/log.txt"]


def test_what_is_set_aside_again_gets_a_place_of_its_own(folder: Path) -> None:
    folder.with_name("toy.old").mkdir()
    assert set_aside(folder, None) == folder.with_name("toy.old-2")
    assert files(folder.with_name("toy.old")) == []


def test_only_unknown_trials_of_a_known_sweep_move(folder: Path) -> None:
    """As with a ledger that was restored from an older backup."""
    aside = set_aside(folder, {0})
    assert aside is not None
    assert files(aside) == ["trials/0001/log.txt"]
    assert files(folder) == ["lock", "log.txt", "owner", "trials/0000/log.txt"]
    assert set_aside(folder, {0}) is None


def test_a_folder_without_trials_stays(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    (folder / "trials/0000").mkdir(parents=True)
    (folder / "lock").touch()
    assert set_aside(folder, None) is None
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_copies_of_a_creation_that_was_cut_short_stay(
    folder: Path, storage: LedgerStorage, toy_space: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = toy_space()
    extended = create_ledger(storage, space, "before")
    evaluated(extended, asked(extended, space).number, folder.with_name("before"), 4)
    extended.finish(0, "COMPLETE")
    fresh = folder.with_name("after")
    fresh.mkdir()
    monkeypatch.setattr("sweeper.driver.opening.create_ledger", lambda *_: exit())
    with pytest.raises(SystemExit):
        create_extended(extended, storage, space, fresh)
    assert set_aside_line(fresh, None) is None
    monkeypatch.undo()
    create_extended(extended, storage, space, fresh)
    assert not (fresh / CREATING).exists()
    assert [trial.origin for trial in open_ledger(storage, space, "after").records()] == ["before/0"]


def test_the_line_names_both_folders_and_a_known_sweep_has_none(
    folder: Path, storage: LedgerStorage, toy_space: Make
) -> None:
    space = toy_space()
    ledger = create_ledger(storage, space, "toy")
    for _ in range(2):
        asked(ledger, space)
    assert set_aside_line(folder, ledger) is None
    line = set_aside_line(folder, None)
    assert line == f"toy: the ledger does not know the trials in {folder}; they are now in {folder}.old"


def test_a_sweep_that_is_created_again_has_another_key_in_mlflow(stores: Stores, toy_space: Make) -> None:
    space, keys = toy_space(), []
    for _ in range(2):
        storage = open_storage(stores.ledger)
        assert not sweep_exists(storage, "toy")
        ledger = open_ledger(storage, space, "toy")
        asked(ledger, space)
        first, again = (mirror_of(ledger, space, stores)._sweep.key for _ in range(2))
        assert first == again
        keys.append(first)
        Path(stores.ledger.removeprefix("sqlite:///")).unlink()
    assert keys[0] != keys[1]


def test_a_sweep_with_runs_of_the_first_versions_keeps_its_key(stores: Stores, toy_space: Make) -> None:
    space = toy_space()
    ledger = open_ledger(open_storage(stores.ledger), space, "toy")
    ledger.set_run(asked(ledger, space).number, "a run")
    assert mirror_of(ledger, space, stores)._sweep.key == f"{stores.root.absolute()}/toy"


def test_a_new_sweep_leaves_checkpoints_of_its_name_in_a_shared_store_alone(
    tmp_path: Path, storage: LedgerStorage, toy_space: Make
) -> None:
    shared, folder = tmp_path / "shared", tmp_path / "toy"
    folder.mkdir()
    assert free_storage(str(shared), folder) == "toy"
    for name in ("toy", "toy.2"):
        (shared / name / "0000/checkpoint-000001").mkdir(parents=True)
    assert free_storage(str(shared), folder) == "toy"  # empty folders are in nobody's way
    (shared / "toy/0000/checkpoint-000001/state.json").touch()
    assert free_storage(str(shared), folder) == "toy.2"
    ledger = open_ledger(storage, toy_space(), "toy", "toy.2")
    sweep = Sweep(load_ledger(storage, "toy"), toy_space(), folder, Machine(cpus=2, gpus=0), str(shared))
    assert (ledger.stored_as, sweep.storage(3)) == ("toy.2", f"{shared}/toy.2/0003")
    (folder / CREATING).write_text("toy")  # what a creation that was cut short has copied there is its own
    assert free_storage(str(shared), folder) == "toy"


def test_a_sweep_of_an_earlier_version_keeps_its_folder_in_a_shared_store(
    storage: LedgerStorage, toy_space: Make
) -> None:
    assert open_ledger(storage, toy_space(), "toy").stored_as == "toy"
