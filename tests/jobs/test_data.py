"""Every broken data set is told from a whole one, by row and id, and all that is wrong at once."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.data import DataError, read

CONTEXT = ["日月潭在南投縣。", "阿里山在嘉義縣。", "玉山很高，玉山。", "🎉淡水在新北市。"]


def row(number: int, relevant: int, text: str, start: int) -> dict[str, Any]:
    return {
        "id": f"q{number}",
        "question": "在哪裡？",
        "paragraphs": [0, 1, 2, 3],
        "relevant": relevant,
        "answer": {"text": text, "start": start},
    }


GOOD: dict[str, Any] = {
    "context": CONTEXT,
    "train": [row(0, 0, "南投縣", 4), row(1, 2, "玉山", 5)],
    "valid": [row(2, 3, "新北市", 4)],
    "test": [{"id": "q3", "question": "多高？", "paragraphs": [3, 2, 1, 0]}],
}


def write(folder: Path, content: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, value in content.items():
        (folder / f"{name}.json").write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return folder


def mistakes(folder: Path) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        read(str(folder))
    return caught.value.lines


def test_a_whole_data_set_is_read(tmp_path: Path) -> None:
    data = read(str(write(tmp_path, GOOD)))
    assert data.paragraphs == tuple(CONTEXT)
    assert (data.train[1].answer, data.train[1].start, data.train[1].relevant) == ("玉山", 5, 2)
    assert (len(data.train), len(data.valid), len(data.test)) == (2, 1, 1)
    assert data.test[0].answer is None


def test_the_sample_is_read_by_name() -> None:
    data = read("sample")
    assert len(data.train) + len(data.valid) + len(data.test) >= 2000


def test_the_fingerprint_is_of_the_content_not_of_the_file(tmp_path: Path) -> None:
    first = read(str(write(tmp_path / "a", GOOD))).fingerprint
    other = write(tmp_path / "b", GOOD)
    (other / "context.json").write_text("\ufeff" + json.dumps(CONTEXT, indent=3), encoding="utf-8")
    assert read(str(other)).fingerprint == first
    changed = {**GOOD, "valid": [{**GOOD["valid"][0], "question": "在哪？"}]}
    assert read(str(write(tmp_path / "c", changed))).fingerprint != first


def answer(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["train"][0]["answer"].update(values)


def question(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["train"][0].update(values)


BROKEN: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("answer one too far", answer(start=5), "is not at start 5 of paragraph 0; it stands at 4"),
    ("answer one too early", answer(start=3), "it stands at 4"),
    ("answer before the text", answer(start=-3), "is not at start -3"),
    ("answer past the end", answer(start=99), "it stands at 4"),
    ("answer counted in bytes", answer(start=len("日月潭在".encode())), "counted in characters"),
    ("answer nowhere", answer(text="花蓮縣"), "it stands nowhere in that paragraph"),
    ("empty answer", answer(text=""), "answer: empty text"),
    ("answer a list", question(answer=["南投縣"]), "answer: {"),
    ("start a string", answer(start="4"), "answer: {"),
    ("relevant elsewhere", question(relevant=7), "relevant: 7 is none of"),
    ("relevant negative", question(relevant=-1), "relevant: -1"),
    ("relevant a string", question(relevant="0"), "relevant: '0'"),
    ("relevant true", question(relevant=True), "relevant: True"),
    ("no relevant", lambda c: c["train"][0].pop("relevant"), "relevant: missing"),
    ("no id", lambda c: c["train"][0].pop("id"), "train.json: row 0: id: missing"),
    ("number as id", question(id=7), "id: a number where text is expected"),
    ("empty question", question(question="  "), "question: empty text"),
    ("nine paragraphs", question(paragraphs=[0, 1, 2, 3, 0, 1, 2, 3, 0]), "9 of them; 2 to 8"),
    ("one paragraph", question(paragraphs=[0]), "1 of them; 2 to 8"),
    ("paragraph out of range", question(paragraphs=[0, 1, 2, 4]), "4 is not in context.json, which has rows 0 to 3"),
    ("same paragraph twice", question(paragraphs=[0, 1, 2, 2]), "the same paragraph twice"),
    ("paragraphs as text", question(paragraphs=["0"]), "a list of whole numbers"),
    ("NUL", lambda c: c["context"].__setitem__(1, "a\0b"), "context.json: row 1: a NUL character at 1"),
    ("empty paragraph", lambda c: c["context"].__setitem__(0, ""), "context.json: row 0: empty text"),
    ("paragraph a number", lambda c: c["context"].__setitem__(0, 3), "a number where text is expected"),
    ("id twice in a file", lambda c: c["train"][1].update(id="q0"), "id 'q0' already stands in"),
    ("test id in train", lambda c: c["test"][0].update(id="q1"), "test.json: id 'q1' already stands in"),
    ("row not an object", lambda c: c["valid"].append(3), "valid.json: row 1: a number where a question object"),
    ("no questions", lambda c: c.update(valid=[]), "valid.json: no questions"),
    ("an object for the list", lambda c: c.update(context={"0": "a"}), "context.json: holds an object"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_broken_row_is_named(tmp_path: Path, spoil: Callable[[dict[str, Any]], Any], message: str) -> None:
    content = copy.deepcopy(GOOD)
    spoil(content)
    assert message in "\n".join(mistakes(write(tmp_path, content)))


def test_all_mistakes_are_told_at_once_with_row_and_id(tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    answer(start=5)(content)
    content["valid"][0]["relevant"] = 9
    lines = mistakes(write(tmp_path, content))
    assert [line.split(": ")[:2] for line in lines] == [
        [f"{tmp_path}/train.json", "row 0 (id 'q0')"],
        [f"{tmp_path}/valid.json", "row 0 (id 'q2')"],
    ]


def test_many_mistakes_are_cut_short(tmp_path: Path) -> None:
    content = {**GOOD, "train": [row(n + 100, 0, "不在", 0) for n in range(50)]}
    assert mistakes(write(tmp_path, content))[-1] == "… and 30 more"


FILES = [
    ("truncated", b'[{"id": "q0", ', "train.json:1: not JSON"),
    ("empty", b"", "the file is empty"),
    ("a value per line", b"{}\n{}\n", "a value per line"),
    ("NaN", b"[NaN]", "NaN is not JSON"),
    ("key twice", b'[{"id": "a", "id": "b"}]', "key 'id' twice in one object"),
    ("Big5", '["台灣"]'.encode("big5"), "is not UTF-8"),
    ("gzip", b"\x1f\x8b\x08\x00", "gzip-compressed"),
    ("too deep", b"[" * 100_000, "train.json: nested too deeply"),
]


@pytest.mark.parametrize(("raw", "message"), [case[1:] for case in FILES], ids=[case[0] for case in FILES])
def test_a_broken_file_is_named(tmp_path: Path, raw: bytes, message: str) -> None:
    folder = write(tmp_path, GOOD)
    (folder / "train.json").write_bytes(raw)
    assert message in "\n".join(mistakes(folder))


def test_a_missing_file_or_folder_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path, GOOD)
    (folder / "valid.json").unlink()
    assert f"{folder}/valid.json: No such file or directory" in mistakes(folder)
    assert mistakes(tmp_path / "nowhere")[0].startswith(f"{tmp_path}/nowhere: no such folder")


def test_offsets_do_not_move_under_normalisation(tmp_path: Path) -> None:
    text = "e\u0301cole１２Ａ\u200b🎉台灣\r\n湖"
    content = {
        **GOOD,
        "context": [*CONTEXT, text],
        "train": [{**row(0, 4, "台灣", text.index("台灣")), "paragraphs": [4, 0, 1, 2]}],
    }
    data = read(str(write(tmp_path, content)))
    assert data.paragraphs[4] == text


def test_the_real_sets_are_whole(shared: Path) -> None:
    data = read(str(shared / "data/drcd_small"))
    assert (len(data.train), len(data.valid), len(data.test)) == (399, 100, 100)
