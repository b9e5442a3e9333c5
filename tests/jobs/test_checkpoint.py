from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import checkpoint


def published(workdir: Path, step: int) -> Path:
    folder = workdir / "unfinished"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    return checkpoint.publish(folder, workdir, step)


def test_a_published_checkpoint_is_whole_and_the_newest_is_found(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) is None
    published(tmp_path, 90)
    newest = published(tmp_path, 100)
    assert newest == tmp_path / "checkpoint-000100"
    assert checkpoint.damage(newest) is None
    assert checkpoint.latest(tmp_path) == newest
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
    assert checkpoint.latest(tmp_path) == whole


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
