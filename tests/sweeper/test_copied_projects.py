"""A copied or moved project goes on with every command, and a copy leaves its original alone, byte for byte."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

from sweeper.driver.checkpoints import unneeded_checkpoints
from sweeper.driver.opening import open_ledger
from sweeper.ledger.database import open_storage
from sweeper.space.reading import read_search_space
from sweeper.storage import checkpoint_store
from sweeper.storage.identity import FILE_NAME, places_of, stores_in_use
from sweeper.tracking.client import log_single_run
from tests.support.commands import invoke
from tests.support.drivers import Driver, driven, ledger_in, settings
from tests.support.projects import checksums, project_with_sweep, stores_at, toy_ledger
from tests.support.servers import BUCKET, bucket, client, keys
from tests.support.sources import ROOT
from tests.support.spaces import TOY
from tests.support.trials import saved

Go = Callable[[Path], Path]


@pytest.fixture
def original(tmp_path: Path, blank: Path, here: Path) -> Path:
    return project_with_sweep(tmp_path / "original", blank)


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Go:
    """Change to a project folder, as a new process does."""

    def change(project: Path) -> Path:
        # Private in mlflow 3.17: a process remembers where the files of a run are.
        _artifact_repos_cache.clear()
        monkeypatch.chdir(project)
        return project

    return change


def ran(*arguments: str) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def age(project: Path) -> None:
    """Give a project the records of version 0.1.0: absolute addresses in the ledger, and no identity."""
    sweeps = project / "sweeps"
    for file in sweeps.glob(f"{FILE_NAME}*"):
        file.unlink()
    with closing(sqlite3.connect(sweeps / "ledger.db")) as database, database:
        database.execute(
            "UPDATE trial_user_attributes SET value_json = json_set(value_json, '$.checkpoint', "
            "? || json_extract(value_json, '$.checkpoint')) WHERE key LIKE 'evaluation:%'",
            (f"{sweeps}/",),
        )
        database.execute("DELETE FROM study_user_attributes WHERE key = 'data_in_project'")


def outside(project: Path) -> list[str]:
    """Return the addresses in MLflow's database that are not below the project folder."""
    client = MlflowClient(stores_at(project).tracking)
    experiments = [one for one in client.search_experiments() if one.name != "Default"]
    runs = client.search_runs([one.experiment_id for one in experiments])
    versions = client.search_model_versions()
    addresses = [one.artifact_location for one in experiments] + [run.info.artifact_uri for run in runs]
    addresses += [version.source for version in versions]
    assert experiments
    assert runs
    return [address for address in addresses if not address.startswith(project.as_uri())]


def linked(original: Path, other: Path) -> None:
    """Copy a folder as `cp -al` does: its files are hard links to those of the original."""
    shutil.copytree(original, other, copy_function=os.link)


def linked_and_renamed(original: Path, other: Path) -> None:
    linked(original, other)
    original.rename(original.with_name("renamed"))


@pytest.mark.parametrize(
    ("transfer", "aged"),
    [
        pytest.param(shutil.copytree, False, id="copied"),
        pytest.param(Path.rename, True, id="moved, version 0.1.0"),
        pytest.param(Path.rename, False, id="moved", marks=pytest.mark.slow),
        pytest.param(shutil.copytree, True, id="copied, version 0.1.0", marks=pytest.mark.slow),
        pytest.param(linked, False, id="linked", marks=pytest.mark.slow),
        pytest.param(linked_and_renamed, False, id="linked, then renamed", marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("default")
def test_every_command_goes_on_in_another_folder(
    original: Path, tmp_path: Path, go: Go, transfer: Callable[[Path, Path], object], aged: bool
) -> None:
    go(original)
    ran("sync", "toy")
    ran("promote", "toy/0")
    if aged:
        age(original)
    go(tmp_path)
    other = tmp_path / "另 一个"
    before = checksums(original)
    transfer(original, other)
    go(other)
    assert "toy" in ran("ls")
    checkpoints = [row["checkpoint"] for row in json.loads(ran("compare", "toy", "--json"))]
    assert all(one is None or one.startswith(str(other)) for one in checkpoints)
    ran("report", "toy")
    assert str(other / "data") in ran("best", "toy")
    assert "is the champion" in ran("promote", "toy/0")
    assert "is champion" in ran("promote", "toy/1", "--force")
    ran("sync", "toy")
    assert outside(other) == []
    ledger, stores = toy_ledger(other), stores_at(other)
    assert ledger.attributes["search_space"]["data"] == str(other / "data")
    deleted = unneeded_checkpoints(ledger.records(), "max", 1)
    assert deleted
    assert all(place.startswith(str(other)) and Path(place).is_dir() for place in deleted)
    runs = MlflowClient(stores.tracking).search_runs(["1"])
    assert len({run.info.run_name for run in runs}) == len(runs)  # the runs went on; none was made twice
    places = [place for place in (original, original.with_name("renamed")) if place.exists()]
    assert [checksums(place) for place in places] == ([] if transfer is Path.rename else [before])


@pytest.mark.filterwarnings("default")
def test_a_submission_is_recorded_in_the_copy_alone(original: Path, tmp_path: Path) -> None:
    file = tmp_path / "submission.csv"
    file.write_text("id,answer\n")
    log_single_run(stores_at(original), "submissions", file.name, {}, {}, [file])
    before, copy = checksums(original), shutil.copytree(original, tmp_path / "copy")
    log_single_run(stores_at(copy), "submissions", file.name, {}, {}, [file])
    assert checksums(original) == before
    assert outside(copy) == []


@pytest.mark.filterwarnings("default")
def test_a_copy_that_shares_mlflow_has_runs_of_its_own(tmp_path: Path, blank: Path, here: Path, go: Go) -> None:
    shared = shutil.copy(blank, tmp_path / "shared.db")
    original = project_with_sweep(tmp_path / "original", blank, f"[mlflow]\ntracking_uri = sqlite:///{shared}\n")
    go(original)
    ran("sync", "toy")
    before = checksums(original)
    copy = go(shutil.copytree(original, tmp_path / "copy"))
    ran("sync", "toy")
    ran("sync", "toy")
    assert checksums(original) == before
    client = MlflowClient(f"sqlite:///{shared}")
    runs = [run for one in client.search_experiments() for run in client.search_runs([one.experiment_id])]
    keys = {run.data.tags["sweeper.sweep_key"] for run in runs}
    assert (len(runs), len(keys)) == (8, 2)
    of_copy = {record.run_id for record in toy_ledger(copy).records()}
    assert len(of_copy) == 3
    assert of_copy.isdisjoint({record.run_id for record in toy_ledger(original).records()})
    homes = {run.info.run_id: run.info.artifact_uri for run in runs}
    assert all(homes[str(run_id)].startswith(copy.as_uri()) for run_id in of_copy)


def test_a_copy_without_its_own_data_reads_the_originals(original: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(original, tmp_path / "copy")
    shutil.rmtree(copy / "data")
    assert toy_ledger(copy).attributes["data"] == str(original / "data")
    assert toy_ledger(original).attributes["data"] == str(original / "data")


def test_the_same_data_under_another_path_is_no_other_search_space(original: Path, tmp_path: Path, go: Go) -> None:
    copy = go(shutil.copytree(original, tmp_path / "copy"))  # its YAML names the original's data
    stores = stores_in_use(stores_at(copy))
    storage = open_storage(stores.ledger, places_of(stores))
    ledger = open_ledger(storage, read_search_space(copy / "toy.yaml", ["search.trials=3"]), "toy")
    assert ledger.attributes["data_fingerprint"]


# real sweeps


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.filterwarnings("default")
def test_running_in_a_copy_leaves_the_whole_original_as_it_was(original: Path, tmp_path: Path) -> None:
    with contextlib.chdir(original):
        ran("sync", "toy")
        ran("promote", "toy")
    before, copy = checksums(original), shutil.copytree(original, tmp_path / "copy")
    driven(copy, "run", "toy.yaml", "search.trials=5", "keep.checkpoints=1")
    driven(copy, "promote", "toy", "--force")
    driven(copy, "sync", "toy")
    assert checksums(original) == before
    assert len(list((copy / "sweeps/toy/trials").rglob("state.json"))) == 1
    assert outside(copy) == []
    assert [(one.state, one.reason) for one in toy_ledger(copy).records()] == [("COMPLETE", None)] * 5


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(400)
def test_trials_that_were_killed_go_on_in_a_moved_project(tmp_path: Path) -> None:
    before, after, waits = tmp_path / "before", tmp_path / "after", tmp_path / "waits"
    for folder in (before, waits):
        folder.mkdir()
    (before / "toy.yaml").write_text(TOY, encoding="utf-8")
    driver = Driver(before, "run", "toy.yaml", *settings(waits))
    try:
        driver.until(lambda: len(list(waits.glob("here-*"))) >= 1 and waiting_in(before))
        driver.process.send_signal(signal.SIGKILL)
    finally:
        driver.end()
    before.rename(after)
    (waits / "go").touch()
    driven(after, "resume", "toy")
    starts = [path.read_text().split() for path in (after / "sweeps/toy/trials").glob("*/starts")]
    assert ["0", "2"] in starts
    assert not before.exists()


def waiting_in(folder: Path) -> bool:
    return any(len(record.evaluations) == 2 for record in ledger_in(folder).records())


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("moved", [False, True], ids=["copied", "moved"])
def test_a_ledger_of_version_0_1_0_is_resumed_in_another_folder(tmp_path: Path, moved: bool) -> None:
    original, other = tmp_path / "original", tmp_path / "other"
    (original / "sweeps").mkdir(parents=True, mode=0o700)
    with closing(sqlite3.connect(original / "sweeps/ledger.db")) as database:
        database.executescript((ROOT / "tests/ledgers/0.1.0.sql").read_text(encoding="utf-8"))
        with database:
            database.execute(
                "UPDATE trial_user_attributes SET value_json = replace(value_json, '\"sweeps/toy', ?)",
                (f'"{original}/sweeps/toy',),
            )
    trial = original / "sweeps/toy/trials/0000"
    kept = saved(trial, 3)
    before = checksums(original)
    (original.rename if moved else lambda to: shutil.copytree(original, to))(other)
    driven(other, "resume", "toy")
    assert {record.state for record in toy_ledger(other).records()} <= {"COMPLETE", "PRUNED", "FAIL"}
    assert not original.exists() if moved else checksums(original) == before
    assert moved or kept.is_dir()


@pytest.fixture(params=["folder", "bucket"])
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Callable[[], dict[str, str]]]]:
    """Return an address for checkpoints outside the project, and a function that returns what is stored there."""
    if request.param == "folder":
        yield str(tmp_path / "kept"), lambda: checksums(tmp_path / "kept")
        return
    with bucket() as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        checkpoint_store._bucket_files.cache_clear()
        yield (
            f"s3://{BUCKET}/all",
            lambda: {key: client().head_object(Bucket=BUCKET, Key=key)["ETag"] for key in keys()},
        )
    checkpoint_store._bucket_files.cache_clear()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")
def test_a_copy_deletes_no_checkpoint_of_its_original_from_a_shared_place(
    tmp_path: Path, elsewhere: tuple[str, Callable[[], dict[str, str]]]
) -> None:
    address, stored = elsewhere
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.mkdir()
    (original / "toy.yaml").write_text(TOY, encoding="utf-8")
    (original / "mlflow.ini").write_text(f"[storage]\ncheckpoints = {address}\n")
    driven(original, "run", "toy.yaml", "search.trials=2", "parameters.num_train_epochs=2")
    shutil.copytree(original, copy)
    before, there = checksums(original), stored()
    assert sum("state.json" in key for key in there) == 2
    driven(copy, "run", "toy.yaml", "search.trials=5", "parameters.num_train_epochs=2", "keep.checkpoints=1")
    after = stored()
    own = {key for key in after if "/copy-" in f"/{key}"}
    assert {key: value for key, value in after.items() if key not in own} == there
    assert sum("state.json" in key for key in own) <= 1
    assert checksums(original) == before
    best = [record.checkpoint for record in toy_ledger(copy).records() if record.checkpoint]
    assert any("/copy-" in place for place in best)
    driven(copy, "promote", "toy")
    assert {key: value for key, value in stored().items() if key not in own} == there
