"""A whole data set is read, and of a broken one all that is wrong is told at once; `test_bad_data` has each way."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from jobs.dataset.data import DataError, read_data
from tests.support.questions import CONTEXT, GOOD, row, write


def mistakes(folder: Path) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        read_data(str(folder))
    return caught.value.lines


def test_a_whole_data_set_is_read(tmp_path: Path) -> None:
    data = read_data(str(write(tmp_path, GOOD)))
    assert data.paragraphs == tuple(CONTEXT)
    assert (data.train[1].answer, data.train[1].start, data.train[1].relevant) == ("玉山", 5, 2)
    assert (len(data.train), len(data.valid), len(data.test)) == (2, 1, 1)
    assert data.test[0].answer is None


def test_the_sample_is_read_by_name() -> None:
    data = read_data("sample")
    assert len(data.train) + len(data.valid) + len(data.test) >= 2000


def test_the_fingerprint_is_of_the_content_not_of_the_file(tmp_path: Path) -> None:
    first = read_data(str(write(tmp_path / "a", GOOD))).fingerprint
    other = write(tmp_path / "b", GOOD)
    (other / "context.json").write_text("\ufeff" + json.dumps(CONTEXT, indent=3), encoding="utf-8")
    assert read_data(str(other)).fingerprint == first
    changed = {**GOOD, "valid": [{**GOOD["valid"][0], "question": "在哪？"}]}
    assert read_data(str(write(tmp_path / "c", changed))).fingerprint != first


def test_all_mistakes_are_told_at_once_with_row_and_id(tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    content["train"][0]["answer"]["start"] = 5
    content["valid"][0]["relevant"] = 9
    lines = mistakes(write(tmp_path, content))
    assert [line.split(": ")[:2] for line in lines] == [
        [f"{tmp_path}/train.json", "row 0 (id 'q0')"],
        [f"{tmp_path}/valid.json", "row 0 (id 'q2')"],
    ]


def test_many_mistakes_are_cut_short(tmp_path: Path) -> None:
    content = {**GOOD, "train": [row(n + 100, 0, "不在", 0) for n in range(50)]}
    assert mistakes(write(tmp_path, content))[-1] == "… and 30 more"


def test_the_real_sets_are_whole(shared: Path) -> None:
    data = read_data(str(shared / "data/drcd_small"))
    assert (len(data.train), len(data.valid), len(data.test)) == (399, 100, 100)
