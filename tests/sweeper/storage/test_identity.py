"""A root knows whether it was copied or moved, and a copy keeps to itself. No ledger, no training."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs import fault_injection
from sweeper.errors import EnvironmentFailure
from sweeper.storage import identity
from sweeper.storage.identity import FILE_NAME, places_of, stores_in_use
from sweeper.storage.settings import Stores, read_stores
from tests.support.projects import checksums

INI = "[storage]\ncheckpoints = {}\n"
CLAIM = """
import sys
from pathlib import Path
from sweeper.storage.identity import stores_in_use
from sweeper.storage.settings import read_stores
stores_in_use(read_stores(Path(sys.argv[1]), {}))
"""


def stores_at(project: Path) -> Stores:
    return read_stores(project, {})


def recorded(project: Path) -> dict[str, Any]:
    """Return the identity that a root has stored."""
    values: dict[str, Any] = json.loads((project / "sweeps" / FILE_NAME).read_text(encoding="utf-8"))
    return values


def mlflow_addresses(project: Path) -> list[str]:
    with closing(sqlite3.connect(project / "sweeps" / "mlflow.db")) as database:
        return [text for (text,) in database.execute("SELECT artifact_location FROM experiments ORDER BY 1")]


def used(project: Path, checkpoints: str = "s3://bucket/all") -> Path:
    """Make a project whose root has been used: with an identity, and an experiment in a database like MLflow's."""
    (project / "sweeps").mkdir(parents=True)
    (project / "mlflow.ini").write_text(INI.format(checkpoints))
    with closing(sqlite3.connect(project / "sweeps" / "mlflow.db")) as database, database:
        database.execute("CREATE TABLE experiments (artifact_location TEXT)")
        places = (stores_at(project).artifacts, "s3://bucket/artifacts", None)
        database.executemany("INSERT INTO experiments VALUES (?)", [(place,) for place in places])
    stores_in_use(stores_at(project))
    return project


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return used(tmp_path / "一 original")


def test_a_new_root_gets_an_identity_that_only_its_owner_reads(tmp_path: Path) -> None:
    stores = stores_in_use(stores_at(tmp_path))
    assert stores == stores_at(tmp_path)
    assert recorded(tmp_path)["root"] == str(tmp_path / "sweeps")
    assert (tmp_path / "sweeps" / FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_a_second_use_writes_nothing(original: Path) -> None:
    before = checksums(original)
    stores_in_use(stores_at(original))
    assert checksums(original) == before
    assert places_of(stores_at(original)).mark == ""


def test_a_copy_gets_an_identity_and_leaves_the_original_alone(original: Path, tmp_path: Path) -> None:
    before, copy = checksums(original), shutil.copytree(original, tmp_path / "copy")
    address = stores_in_use(stores_at(copy)).checkpoints or ""
    assert recorded(copy)["id"] != recorded(original)["id"]
    assert address.startswith("s3://bucket/all/copy-")
    assert mlflow_addresses(copy)[1] == (copy / "sweeps/artifacts").as_uri()
    places = places_of(stores_at(copy))
    assert places.owns(f"{address}/toy/0000/checkpoint-000001")
    assert not places.owns("s3://bucket/all/toy/0000/checkpoint-000001")
    stores_in_use(stores_at(original))
    assert checksums(original) == before


def test_stores_in_use_are_the_same_however_often_they_are_asked_for(original: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(original, tmp_path / "copy")
    once = stores_in_use(stores_at(copy))
    assert stores_in_use(once) == once == stores_in_use(stores_at(copy))


def test_a_moved_root_keeps_its_identity(original: Path, tmp_path: Path) -> None:
    before, moved = recorded(original), tmp_path / "moved"
    original.rename(moved)
    assert stores_in_use(stores_at(moved)).checkpoints == "s3://bucket/all"
    after = recorded(moved)
    assert (after["id"], after["runs"], after["checkpoints"]) == (before["id"], "", "")
    assert after["root"] == str(moved / "sweeps")
    assert mlflow_addresses(moved)[1] == (moved / "sweeps/artifacts").as_uri()
    assert not original.exists()


def test_a_copy_of_a_copy_differs_from_both(original: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(original, tmp_path / "copy")
    stores_in_use(stores_at(copy))
    again = shutil.copytree(copy, tmp_path / "again")
    addresses = {stores_in_use(stores_at(one)).checkpoints for one in (original, copy, again)}
    assert len(addresses) == len({recorded(one)["id"] for one in (original, copy, again)}) == 3
    assert mlflow_addresses(again)[1] == (again / "sweeps/artifacts").as_uri()


def test_a_copy_stays_one_after_its_original_is_deleted_and_it_is_moved(original: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(original, tmp_path / "copy")
    address = stores_in_use(stores_at(copy)).checkpoints
    shutil.rmtree(original)
    copy.rename(original)
    assert stores_in_use(stores_at(original)).checkpoints == address
    assert recorded(original)["runs"]


def test_a_copy_whose_original_is_gone_never_deletes_what_may_still_be_in_use(original: Path, tmp_path: Path) -> None:
    first, second = (shutil.copytree(original, tmp_path / name) for name in ("first", "second"))
    shutil.rmtree(original)
    addresses = {stores_in_use(stores_at(one)).checkpoints for one in (first, second)}
    assert len(addresses) == 2
    assert not places_of(stores_at(second)).owns("s3://bucket/all/toy/0000/checkpoint-000001")
    assert recorded(first)["runs"] == ""  # its MLflow runs go on, as those of a moved root


@pytest.mark.parametrize("same_path", [False, True])
def test_a_copy_on_another_machine_is_one(
    original: Path, tmp_path: Path, same_path: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"
    original.rename(kept)
    copy = shutil.copytree(kept, original if same_path else tmp_path / "copy")
    shutil.rmtree(kept)  # the other machine's disk
    monkeypatch.setattr(identity.platform, "node", lambda: "another machine")
    assert stores_in_use(stores_at(copy)).checkpoints != "s3://bucket/all"
    assert bool(recorded(copy)["runs"]) is not same_path


def test_another_path_to_the_same_folder_is_neither_copy_nor_move(original: Path, tmp_path: Path) -> None:
    before, link = checksums(original), tmp_path / "link"
    link.symlink_to(original)
    assert stores_in_use(stores_at(link)).checkpoints == "s3://bucket/all"
    assert checksums(original) == before


def test_a_mount_of_the_same_folder_elsewhere_is_no_copy(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "in a container"
    original.rename(inside)  # its inode stays, and the recorded path is not there
    monkeypatch.setattr(identity.platform, "node", lambda: "container")
    assert stores_in_use(stores_at(inside)).checkpoints == "s3://bucket/all"
    assert recorded(inside)["checkpoints"] == ""


def test_an_original_that_may_not_be_read_still_counts(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(original, tmp_path / "copy")
    read = Path.read_text

    def refuse(path: Path, *args: Any, **options: Any) -> str:
        if path.is_relative_to(original):
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", refuse)
    assert stores_in_use(stores_at(copy)).checkpoints != "s3://bucket/all"
    assert recorded(copy)["runs"]


def test_a_copy_made_of_hard_links_gets_files_of_its_own(original: Path, tmp_path: Path) -> None:
    (original / "sweeps/toy/checkpoint-000001").mkdir(parents=True)
    (original / "sweeps/toy/checkpoint-000001/state.json").write_text("1")
    before, copy = checksums(original), shutil.copytree(original, tmp_path / "copy", copy_function=os.link)
    stores_in_use(stores_at(copy))
    assert checksums(original) == before
    assert not (copy / "sweeps/mlflow.db").samefile(original / "sweeps/mlflow.db")
    # checkpoints never change, and large ones are not copied
    state = "sweeps/toy/checkpoint-000001/state.json"
    assert (copy / state).samefile(original / state)


def test_checkpoints_inside_the_project_need_no_other_folder(tmp_path: Path) -> None:
    original = used(tmp_path / "original", "kept")
    copy = shutil.copytree(original, tmp_path / "copy")
    assert stores_in_use(stores_at(copy)).checkpoints == str(copy / "kept")
    places = places_of(stores_at(copy))
    assert places.owns(f"{copy}/kept/toy/0000/checkpoint-000001")
    assert not places.owns(f"{original}/kept/toy/0000/checkpoint-000001")


def test_a_copied_root_in_the_same_project_shares_what_lies_beside_the_root(tmp_path: Path) -> None:
    project = used(tmp_path / "project", "kept")
    (project / "mlflow.ini").unlink()
    environment = {"SWEEPER_CHECKPOINTS": str(project / "kept"), "SWEEPER_ROOT": str(project / "sweeps-2")}
    shutil.copytree(project / "sweeps", project / "sweeps-2")
    stores = stores_in_use(read_stores(project, environment))
    assert (stores.checkpoints or "").startswith(f"{project}/kept/copy-")
    assert not places_of(stores).owns(f"{project}/kept/toy/0000/checkpoint-000001")


@pytest.mark.parametrize(
    ("tracking", "artifacts", "shared"),
    [(None, None, False), ("http://mlflow", None, True), (None, "s3://bucket/files", True), ("outside", None, True)],
)
def test_a_copy_has_runs_of_its_own_only_where_mlflow_is_shared(
    original: Path, tmp_path: Path, tracking: str | None, artifacts: str | None, shared: bool
) -> None:
    copy = shutil.copytree(original, tmp_path / "copy")
    stores = stores_in_use(stores_at(copy))
    if tracking:
        stores = replace(stores, tracking=f"sqlite:///{tmp_path}/mlflow.db" if tracking == "outside" else tracking)
    if artifacts:
        stores = replace(stores, artifacts=artifacts)
    assert bool(places_of(stores).runs) is shared
    assert places_of(stores_at(original)).runs == ""


def unclaimed_copy(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "copy")


def test_commands_that_read_write_nothing_in_a_copy(original: Path, tmp_path: Path) -> None:
    copy = unclaimed_copy(original, tmp_path)
    before = checksums(tmp_path)
    places = places_of(stores_at(copy))
    assert places.present(f"{original}/sweeps/artifacts") == f"{copy}/sweeps/artifacts"
    assert checksums(tmp_path) == before


def test_two_commands_that_start_at_once_agree(original: Path, tmp_path: Path) -> None:
    copy = unclaimed_copy(original, tmp_path)
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: stores_in_use(stores_at(copy)).checkpoints, range(8)))
    assert found == {stores_in_use(stores_at(copy)).checkpoints}


@pytest.mark.parametrize("change", [shutil.copytree, os.rename])
def test_a_change_of_identity_that_is_killed_is_made_by_the_next_command(
    original: Path, tmp_path: Path, change: Callable[[Path, Path], object]
) -> None:
    other, before = tmp_path / "other", recorded(original)
    change(original, other)
    (tmp_path / "asked").write_text("identity.write:1:kill\n")
    environment = {**os.environ, fault_injection.VARIABLE: str(tmp_path)}
    killed = subprocess.run([sys.executable, "-c", CLAIM, str(other)], env=environment, check=False)
    assert killed.returncode == -9
    assert recorded(other) == before
    stores_in_use(stores_at(other))
    assert recorded(other)["root"] == str(other / "sweeps")
    assert mlflow_addresses(other)[1] == (other / "sweeps/artifacts").as_uri()
    assert (recorded(other)["id"] != before["id"]) is (change is shutil.copytree)


@pytest.mark.parametrize("damage", ["", "{}", "[1]", '{"id": 3}', "\0"])
def test_a_damaged_identity_is_written_again(original: Path, tmp_path: Path, damage: str) -> None:
    copy = unclaimed_copy(original, tmp_path)
    (copy / "sweeps" / FILE_NAME).write_text(damage)
    stores_in_use(stores_at(copy))
    assert recorded(copy)["id"] != recorded(original)["id"]
    assert mlflow_addresses(copy)[1] == (copy / "sweeps/artifacts").as_uri()  # known from MLflow's own records


@pytest.mark.parametrize("moved", [True, False])
def test_a_root_of_the_first_version_is_recognized_by_its_records(original: Path, tmp_path: Path, moved: bool) -> None:
    (original / "sweeps" / FILE_NAME).unlink()
    other = tmp_path / "other"
    (shutil.move if moved else shutil.copytree)(original, other)
    before = {} if moved else checksums(original)
    stores_in_use(stores_at(other))
    assert bool(recorded(other)["runs"]) is not moved
    assert recorded(other)["former"] == [[str(original / "sweeps"), str(original)]]
    assert mlflow_addresses(other)[1] == (other / "sweeps/artifacts").as_uri()
    assert moved or checksums(original) == before


def test_a_root_that_may_not_be_written_ends_in_one_line(original: Path, tmp_path: Path) -> None:
    copy = unclaimed_copy(original, tmp_path)
    (copy / "sweeps" / f"{FILE_NAME}.lock").unlink(missing_ok=True)
    (copy / "sweeps" / f"{FILE_NAME}.lock").mkdir()
    with pytest.raises(EnvironmentFailure, match=r"sweeps: .*; make it writable"):
        stores_in_use(stores_at(copy))


def test_a_locked_mlflow_database_ends_in_one_line(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = unclaimed_copy(original, tmp_path)
    monkeypatch.setattr("sweeper.storage.relocation.BUSY_SECONDS", 0.0)
    with closing(sqlite3.connect(copy / "sweeps/mlflow.db", isolation_level=None)) as busy:
        busy.execute("BEGIN IMMEDIATE")
        with pytest.raises(EnvironmentFailure, match="MLflow's addresses cannot be changed"):
            stores_in_use(stores_at(copy))
    assert recorded(copy) == recorded(original)


@pytest.mark.parametrize(
    "text",
    ['{"root": 7}', "[" * 100_000, '{"former": [["a", 3]]}', '{"root": "a\\u0000b"}'],
    ids=["7", "deep", "3", "NUL"],
)
def test_a_damaged_identity_counts_as_none(original: Path, text: str) -> None:
    file = original / "sweeps" / FILE_NAME
    values = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(values | json.loads(text)) if text.endswith("}") else text, encoding="utf-8")
    assert places_of(stores_at(original)).mark == ""
    stores_in_use(stores_at(original))
    assert recorded(original)["root"] == str(original / "sweeps")
