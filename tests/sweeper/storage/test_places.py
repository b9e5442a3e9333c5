"""Addresses in a project's records are resolved against the folders in use."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.storage.places import Home, Places

NEW, OLD = Home(Path("/new/p/sweeps"), Path("/new/p")), Home(Path("/old/p/sweeps"), Path("/old/p"))
PLAIN, COPY = Places(NEW), Places(NEW, (OLD,), mark="1a2b", checkpoints="s3://bucket/copy-1a2b")
CHECKPOINT = "hill/trials/0003/checkpoint-000100"

names = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1).filter(
    lambda name: name not in (".", "..")
)


@pytest.mark.parametrize(
    ("stored", "present"),
    [
        (None, None),
        (CHECKPOINT, f"/new/p/sweeps/{CHECKPOINT}"),
        (f"/old/p/sweeps/{CHECKPOINT}", f"/new/p/sweeps/{CHECKPOINT}"),
        (f"/never seen/{CHECKPOINT}", f"/new/p/sweeps/{CHECKPOINT}"),
        (f"sweeps/{CHECKPOINT}", f"/new/p/sweeps/{CHECKPOINT}"),
        ("/elsewhere/hill/0003/checkpoint-000100", "/elsewhere/hill/0003/checkpoint-000100"),
        ("/x/uphill/trials/0003/checkpoint-000100", "/x/uphill/trials/0003/checkpoint-000100"),
        ("/x/hill/trials/0004/checkpoint-000100", "/x/hill/trials/0004/checkpoint-000100"),
        (f"s3://bucket/{CHECKPOINT}", f"s3://bucket/{CHECKPOINT}"),
        (f"{CHECKPOINT}/more", f"{CHECKPOINT}/more"),
    ],
)
@pytest.mark.parametrize("places", [PLAIN, COPY], ids=["plain", "copy"])
def test_a_checkpoint_below_the_root_is_below_the_root_in_use(
    places: Places, stored: str | None, present: str | None
) -> None:
    assert places.checkpoint(stored, "hill", 3) == present


@given(root=st.lists(names, min_size=1, max_size=3), sweep=names, number=st.integers(0, 99_999))
def test_what_the_ledger_stores_is_found_again_in_any_folder(root: list[str], sweep: str, number: int) -> None:
    folder = Path("/", *root)
    before, after = Places(Home(folder, folder.parent)), Places(Home(Path("/other"), Path("/")))
    address = f"{sweep}/trials/{number:04d}/checkpoint-000007"
    stored = before.stored_checkpoint(f"{folder}/{address}")
    assert stored == address
    assert before.checkpoint(stored, sweep, number) == f"{folder}/{address}"
    assert after.checkpoint(stored, sweep, number) == f"/other/{address}"


@pytest.mark.parametrize("address", ["s3://bucket/a/0000/checkpoint-000001", "/elsewhere/a/0000/checkpoint-000001"])
def test_a_checkpoint_outside_the_root_keeps_its_address(address: str) -> None:
    assert PLAIN.stored_checkpoint(address) == address
    assert PLAIN.checkpoint(address, "a", 0) == address


@pytest.mark.parametrize(
    ("address", "present"),
    [
        ("/old/p/sweeps/artifacts", "/new/p/sweeps/artifacts"),
        ("file:///old/p/sweeps/artifacts/1/run%201", "file:///new/p/sweeps/artifacts/1/run%201"),
        ("/old/p/data", "/old/p/data"),  # the copy has no such folder
        ("/old/pp/sweeps/artifacts", "/old/pp/sweeps/artifacts"),
        ("mlflow-artifacts:/1", "mlflow-artifacts:/1"),
        ("s3://bucket/old/p/sweeps", "s3://bucket/old/p/sweeps"),
        ("sample", "sample"),
    ],
)
def test_an_address_below_a_former_root_moves_with_it(address: str, present: str) -> None:
    assert COPY.present(address) == present


def test_data_of_the_project_in_use_wins_where_it_exists(tmp_path: Path) -> None:
    old, new = (Home(tmp_path / name / "sweeps", tmp_path / name) for name in ("old", "new"))
    recorded = tmp_path / "old" / "data"
    recorded.mkdir(parents=True)
    places = Places(new, (old,))
    assert Places(old).data_in_project(str(recorded)) == "data"
    assert places.data(str(recorded), "data") == places.data(str(recorded)) == str(recorded)
    (tmp_path / "new" / "data").mkdir(parents=True)
    for found in (places.data(str(recorded)), places.data(str(recorded), "data"), Places(new).data("/gone", "data")):
        assert found == str(tmp_path / "new" / "data")
    assert places.data("sample") == "sample"
    assert places.data("/elsewhere/data") == "/elsewhere/data"


@pytest.mark.parametrize("folder", ["/elsewhere/data", "sample", "/new/q/data"])
def test_data_outside_the_project_has_no_place_in_it(folder: str) -> None:
    assert PLAIN.data_in_project(folder) is None


@pytest.mark.parametrize(
    ("checkpoint", "own"),
    [
        (f"/new/p/sweeps/{CHECKPOINT}", True),
        ("/new/p/kept/hill/0003/checkpoint-000100", True),
        ("s3://bucket/copy-1a2b/hill/0003/checkpoint-000100", True),
        ("s3://bucket/hill/0003/checkpoint-000100", False),
        ("s3://bucket/copy-1a2bc/hill/0003/checkpoint-000100", False),
        (f"/old/p/sweeps/{CHECKPOINT}", False),
        ("/old/p/kept/hill/0003/checkpoint-000100", False),
        ("/elsewhere/hill/0003/checkpoint-000100", False),
        ("/new/p/../../old/p/kept/checkpoint-000100", False),
    ],
)
def test_a_copy_owns_what_it_has_written_and_an_original_everything(checkpoint: str, own: bool) -> None:
    assert COPY.owns(checkpoint) is own
    assert PLAIN.owns(checkpoint)


@pytest.mark.parametrize(
    ("here", "kept"),
    [
        (Home(Path("/old/p/sweeps-2"), Path("/old/p")), "/old/p/kept/checkpoint-000001"),  # only the root was copied
        (Home(Path("/old/sweeps"), Path("/old")), "/old/p/kept/checkpoint-000001"),  # into a folder around the project
        (Home(Path("/old/p/backup/sweeps"), Path("/old/p/backup")), "/old/p/kept/checkpoint-000001"),  # or inside it
    ],
)
def test_a_copy_beside_its_original_does_not_own_the_files_of_the_project(here: Home, kept: str) -> None:
    places = Places(here, (OLD,), mark="1a2b")
    assert not places.owns(kept)
    assert places.owns(f"{here.root}/{CHECKPOINT}")
