from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from jobs.training.memory.notes import MOST_BYTES, note_shortage, noted_shortage, notes_in


@pytest.fixture
def file(tmp_path: Path) -> Any:
    with notes_in(tmp_path / "root" / "sizes.json"):
        yield tmp_path / "root" / "sizes.json"


def test_the_smallest_batch_that_ran_out_is_remembered(file: Path) -> None:
    assert noted_shortage("bert") is None
    for rows in (8, 4, 16):
        note_shortage("bert", rows)
    note_shortage("lert", 2)
    assert (noted_shortage("bert"), noted_shortage("lert"), noted_shortage("other")) == (4, 2, None)
    assert json.loads(file.read_text("utf-8")) == {"bert": 4, "lert": 2}


def test_without_a_file_nothing_is_remembered(tmp_path: Path) -> None:
    note_shortage("bert", 8)
    with notes_in(None):
        note_shortage("bert", 8)
        assert noted_shortage("bert") is None
    assert list(tmp_path.iterdir()) == []


DAMAGED = [
    "", "{", "[1]", "null", '{"bert": "4"}', '{"bert": true}', '{"bert": 0}', '{"bert": 1e3}', '{"bert": 65537}',
    '{"bert": [4]}', '{"bert": -1}', r'{"\ud800": 4}', "\x00\xff", "[" * 100_000, '{"bert": 4' + " " * MOST_BYTES + "}",
]  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_ignored_and_written_anew(text: str, file: Path) -> None:
    file.parent.mkdir()
    file.write_bytes(text.encode("latin-1"))
    assert noted_shortage("bert") is None
    note_shortage("bert", 8)
    assert noted_shortage("bert") == 8


def test_what_is_valid_in_a_file_is_kept(file: Path) -> None:
    file.parent.mkdir()
    file.write_text('{"bert": "much", "lert": 2}')
    note_shortage("bert", 8)
    assert (noted_shortage("bert"), noted_shortage("lert")) == (8, 2)


def test_a_file_of_another_user_and_a_link_are_ignored(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note_shortage("bert", 4)
    with monkeypatch.context() as other:
        other.setattr(os, "getuid", lambda: 12345)
        assert noted_shortage("bert") is None
    file.rename(tmp_path / "elsewhere.json")
    file.symlink_to(tmp_path / "elsewhere.json")
    assert noted_shortage("bert") is None
    note_shortage("bert", 8)
    assert noted_shortage("bert") == 8
    assert json.loads((tmp_path / "elsewhere.json").read_text()) == {"bert": 4}


def test_a_file_that_cannot_be_written_stops_no_training(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("no folder")
    with notes_in(tmp_path / "root" / "sizes.json"):
        note_shortage("bert", 4)
        assert noted_shortage("bert") is None


def _note_many(file: Path, number: int) -> None:
    with notes_in(file):
        for rows in range(8, 0, -1):
            note_shortage(f"trial {number % 2}", rows)
            note_shortage(f"trial {number}", rows)


def test_processes_write_at_once_and_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "sizes.json"
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        list(pool.map(_note_many, [file] * 4, range(4)))
    assert json.loads(file.read_text()) == {f"trial {number}": 1 for number in range(4)}
