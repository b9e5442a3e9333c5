"""Every way a data set can be wrong, one case each: through `read`, and through `sweeper data check`.

What is refused ends in exit 3 with file, row and id, or file and cause. What is accepted keeps its offsets
to the character, and what is odd about it is counted.
"""

from __future__ import annotations

import bz2
import copy
import gzip
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from jobs.dataset.data import MAX_TEXT_CHARS, DataError, read_data
from tests.support.commands import invoke
from tests.support.questions import CONTEXT, GOOD, row, write

Content = dict[str, Any]


def answer(**values: Any) -> Callable[[Content], None]:
    return lambda content: content["train"][0]["answer"].update(values)


def question(**values: Any) -> Callable[[Content], None]:
    return lambda content: content["train"][0].update(values)


def paragraph(text: Any) -> Callable[[Content], None]:
    return lambda content: content["context"].__setitem__(1, text)


def again(**values: Any) -> Callable[[Content], None]:
    return lambda content: content["train"].append({**content["train"][0], **values})


T0 = "train.json: row 0 (id 'q0'): "
A0 = T0 + "answer: "
FEW = "2 to 8 are expected"

# What is done to a whole data set, and what is said of it.
ROWS: list[tuple[str, Callable[[Content], Any], str]] = [
    ("answer not in context", answer(text="花蓮縣"), A0 + "'花蓮縣' is not at start 4 of paragraph 0; it does not"),
    ("start one too far", answer(start=5), A0 + "'南投縣' is not at start 5 of paragraph 0; it starts at 4 (counted"),
    ("start one too early", answer(start=3), T0 + "answer: '南投縣' is not at start 3 of paragraph 0; it starts at 4"),
    ("start below 0", answer(start=-3), T0 + "answer: '南投縣' is not at start -3"),
    ("start past the end", answer(start=99), T0 + "answer: '南投縣' is not at start 99 of paragraph 0; it starts at 4"),
    ("start beyond any text", answer(start=10**400), T0 + "answer: '南投縣' is not at start 1000"),
    ("start counted in bytes", answer(start=len("日月潭在".encode())), T0 + "answer: '南投縣' is not at start 12"),
    ("start counted in UTF-16 units", lambda c: c["valid"][0]["answer"].update(start=5),
     "valid.json: row 0 (id 'q2'): answer: '新北市' is not at start 5 of paragraph 3; it starts at 4"),
    ("start at neither of two places", lambda c: c["train"][1]["answer"].update(start=4),
     "train.json: row 1 (id 'q1'): answer: '玉山' is not at start 4 of paragraph 2; it starts at 5"),
    ("start at neither, nearer to the first", lambda c: c["train"][1]["answer"].update(start=1), "it starts at 0"),
    ("start as text", answer(start="4"), T0 + "answer: {"),
    ("empty answer", answer(text=""), T0 + "answer: empty text"),
    ("blank answer", answer(text=" \u3000"), T0 + "answer: empty text"),
    ("answer a list", question(answer=["南投縣"]), T0 + "answer: {"),
    ("answer spanning paragraphs", answer(text="南投縣。阿里山"), T0 + "answer: '南投縣。阿里山' is not at start 4"),
    ("answer in the other script", answer(text="南投县"), T0 + "answer: '南投县' is not at start 4"),
    ("empty context", paragraph(""), "context.json: row 1: empty text"),
    ("context of spaces", paragraph(" \t\n\u3000"), "context.json: row 1: empty text"),
    ("context a number", paragraph(3), "context.json: row 1: a number where text is expected"),
    ("no context", lambda c: c.update(context=[]), "context.json: no paragraphs; at least 2 are needed"),
    ("empty question", question(question="  "), T0 + "question: empty text"),
    ("same id, same content", again(), "train.json: id 'q0' is also in"),
    ("same id, other content", again(question="多遠？"), "train.json: id 'q0' is also in"),
    ("test id among train's", lambda c: c["test"][0].update(id="q1"), "test.json: id 'q1' is also in"),
    ("no id", lambda c: c["train"][0].pop("id"), "train.json: row 0: id: missing"),
    ("number as id", question(id=7), "train.json: row 0 (id 7): id: a number where text is expected"),
    ("relevant 4 of 4", question(relevant=4), T0 + "relevant: 4 is none of this question's paragraphs [0, 1, 2, 3]"),
    ("relevant -1", question(relevant=-1), T0 + "relevant: -1 is none of"),
    ("relevant as text", question(relevant="0"), T0 + "relevant: '0' is none of"),
    ("relevant true", question(relevant=True), T0 + "relevant: True is none of"),
    ("relevant a list", question(relevant=[0]), T0 + "relevant: a list is none of"),
    ("no relevant", lambda c: c["train"][0].pop("relevant"), T0 + "relevant: missing"),
    ("relevant alone in test", lambda c: c["test"][0].update(relevant=3), "test.json: row 0 (id 'q3'): relevant: "),
    ("answer alone in test", lambda c: c["test"][0].update(answer="湖"), "test.json: row 0 (id 'q3'): answer: is"),
    ("nine paragraphs", question(paragraphs=[0, 1, 2, 3, 0, 1, 2, 3, 0]), T0 + f"paragraphs: 9 of them; {FEW}"),
    ("one paragraph", question(paragraphs=[0]), T0 + f"paragraphs: 1 of them; {FEW}"),
    ("same paragraph four times", question(paragraphs=[0, 0, 0, 0]), T0 + "paragraphs: the same paragraph twice"),
    ("unknown paragraph", question(paragraphs=[0, 1, 2, 4]), T0 + "paragraphs: 4 is not in context.json, which has"),
    ("paragraphs as text", question(paragraphs=["0"]), T0 + "paragraphs: a list of whole numbers"),
    ("NUL", paragraph("a\0b"), "context.json: row 1: a NUL character at 1"),
    ("half an emoji", paragraph("湖\ud83c"), "context.json: row 1: half a surrogate pair at 1"),
    ("half an emoji as id", question(id="q\udf89"), "train.json: row 0 (id 'q\\udf89'): id: half a surrogate"),
    ("paragraph of 10 MB", paragraph("湖" * 3_500_000), "context.json: row 1: 3,500,000 characters; at most 100,000"),
    ("question of 1 MB", question(question="湖" * 350_000), T0 + "question: 350,000 characters; at most"),
    ("answer of 1 MB", answer(text="湖" * 350_000), T0 + "answer: '湖湖湖"),
    ("row not an object", lambda c: c["valid"].append(3), "valid.json: row 1: a number where a question object"),
    ("no questions", lambda c: c.update(valid=[]), "valid.json: no questions"),
    ("an object for the list", lambda c: c.update(context={"0": "a"}), "context.json: holds an object"),
    ("answers to nobody's question", lambda c: c.update(references={"q9": ["湖"]}), "references.json: id 'q9' is no"),
]  # fmt: skip


def raw(content: bytes, name: str = "train.json") -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def good(name: str) -> str:
    return json.dumps(GOOD[name], ensure_ascii=False)


def linked(target: str, name: str = "train.json") -> Callable[[Path], None]:
    def link(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return link


def directory(folder: Path) -> None:
    (folder / "train.json").unlink()
    (folder / "train.json").mkdir()


def pipe(folder: Path) -> None:
    (folder / "train.json").unlink()
    os.mkfifo(folder / "train.json")


# What is done to the files of a whole data set, and what is said of them.
FILES: list[tuple[str, Callable[[Path], Any], str]] = [
    ("missing file", lambda folder: (folder / "valid.json").unlink(), "valid.json: No such file or directory"),
    ("directory for a file", directory, "train.json: Is a directory"),
    ("pipe for a file", pipe, "train.json: not a regular file"),
    ("GB18030", raw(good("train").encode("gb18030")), "train.json: byte 27 is not UTF-8; convert the file"),
    ("Big5", raw(good("valid").encode("big5"), "valid.json"), "valid.json: byte 27 is not UTF-8; convert the file"),
    ("UTF-16", raw(good("train").encode("utf-16")), "train.json: is in UTF-16, not UTF-8; save it in UTF-8"),
    ("UTF-16 of big machines", raw(b"\xfe\xff" + good("train").encode("utf-16-be")), "is in UTF-16, not UTF-8"),
    ("UTF-32", raw(good("train").encode("utf-32")), "train.json: is in UTF-32, not UTF-8; save it in UTF-8"),
    ("truncated", raw(good("train").encode()[:-9]), "train.json:1: not JSON: "),
    ("truncated inside a character", raw(good("train").encode().rpartition(b"\xa3")[0]), "is not UTF-8"),
    ("NaN", raw(b"[NaN]"), "train.json: NaN is not JSON; write a number or null"),
    ("number of 5,000 digits", raw(b"[" + b"9" * 5_000 + b"]"), "train.json: Exceeds the limit"),
    ("key twice", raw(b'[{"id": "q0", "question": "a", "question": "b"}]'),
     "train.json: key 'question' twice in one object (id 'q0'); keep one"),
    ("key twice of many", raw(b"{%s, \"9\": 0}" % b",".join(b'"%d": 0' % n for n in range(50_000))), "key '9' twice"),
    ("JSONL", raw(b"{}\n{}\n"), "train.json:2: not JSON: Extra data; one JSON list is expected, not a value per line"),
    ("line break inside a text", raw(b'["a\nb"]', "context.json"), "context.json:1: not JSON: Invalid control"),
    ("broken link", linked("nowhere.json"), "train.json: No such file or directory"),
    ("broken link for the test set", linked("nowhere.json", "test.json"), "test.json: No such file or directory"),
    ("link in a circle", linked("train.json"), "train.json: "),
    ("link to an endless device", linked("/dev/zero"), "train.json: not a regular file"),
    ("gz by mistake", raw(gzip.compress(good("train").encode())), "train.json: gzip-compressed; unpack it first"),
    ("bz2 by mistake", raw(bz2.compress(good("train").encode())), "train.json: bzip2-compressed; unpack it first"),
    ("xz by mistake", raw(lzma.compress(good("train").encode())), "train.json: xz-compressed; unpack it first"),
    ("a spreadsheet", raw(b"PK\x03\x04\x14\0\xff"), "train.json: a ZIP archive, or a spreadsheet; unpack it, or save"),
    ("empty file", raw(b""), "train.json:1: not JSON: Expecting value; the file is empty"),
    ("file of spaces", raw(b" \n"), "the file is empty"),
    ("nested too deeply", raw(b"[" * 100_000), "train.json: nested too deeply"),
]  # fmt: skip


def check(folder: Path | str) -> Result:
    return invoke("data", "check", str(folder))


def contents(folder: Path) -> dict[str, Any]:
    return {path.name: path.lstat() for path in folder.iterdir() if not path.is_dir()}


def assert_refused(folder: Path, message: str) -> None:
    before = contents(folder)
    with pytest.raises(DataError) as caught:
        read_data(str(folder))
    assert len([line for line in caught.value.lines if line.startswith(str(folder)) and message in line]) == 1
    assert all("\n" not in line and len(line) < 400 + len(str(folder)) for line in caught.value.lines)
    result = check(folder)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.splitlines() == list(caught.value.lines)
    assert {name: (at.st_size, at.st_mtime_ns) for name, at in contents(folder).items()} == {
        name: (at.st_size, at.st_mtime_ns) for name, at in before.items()
    }


def spoiled(folder: Path, spoil: Callable[[Content], Any]) -> Path:
    content = copy.deepcopy(GOOD)
    spoil(content)
    folder.mkdir(exist_ok=True)
    for name, value in content.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return folder


@pytest.mark.parametrize(("spoil", "message"), [case[1:] for case in ROWS], ids=[case[0] for case in ROWS])
def test_a_broken_row_is_named(tmp_path: Path, spoil: Callable[[Content], Any], message: str) -> None:
    assert_refused(spoiled(tmp_path, spoil), message)


@pytest.mark.parametrize(("spoil", "message"), [case[1:] for case in FILES], ids=[case[0] for case in FILES])
def test_a_broken_file_is_named(tmp_path: Path, spoil: Callable[[Path], Any], message: str) -> None:
    folder = write(tmp_path, GOOD)
    spoil(folder)
    assert_refused(folder, message)


@pytest.mark.parametrize("name", ["nowhere", "train.json", "x" * 300, "a\0b"])
def test_a_folder_that_is_none_is_named(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, GOOD) / name
    result = check(folder)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith(f"{folder}: no such folder; `data` is a folder with context.json")


def asked(text: str, span: str, start: int | None = None) -> Callable[[Content], None]:
    """A question whose answer `span` lies in a paragraph of this text."""

    def spoil(content: Content) -> None:
        content["context"].append(text)
        entry = row(9, 4, span, text.index(span) if start is None else start)
        content["train"].append({**entry, "paragraphs": [4, 0, 1, 2]})

    return spoil


def five(content: Content) -> None:
    content["context"].append("湖")
    content["train"][0]["paragraphs"].append(4)


# What is done to a whole data set, and how its oddity is told.
ACCEPTED: list[tuple[str, Callable[[Content], Any], str]] = [
    ("answer found twice, start at the other", lambda c: c["train"][1]["answer"].update(start=0),
     "answer occurs more than once in its paragraph: 33.3%"),
    ("three paragraphs", question(paragraphs=[0, 1, 2]), "paragraphs of a question: 3 (1), 4 (3)"),
    ("five paragraphs", five, "paragraphs of a question: 4 (3), 5 (1)"),
    ("same text under two numbers", lambda c: c["context"].append(CONTEXT[0]), "repeated paragraphs: 1"),
    ("U+FEFF inside", asked("湖\ufeff在台灣", "台灣"), "on 5 paragraphs"),
    ("U+FEFF first", asked("\ufeff湖在台灣", "台灣"), "on 5 paragraphs"),
    ("zero-width", asked("湖\u200b在\u200d台灣", "台灣"), "on 5 paragraphs"),
    ("emoji", asked("🎉👨‍👩‍👧在台灣", "👨‍👩‍👧在"), "on 5 paragraphs"),
    ("beyond the first plane", asked("𠮷野家在台灣", "野家"), "on 5 paragraphs"),
    ("combining marks", asked("cafe\u0301在台灣", "e\u0301在"), "on 5 paragraphs"),
    ("full and half width", asked("１２Ａ，12A,在台灣", "12A,"), "on 5 paragraphs"),
    ("both scripts", asked("台灣和台湾", "台湾"), "on 5 paragraphs"),
    ("CRLF in a context", asked("湖\r\n在台灣", "台灣"), "on 5 paragraphs"),
    ("mixed line ends", asked("湖\r\n在\n台\r灣", "在\n台\r灣"), "on 5 paragraphs"),
    ("paragraph of one character", asked("湖", "湖"), "on 5 paragraphs"),
    ("longest paragraph", asked("湖" * (MAX_TEXT_CHARS - 2) + "台灣", "台灣"), "largest 100,000"),
    ("question longer than any window", question(question="湖" * 9_000), "largest 9,000"),
    ("a formula as answer", asked("=cmd|' /C calc'!A0", "=cmd|' /C calc'!A0"), "on 5 paragraphs"),
    ("answer with comma, quotes and a line break", asked('湖,"台\n灣"', ',"台\n灣"'), "on 5 paragraphs"),
    ("id with space and a control character", question(id=" q\u20680"), "odd ids: 1"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "told"), [case[1:] for case in ACCEPTED], ids=[case[0] for case in ACCEPTED])
def test_what_is_odd_keeps_its_offsets_and_is_counted(
    tmp_path: Path, spoil: Callable[[Content], Any], told: str
) -> None:
    folder = spoiled(tmp_path, spoil)
    data = read_data(str(folder))
    expected = json.loads((folder / "train.json").read_text(encoding="utf-8"))
    for found, entry in zip(data.train, expected, strict=True):
        text, start = entry["answer"]["text"], entry["answer"]["start"]
        assert (found.answer, found.start) == (text, start)
        assert data.paragraphs[entry["relevant"]][start : start + len(text)] == text
    result = check(folder)
    assert (result.exit_code, result.stderr) == (0, "")
    assert told in result.stdout


# Files that look odd and hold the same as the whole data set.
SAME: list[tuple[str, Callable[[Path], Any]]] = [
    ("BOM", raw(b"\xef\xbb\xbf" + good("train").encode())),
    ("CRLF", raw(json.dumps(GOOD["train"], indent=1).replace("\n", "\r\n").encode())),
    ("escapes", raw(json.dumps(GOOD["train"]).encode())),
    ("link", lambda f: ((f / "train.json").rename(f / "elsewhere"), (f / "train.json").symlink_to("elsewhere"))),
]


@pytest.mark.parametrize("spoil", [case[1] for case in SAME], ids=[case[0] for case in SAME])
def test_how_a_file_is_written_changes_nothing(tmp_path: Path, spoil: Callable[[Path], Any]) -> None:
    whole = read_data(str(write(tmp_path / "whole", GOOD))).fingerprint
    folder = write(tmp_path / "odd", GOOD)
    spoil(folder)
    assert read_data(str(folder)).fingerprint == whole
    assert check(folder).exit_code == 0
