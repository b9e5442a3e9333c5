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
