"""Text to windows and back. Golden cases are worked out by hand; `HF` is transformers' own windowing."""

from __future__ import annotations

import logging
import os
import signal
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.backbone import tokenizers
from jobs.features import tokens
from jobs.features import windows as features
from jobs.features.spans import Spans
from jobs.features.tokens import tokenize
from jobs.features.windows import Pair, cut_windows, unrepresentable

VOCABULARY = ["日月潭在南投縣魚池鄉，是台灣最大的湖。位於民國七十六年１９８７年1987「」《》（）abc xyz🎉"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tokenizers.character_tokenizer(VOCABULARY)


def windows_of(
    tokenizer: Any, question: str, text: str, answer: tuple[int, int], max_length: int, stride: int
) -> features.Windows:
    questions, paragraphs = tokenize(tokenizer, [question]), tokenize(tokenizer, [text])
    return cut_windows(tokenizer, questions, paragraphs, [Pair(0, 0, *answer)], max_length, stride)


def cut_back(windows: features.Windows, text: str) -> list[str]:
    """The text of the labelled span of every window that has one."""
    rows = np.flatnonzero(windows.labels[:, 0])
    spans = Spans(np.zeros(len(rows)), *(windows.labels[rows] - windows.offset[rows, None]).T)
    return [text[first:last] for first, last in windows.characters(rows, spans)]


GOLDEN = [
    ("full-width punctuation", "「日月潭」，是湖。", "日月潭"),
    ("full-width digits", "位於１９８７年。", "１９８７年"),
    ("half-width digits", "在1987年，", "1987"),
    ("an unknown character", "在龘龘湖，是湖", "龘龘湖"),
    ("two spaces", "abc  xyz 湖", "xyz 湖"),
    ("an emoji", "湖🎉是湖", "🎉是"),
    ("a character beyond the first plane", "在𠮷𠮷，湖", "𠮷，"),
    ("the whole text", "日月潭", "日月潭"),
]


@pytest.mark.parametrize(("text", "answer"), [case[1:] for case in GOLDEN], ids=[case[0] for case in GOLDEN])
def test_a_span_comes_back_as_the_text_it_was(tokenizer: Any, text: str, answer: str) -> None:
    start = text.index(answer)
    windows = windows_of(tokenizer, "湖在", text, (start, start + len(answer)), 64, 8)
    assert cut_back(windows, text) == [answer]


def test_a_repeated_answer_keeps_its_place(tokenizer: Any) -> None:
    text = "湖在台灣，台灣是台灣"
    windows = windows_of(tokenizer, "湖", text, (5, 7), 64, 8)
    # [CLS] 湖 [SEP] 湖 在 台 灣 ， 台 灣 …: the second 台灣 stands at positions 8 and 9.
    assert windows.labels.tolist() == [[8, 9]]


def test_windows_overlap_by_the_stride_and_label_cls_without_the_answer(tokenizer: Any) -> None:
    text = "日月潭在南投縣魚池鄉是台"  # 12 tokens; 10 - 3 special - 1 question = 6 a window, 4 new ones each
    windows = windows_of(tokenizer, "湖", text, (7, 9), 10, 2)
    assert list(zip(windows.first.tolist(), windows.last.tolist(), strict=True)) == [(0, 6), (4, 10), (8, 12)]
    assert windows.labels.tolist() == [
        [0, 0],
        [6, 7],
        [0, 0],
    ]  # 魚池 is tokens 7 and 8; windows 1 and 3 hold half of it or none
    assert cut_back(windows, text) == ["魚池"]


@pytest.mark.parametrize(("answer", "holders"), [((0, 1), [0]), ((5, 6), [0, 1]), ((4, 6), [0, 1]), ((11, 12), [2])])
def test_an_answer_at_a_windows_edge_is_labelled_in_each_window_that_holds_it(
    tokenizer: Any, answer: tuple[int, int], holders: list[int]
) -> None:
    windows = windows_of(tokenizer, "湖", "日月潭在南投縣魚池鄉是台", answer, 10, 2)
    assert np.flatnonzero(windows.labels[:, 0]).tolist() == holders


ROOM = 32 - 3  # tokens for question and paragraph in a window of 32


@pytest.mark.parametrize(
    ("paragraph", "stride", "kept"),
    [
        (100, 4, ROOM // 2),
        (ROOM - ROOM // 2, 0, ROOM // 2),
        (14, 0, ROOM - 14),
        (7, 4, ROOM - 7),
        (7, 9, ROOM - 10),  # room for a token more than two windows would share
        (2, 0, ROOM - 2),
        (0, 0, ROOM - 1),
    ],
)
def test_a_question_takes_half_of_the_window_and_what_the_paragraph_leaves_free(
    tokenizer: Any, paragraph: int, stride: int, kept: int
) -> None:
    windows = windows_of(tokenizer, "湖" * 500, "在" * paragraph, (-1, -1), 32, stride)
    assert windows.offset[0] == 1 + kept + 1
    assert windows.lengths().max() <= 32
    assert len(windows) == 1 or paragraph == 100


@pytest.mark.parametrize(("keep_end", "kept"), [(False, "日月潭在南投縣魚池鄉"), (True, "投縣魚池鄉，是台灣最")])
def test_a_long_question_loses_its_end_or_its_beginning(tokenizer: Any, keep_end: bool, kept: str) -> None:
    questions = tokenize(tokenizer, ["日月潭在南投縣魚池鄉，是台灣最", "湖在"])
    paragraphs = tokenize(tokenizer, ["台灣", "湖"])
    pairs = [Pair(0, 0), Pair(1, 1)]
    batch = cut_windows(tokenizer, questions, paragraphs, pairs, 3 + 10 + 2, 0, keep_end).batch([0, 1])
    texts = [tokenizer.decode(ids).replace(" ", "") for ids in batch.input_ids]
    assert texts[0] == f"[CLS]{kept}[SEP]台灣[SEP]"
    assert texts[1].startswith("[CLS]湖在[SEP]湖[SEP]")


def test_no_room_to_move_is_an_error(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="leaves no room"):
        windows_of(tokenizer, "湖", "日月潭", (0, 1), 32, 30)


def test_only_the_paragraphs_scores_take_part(tokenizer: Any) -> None:
    segments = windows_of(tokenizer, "湖在", "日月潭", (0, 1), 32, 4).segments
    assert segments.present().tolist() == [[True] * 3]
    assert segments.scores(np.arange(10)[None], 3).tolist() == [[4, 5, 6]]


@pytest.mark.parametrize("name", ["scratch", "bert-base-chinese-tokenizer", "me5-small-zh"])
def test_windows_are_those_of_transformers(name: str, tokenizer: Any, request: pytest.FixtureRequest) -> None:
    if name != "scratch":
        tokenizer = tokenizers.load_tokenizer(str(request.getfixturevalue("shared") / "models" / name), [])
    question, text = "日月潭在哪裡？", "日月潭位於1987年的台灣，abc xyz🎉。" * 9
    ours = windows_of(tokenizer, question, text, (0, 3), 48, 16)
    theirs = tokenizer(
        question, text, truncation="only_second", max_length=48, stride=16, return_overflowing_tokens=True,
        padding=True, return_token_type_ids=True,
    )  # fmt: skip
    batch = ours.batch(range(len(ours)))
    assert batch.input_ids.tolist() == theirs["input_ids"]
    assert batch.attention_mask.tolist() == theirs["attention_mask"]
    same = slice(None) if name != "me5-small-zh" else slice(1)  # there the second window has other types than the first
    assert batch.token_type_ids[same].tolist() == theirs["token_type_ids"][same]


TEXT = st.text(
    st.one_of(st.sampled_from("日月潭在南投縣1987ab ，。「」龘🎉"), st.characters(exclude_categories=["Cs"])),
    min_size=1,
    max_size=60,
)


@given(text=TEXT, data=st.data())
@pytest.mark.parametrize("kind", ["scratch", "sentencepiece"])
def test_any_span_comes_back_or_is_counted(kind: str, text: str, data: st.DataObject, readers: dict[str, Any]) -> None:
    reader = readers[kind]
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    paragraphs = tokenize(reader, [text])
    lost = unrepresentable(paragraphs, [Pair(0, 0, start, end)])
    windows = cut_windows(reader, tokenize(reader, ["湖"]), paragraphs, [Pair(0, 0, start, end)], 128, 16)
    found = cut_back(windows, text)
    assert lost in (0, 1)
    assert (text[start:end] in found) if not lost else (text[start:end] not in found)


@pytest.fixture(scope="module")
def readers(tokenizer: Any, request: pytest.FixtureRequest) -> dict[str, Any]:
    shared = request.getfixturevalue("shared")
    return {
        "scratch": tokenizer,
        "sentencepiece": tokenizers.load_tokenizer(str(shared / "models/me5-small-zh"), []),
    }


def test_tokens_are_made_once_and_read_again(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tokens.cached_tokens(tmp_path, tokenizer, ["日月潭", "湖"])
    monkeypatch.setattr(tokens, "tokenize", lambda *_: pytest.fail("tokenized again"))
    again = tokens.cached_tokens(tmp_path, tokenizer, ["日月潭", "湖"])
    assert [a.tolist() for a in (made.ids, made.chars, made.bounds)] == [
        a.tolist() for a in (again.ids, again.chars, again.bounds)
    ]
    assert isinstance(again.ids, np.memmap)


def test_a_tokenizer_used_in_between_finds_its_tokens_again(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens.cached_tokens(tmp_path, tokenizer, ["日月潭", "湖"])
    tokenizer("日月潭", truncation=True, max_length=4, padding="max_length")
    monkeypatch.setattr(tokens, "tokenize", lambda *_: pytest.fail("tokenized again"))
    assert len(tokens.cached_tokens(tmp_path, tokenizer, ["日月潭", "湖"]).ids) == 4


def test_other_texts_and_other_tokenizers_do_not_share_tokens(tokenizer: Any, tmp_path: Path) -> None:
    other = tokenizers.character_tokenizer(["湖"])
    tokens.cached_tokens(tmp_path, tokenizer, ["日月潭"])
    assert tokens.cached_tokens(tmp_path, other, ["日月潭"]).ids.tolist() == [1, 1, 1]
    assert len(tokens.cached_tokens(tmp_path, tokenizer, ["日月潭", "湖"]).ids) == 4


def as_lists(stored: tokens.Tokens) -> list[Any]:
    return [getattr(stored, name).tolist() for name in tokens.NAMES]


def entry_of(folder: Path) -> Path:
    (entry,) = [path for path in folder.iterdir() if path.is_dir()]
    return entry


def cut_short(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def emptied(file: Path) -> None:
    os.truncate(file, 0)


def one_bit_turned(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", [*(f"{name}.npy" for name in tokens.NAMES), tokens.CHECKSUMS])
@pytest.mark.parametrize("damage", [cut_short, emptied, one_bit_turned, Path.unlink])
def test_damaged_tokens_are_made_again_once(
    damage: Any, name: str, tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = ["日月潭", "湖 在", " "]
    whole = as_lists(tokens.cached_tokens(tmp_path, tokenizer, texts))
    damage(entry_of(tmp_path) / name)
    with caplog.at_level(logging.WARNING):
        assert as_lists(tokens.cached_tokens(tmp_path, tokenizer, texts)) == whole
        assert as_lists(tokens.cached_tokens(tmp_path, tokenizer, texts)) == whole
    assert [record.getMessage().split(": ")[1][:25] for record in caplog.records] == ["stored tokens are damaged"]


def backdated_bit_turned(file: Path) -> None:
    seen = file.stat()
    one_bit_turned(file)
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))


@pytest.mark.parametrize("damage", [cut_short, emptied, one_bit_turned, backdated_bit_turned, Path.unlink])
def test_damage_since_the_last_look_is_seen_in_files_that_were_whole_then(
    damage: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = as_lists(tokens.cached_tokens(tmp_path, tokenizer, ["日月潭"]))
    file = entry_of(tmp_path) / "ids.npy"
    aged(file)
    monkeypatch.setattr(tokens, "SETTLED_SECONDS", 0.0)
    tokens.cached_tokens(tmp_path, tokenizer, ["日月潭"])
    damage(file)
    assert as_lists(tokens.cached_tokens(tmp_path, tokenizer, ["日月潭"])) == whole
    assert len(caplog.records) == 1


def aged(file: Path) -> None:
    """Wait until a change to this folder's files would show: until the file system's clock has moved on."""
    changed = max(path.stat().st_ctime_ns for path in file.parent.iterdir())
    beside = file.parent.parent / "clock"
    while True:
        beside.touch()
        if beside.stat().st_ctime_ns > changed:
            return


def test_files_that_have_not_changed_are_checked_once_a_process(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "SETTLED_SECONDS", -60.0)
    tokens.cached_tokens(tmp_path, tokenizer, ["日月潭", "在"])
    whole = as_lists(tokens.cached_tokens(tmp_path, tokenizer, ["日月潭", "在"]))
    monkeypatch.setattr(tokens, "_checksum", lambda *_: pytest.fail("checked again"))
    assert as_lists(tokens.cached_tokens(tmp_path, tokenizer, ["日月潭", "在"])) == whole


def test_files_as_new_as_the_clock_is_coarse_are_checked_every_time(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens.cached_tokens(tmp_path, tokenizer, ["日月潭", "湖"])
    checked: list[Path] = []
    monkeypatch.setattr(tokens, "SETTLED_SECONDS", 600.0)
    original = tokens._checksum
    monkeypatch.setattr(tokens, "_checksum", lambda file: checked.append(file) or original(file))
    for _ in range(2):
        tokens.cached_tokens(tmp_path, tokenizer, ["日月潭", "湖"])
    assert len(checked) == 2 * len(tokens.NAMES)


def killed_before_the_rename(folder: Path, tokenizer: Any) -> None:
    Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment,method-assign]
    tokens.cached_tokens(folder, tokenizer, ["日月潭"])


def test_tokens_left_by_a_killed_process_are_never_read_and_give_way(tokenizer: Any, tmp_path: Path) -> None:
    process = get_context("fork").Process(target=killed_before_the_rename, args=(tmp_path, tokenizer))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert entry_of(tmp_path).suffix == ".part"
    (entry_of(tmp_path) / "ids.npy").write_bytes(b"half")
    made = tokens.cached_tokens(tmp_path, tokenizer, ["日月潭"])
    assert as_lists(made) == as_lists(tokenize(tokenizer, ["日月潭"]))
    assert entry_of(tmp_path).suffix == ""


@given(texts=st.lists(TEXT, min_size=1, max_size=4), data=st.data())
@pytest.mark.parametrize("kind", ["scratch", "sentencepiece"])
def test_answers_are_found_at_once_where_a_look_at_every_token_finds_them(
    kind: str, texts: list[str], data: st.DataObject, readers: dict[str, Any]
) -> None:
    paragraphs = tokenize(readers[kind], [*texts, ""])
    text = data.draw(st.integers(0, len(texts) - 1))
    start = data.draw(st.integers(0, len(texts[text]) - 1))
    end = data.draw(st.integers(start + 1, len(texts[text])))
    table = np.array([(0, text, start, end), (0, text, tokens.UNLABELLED, tokens.UNLABELLED)], np.int32)
    found = features.answer_tokens(paragraphs, table).tolist()
    assert found == [list(tokens.token_span(paragraphs, text, start, end)), [-1, -1]]


def test_texts_whose_tokens_go_back_are_known_and_looked_through() -> None:
    chars, bounds = np.array([(0, 1), (2, 3), (1, 2), (0, 2)], np.int32), np.array([0, 3, 4], np.int32)
    assert tokens._positions_ascend(chars, bounds).tolist() == [False, True]
    table = tokens.Tokens(np.zeros(4, np.int32), chars, bounds, tokens._positions_ascend(chars, bounds))
    assert features.answer_tokens(table, np.array([(0, 0, 1, 2), (0, 1, 1, 2)], np.int32)).tolist() == [
        [2, 2],
        [0, 0],
    ]
