"""A whole data set is read, and of a broken one all that is wrong is told at once; `test_bad_data` has each way."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from jobs.dataset.convert import write_sample
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


def test_the_files_of_the_sample_have_its_fingerprint(tmp_path: Path) -> None:
    write_sample(tmp_path / "hw")
    assert read_data(str(tmp_path / "hw")).fingerprint == read_data("sample").fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"test": None},
        {"test": [{"id": "other", "question": "多深？", "paragraphs": [0, 1]}]},
        {"test_labels": [row(3, 0, "南投縣", 4)]},
        {"origin": {"seed": 1}},
        {"references": {"q2": ["新北市"], "q3": ["千尺"]}},
        {"train": [dict(reversed([*one.items(), ("note", "x")])) for one in GOOD["train"]]},
    ],
)
def test_what_trials_do_not_see_leaves_the_fingerprint_alone(tmp_path: Path, change: dict[str, object]) -> None:
    first = read_data(str(write(tmp_path / "a", GOOD)))
    content = {name: value for name, value in {**GOOD, **change}.items() if value is not None}
    other = read_data(str(write(tmp_path / "b", content)))
    assert other.fingerprint == first.fingerprint
    assert other.matches(first.fingerprint)


@pytest.mark.parametrize(
    "change",
    [
        {"context": [*CONTEXT, "又一段。"]},
        {"train": GOOD["train"][::-1]},
        {"valid": [{**GOOD["valid"][0], "paragraphs": [3, 2, 1, 0]}]},
        {"references": {"q2": ["新北市", "新北"]}},
    ],
)
def test_what_trials_see_changes_the_fingerprint(tmp_path: Path, change: dict[str, object]) -> None:
    first = read_data(str(write(tmp_path / "a", GOOD)))
    other = read_data(str(write(tmp_path / "b", {**GOOD, **change})))
    assert other.fingerprint != first.fingerprint
    assert not other.matches(first.fingerprint)


def test_the_order_of_further_answers_does_not_count(tmp_path: Path) -> None:
    several = {"q2": ["新北市", "新北"], "q0": ["南投縣", "南投"]}
    other = {name: answers[::-1] for name, answers in reversed(several.items())}
    first, second = (
        read_data(str(write(tmp_path / str(number), {**GOOD, "references": one})))
        for number, one in enumerate((several, other))
    )
    assert first.fingerprint == second.fingerprint


def test_fingerprints_of_earlier_versions_are_those_of_unchanged_data(tmp_path: Path) -> None:
    sample = read_data("sample")
    assert sample.matches("44fb7cb821b86f457b968492c8f84da722fe19c2dfbca671e243a491664b3e1b")  # of 0.1.0
    assert sample.fingerprint != "44fb7cb821b86f457b968492c8f84da722fe19c2dfbca671e243a491664b3e1b"
    data = read_data(str(write(tmp_path / "a", {**GOOD, "references": {"q3": ["千尺"], "q2": ["新北市"]}})))
    earlier = data.earlier_fingerprints
    assert all(data.matches(one) for one in earlier)
    changed = read_data(str(write(tmp_path / "b", {**GOOD, "context": [*CONTEXT, "又一段。"]})))
    assert not any(changed.matches(one) for one in (*earlier, data.fingerprint))


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
