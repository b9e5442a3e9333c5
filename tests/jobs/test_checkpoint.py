from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import checkpoint, files
from tests.support.limits import fill, killed_at, largest_file, mounted
from tests.support.trials import STATE, saved, saved_by_trainer


def newest_whole(workdir: Path) -> Path | None:
    newest_first = sorted(workdir.glob("checkpoint-??????*"), reverse=True)
    return next((folder for folder in newest_first if not checkpoint.damage(folder)), None)


def published(workdir: Path, step: int) -> Path:
    folder = workdir / "unfinished"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    return checkpoint.publish(folder, workdir, step)


def test_a_published_checkpoint_is_whole_and_the_newest_is_found(tmp_path: Path) -> None:
    assert newest_whole(tmp_path) is None
    published(tmp_path, 90)
    newest = published(tmp_path, 100)
    assert newest == tmp_path / "checkpoint-000100"
    assert checkpoint.damage(newest) is None
    assert newest_whole(tmp_path) == newest
    assert not (tmp_path / "unfinished").exists()


SPOIL: list[Callable[[Path], object]] = [
    lambda folder: (folder / "model.safetensors").write_bytes(b"weighty"),  # as long as before
    lambda folder: (folder / "model.safetensors").write_bytes(b"weig"),
    lambda folder: (folder / "config.json").unlink(),
    lambda folder: (folder / "manifest.json").write_text('{"model'),
    lambda folder: (folder / "manifest.json").unlink(),
]


@pytest.mark.parametrize("spoil", SPOIL)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    whole = published(tmp_path, 1)
    damaged = published(tmp_path, 2)
    spoil(damaged)
    assert checkpoint.damage(damaged)
    assert newest_whole(tmp_path) == whole


def test_a_copy_for_answering_is_whole_and_holds_no_pickle(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in ("model.safetensors", "config.json", "optimizer.pt", "rng_state.pth", "training_args.bin"):
        (folder / name).write_text(name)
    whole = checkpoint.publish(folder, tmp_path, 1)
    copy = checkpoint.copy_answering_part(whole, tmp_path / "champions" / "one")
    assert checkpoint.damage(copy) is None
    assert sorted(path.name for path in copy.iterdir()) == ["config.json", "manifest.json", "model.safetensors"]
    assert checkpoint.answering_part(copy) == checkpoint.answering_part(whole)
    assert [path.name for path in copy.parent.iterdir()] == ["one"]


def test_a_copy_takes_the_place_of_a_damaged_one_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "model.safetensors").write_text("weights")
    whole, target = checkpoint.publish(folder, tmp_path, 1), tmp_path / "one"
    target.mkdir()
    (target / "model.safetensors").write_text("wei")
    assert checkpoint.damage(checkpoint.copy_answering_part(whole, target)) is None
    assert not list(tmp_path.glob(".*"))


def test_a_copy_of_what_is_not_as_it_was_written_never_appears(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "model.safetensors").write_text("weights")
    whole = checkpoint.publish(folder, tmp_path, 1)
    (whole / "model.safetensors").write_text("weighty")
    with pytest.raises(OSError, match="changed since it was written"):
        checkpoint.copy_answering_part(whole, tmp_path / "one")
    assert not (tmp_path / "one").exists()


FILES = ("model.safetensors", "config.json", "optimizer.pt", "manifest.json")
SPOILED: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-2]),
    "flipped": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "all gone": lambda path: [one.unlink() for one in path.parent.iterdir()],
}


def trained(workdir: Path, step: int) -> Path:
    """A checkpoint of every kind of file."""
    folder = workdir / "unfinished"
    folder.mkdir(parents=True)
    for name in FILES[:-1]:
        (folder / name).write_text(f"{name} after step {step}")
    return checkpoint.publish(folder, workdir, step)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("way", SPOILED)
def test_whatever_happens_to_any_file_the_checkpoint_before_is_found(tmp_path: Path, name: str, way: str) -> None:
    before, newest = trained(tmp_path, 1), trained(tmp_path, 2)
    assert newest_whole(tmp_path) == newest
    SPOILED[way](newest / name)
    assert checkpoint.damage(newest)
    assert newest_whole(tmp_path) == before
    SPOILED[way](before / name)
    assert newest_whole(tmp_path) is None


def test_a_disk_that_is_full_after_any_byte_publishes_nothing(tmp_path: Path) -> None:
    trained(tmp_path, 1)
    folder = tmp_path / "unfinished"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    size = len((tmp_path / "checkpoint-000001/manifest.json").read_bytes()) // 3
    for room in range(size):
        with largest_file(room), pytest.raises(OSError, match="checkpoint-000002"):
            checkpoint.publish(folder, tmp_path, 2)
        assert newest_whole(tmp_path) == tmp_path / "checkpoint-000001"
    again = checkpoint.publish(folder, tmp_path, 2)  # once there is room; what was half-written is no part of it
    assert newest_whole(tmp_path) == again


def test_a_disk_that_is_full_after_any_byte_of_a_copy_leaves_none(tmp_path: Path) -> None:
    whole = trained(tmp_path, 1)
    old = checkpoint.copy_answering_part(whole, tmp_path / "champions/old")
    largest = max(path.stat().st_size for path in old.iterdir())
    for room in range(largest):
        with largest_file(room), pytest.raises(OSError, match="champions/new"):
            checkpoint.copy_answering_part(whole, tmp_path / "champions/new")
        assert [path.name for path in (tmp_path / "champions").iterdir()] == ["old"]
    with largest_file(largest):
        assert checkpoint.damage(checkpoint.copy_answering_part(whole, tmp_path / "champions/new")) is None
    assert checkpoint.damage(old) is None


def test_a_process_killed_before_the_name_is_given_publishes_nothing(tmp_path: Path) -> None:
    killed_at("checkpoint.rename:1:kill", tmp_path / "log", lambda: trained(tmp_path, 1))
    assert newest_whole(tmp_path) is None
    assert checkpoint.publish(tmp_path / "unfinished", tmp_path, 1) == newest_whole(tmp_path)


def test_a_process_killed_before_it_tells_of_a_checkpoint_leaves_it_whole(tmp_path: Path) -> None:
    killed_at("checkpoint.report:1:kill", tmp_path / "log", lambda: trained(tmp_path, 1))
    assert newest_whole(tmp_path) == tmp_path / "checkpoint-000001"


# training state


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_checkpoint_loses_its_training_state_and_stays_whole(tmp_path: Path) -> None:
    whole = saved_by_trainer(tmp_path, 1)
    before = checkpoint.answering_part(whole)
    assert checkpoint.has_state(names_in(whole))
    checkpoint.remove_state(whole)
    checkpoint.remove_state(whole)
    assert names_in(whole) == {"model.safetensors", "state.json", "trainer_state.json", "manifest.json"}
    assert checkpoint.damage(whole) is None
    assert checkpoint.answering_part(whole) == before  # the champions' fingerprint is taken from it
    assert not checkpoint.has_state(names_in(whole))


@pytest.mark.parametrize(("point", "times"), [("state.manifest", 1), ("state.delete", len(STATE))])
def test_a_process_killed_while_it_removes_the_state_leaves_a_whole_checkpoint(
    tmp_path: Path, point: str, times: int
) -> None:
    for nth in range(1, times + 1):
        whole = saved_by_trainer(tmp_path / f"{nth}", 1)
        killed_at(f"{point}:{nth}:kill", tmp_path / f"log-{nth}", lambda whole=whole: checkpoint.remove_state(whole))
        assert names_in(whole) & set(STATE) == set(STATE[nth - 1 :])
        assert checkpoint.damage(whole) is None
        checkpoint.remove_state(whole)
        assert names_in(whole) == {"model.safetensors", "state.json", "trainer_state.json", "manifest.json"}
        assert checkpoint.damage(whole) is None


def test_files_of_another_program_are_no_training_state(tmp_path: Path) -> None:
    whole = saved(tmp_path, 1, STATE)
    checkpoint.remove_state(whole)
    assert names_in(whole) == {"state.json", "manifest.json", *STATE}
    assert checkpoint.has_state(names_in(whole))


def test_a_disk_that_takes_nothing_leaves_the_state_where_it_is(tmp_path: Path) -> None:
    whole = saved_by_trainer(tmp_path, 1)
    with largest_file(0), pytest.raises(OSError, match="manifest"):
        checkpoint.remove_state(whole)
    assert checkpoint.damage(whole) is None
    assert set(STATE) < names_in(whole)


def test_a_checkpoint_that_loses_its_state_while_it_is_checked_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, describe = saved_by_trainer(tmp_path, 1), checkpoint._describe

    def late(path: Path) -> dict[str, Any]:
        checkpoint.remove_state(whole)
        return describe(path)

    monkeypatch.setattr(checkpoint, "_describe", late)
    assert checkpoint.damage(whole) is None
    (whole / "model.safetensors").write_text("cut")
    assert "model.safetensors: missing or changed" in str(checkpoint.damage(whole))


@given(st.sets(st.sampled_from(["model.safetensors", "trainer_state.json", "model.pt", "vocab.bin", *STATE])))
def test_only_files_of_trainer_are_left_out(names: set[str]) -> None:
    kept = checkpoint.without_state(dict.fromkeys(names)).keys()
    assert kept == (names - set(STATE) if "trainer_state.json" in names else names)


@pytest.mark.parametrize(
    "name",
    ["optimizer.bin", "scaler.pt", "rng_state_0.pth", "rng_state_13.pth", "pytorch_model_fsdp.bin"],
)
def test_the_state_of_several_workers_is_known(name: str) -> None:
    assert checkpoint.state_files(["trainer_state.json", name, "pytorch_model.bin"]) == {name}


def tell(place: Path, write: Callable[[Path], object]) -> str | None:
    try:
        write(place)
    except Exception as error:
        return files.disk_trouble(error, place)
    return "nothing was refused"


def written_by_torch(place: Path) -> None:
    import torch

    torch.save({"state": torch.zeros(100_000)}, place / "optimizer.pt")


def written_by_safetensors(place: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(100_000)}, place / "model.safetensors")


WRITERS: dict[str, Callable[[Path], Any]] = {
    "python": lambda place: (place / "a.json").write_text("x" * 100_000),
    "numpy": lambda place: np.save(place / "a.npy", np.zeros(100_000)),
    "copy": lambda place: shutil.copyfile(__file__, place / "a.py"),
    "torch": written_by_torch,
    "safetensors": written_by_safetensors,
}


@pytest.mark.parametrize("library", WRITERS)
def test_a_full_disk_is_known_whatever_a_library_says_of_it(tmp_path: Path, library: str) -> None:
    with mounted(tmp_path / "disk", "1m") as disk:
        assert tell(disk, WRITERS[library]) == "nothing was refused"
        for path in disk.iterdir():
            path.unlink()
        fill(disk)
        told = tell(disk, WRITERS[library])
        assert told is not None
        assert told.startswith(str(disk))
        assert "No space left on device (0 bytes free)" in told


def test_errors_of_other_kinds_are_no_trouble_with_the_disk(tmp_path: Path) -> None:
    for error in (RuntimeError("the hill is closed"), ValueError("no"), OSError(errno.ENOENT, "gone")):
        assert files.disk_trouble(error, tmp_path) is None
    with mounted(tmp_path / "disk", "64k") as disk:
        fill(disk)
        assert files.disk_trouble(ValueError("no"), disk) is None
    inner = OSError(errno.EROFS, os.strerror(errno.EROFS), "/data/a")
    told = files.disk_trouble(wrapped(inner), tmp_path)
    assert told is not None
    assert told.startswith("/data/a: Read-only file system (")


def wrapped(inner: Exception) -> Exception:
    try:
        raise RuntimeError("training failed") from inner
    except RuntimeError as error:
        return error
