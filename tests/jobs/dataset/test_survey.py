"""What is told of a data set is counted by hand on small ones, and is what is known of real ones."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertTokenizer, PreTrainedTokenizerFast

from jobs.backbone.source import BackboneError
from jobs.dataset.data import DataError
from jobs.dataset.survey import Lengths, survey

CONTEXT = ["日月潭在南投縣。", "玉山在南投縣，玉山很高。", "淡水在新北市。", "🎉台東１２Ａ。", "沒人問的。"]


def row(key: str, question: str, relevant: int, text: str, start: int, others: list[int]) -> dict[str, Any]:
    answer = {"text": text, "start": start}
    return {"id": key, "question": question, "paragraphs": [relevant, *others], "relevant": relevant, "answer": answer}


GOOD: dict[str, Any] = {
    "context": CONTEXT,
    "train": [
        row("a", "日月潭在哪？", 0, "南投縣", 4, [1]),  # 南投縣 stands in paragraph 1 too
        row("b", "什麼山很高？", 1, "玉山", 0, [2]),  # 玉山 stands twice
    ],
    "valid": [row("c", "淡水在哪個市？", 2, "新北市", 3, [3, 0])],
    "test": [{"id": "d", "question": "🎉？", "paragraphs": [3, 2]}],
}


def write(folder: Path, content: dict[str, Any]) -> str:
    for name, value in content.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return str(folder)


def test_sizes_and_lengths_in_characters(tmp_path: Path) -> None:
    found = survey(write(tmp_path, GOOD))
    assert found.questions == {"train": 2, "valid": 1, "test": 1}
    assert (found.labelled, found.paragraphs, found.candidates) == (3, 5, {2: 3, 3: 1})
    assert found.paragraph_characters == Lengths(5, 7.8, 7.0, 11.2, 12)  # 8 12 7 7 5; 0.95 · 4 = 3.8: 8 + 0.8 · 4
    assert found.question_characters == Lengths(2, 5.25, 6.0, 6.85, 7)  # 6 6 7 2
    assert found.answer_characters == Lengths(2, 2.67, 3.0, 3.0, 3)
    assert found.tokens is None


def test_shares_are_over_labelled_questions(tmp_path: Path) -> None:
    found = survey(write(tmp_path, GOOD))
    assert found.answer_in_distractor == pytest.approx(1 / 3)
    assert found.answer_repeated == pytest.approx(1 / 3)
    assert found.bm25_picks == {"train": 1.0, "valid": 1.0}


def test_bm25_picks_what_shares_words_with_the_question(tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    content["train"][0]["question"] = "玉山？"
    assert survey(write(tmp_path, content)).bm25_picks == {"train": 0.5, "valid": 1.0}


def test_a_whole_data_set_has_its_oddities_counted(tmp_path: Path) -> None:
    found = survey(write(tmp_path, GOOD))
    assert found.unused_paragraphs == 1  # 沒人問的。
    assert found.shared_paragraphs == 3  # 0 in train and valid; 2 in all three; 3 in valid and test
    assert (found.repeated_paragraphs, found.repeated_questions, found.odd_ids) == (0, 0, 0)


def test_repetitions_are_counted(tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    content["context"] += [CONTEXT[0], CONTEXT[0]]
    content["train"] += [
        row("e ", "日月潭在哪？", 0, "日月潭", 0, [2]),  # the same words of the same paragraph
        row("f\n", "日月潭在哪？", 5, "日月潭", 0, [2]),  # and of its copy
        row("g", "日月潭在哪？", 1, "南投縣", 3, [2]),  # of another paragraph
    ]
    found = survey(write(tmp_path, content))
    assert (found.repeated_paragraphs, found.unused_paragraphs) == (2, 2)
    assert found.repeated_questions == 2
    assert found.odd_ids == 2


def test_an_answer_repeated_within_itself_is_repeated(tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    content["context"][2] = "哈哈哈。"
    content["valid"][0]["answer"] = {"text": "哈哈", "start": 0}
    assert survey(write(tmp_path, content)).answer_repeated == pytest.approx(2 / 3)


def test_tokens_are_counted_with_what_joins_question_and_paragraphs(tmp_path: Path) -> None:
    """With a token for each character: [CLS] question [SEP] paragraph [SEP], a separator between paragraphs."""
    tokens = survey(write(tmp_path, GOOD), "scratch:1x8x1").tokens
    assert tokens is not None
    assert tokens.paragraph == Lengths(5, 7.8, 7.0, 11.2, 12)
    assert tokens.answer.largest == 3
    assert tokens.relevant == Lengths(17, 18.33, 17.0, 20.6, 21)  # 3 + 6 + 8, 3 + 6 + 12, 3 + 7 + 7; 17 + 0.9 · 4
    assert tokens.joined.largest == 3 + 7 + (7 + 7 + 8) + 2
    assert tokens.joined.smallest == 3 + 2 + (7 + 7) + 1
    assert tokens.answers_cutting_tokens == 0


def long_set(tmp_path: Path, before: int, others_first: bool) -> str:
    """One labelled question of 4 characters, whose answer of 2 has `before` characters in front of it."""
    context = ["山" * before + "湖水" + "山" * 600, "河" * 500, "海" * 30]
    asked = row("a", "湖在哪？", 0, "湖水", before, [1])
    if others_first:
        asked["paragraphs"] = [1, 0]
    other = row("b", "海呢？", 2, "海海", 0, [1])
    return write(tmp_path, {"context": context, "train": [asked], "valid": [other]})


# The answer's last token is number 1 + 4 + 1 + before + 2 of [CLS] question [SEP] paragraph [SEP].
@pytest.mark.parametrize(("before", "past"), [(504, 0.0), (505, 0.5)])
def test_an_answer_ends_past_a_limit_from_the_next_token_on(tmp_path: Path, before: int, past: float) -> None:
    tokens = survey(long_set(tmp_path, before, others_first=False), "scratch:1x8x1").tokens
    assert tokens is not None
    assert tokens.relevant_answer_ends_past[512] == tokens.joined_answer_ends_past[512] == past
    assert tokens.relevant_longer[512] == 0.5
    assert tokens.joined_longer[512] == 1.0


# With the other paragraph in front: 1 + 4 + 1 + 500 + 1 + before + 2.
@pytest.mark.parametrize(("before", "past"), [(3, 0.0), (4, 0.5)])
def test_paragraphs_in_front_push_an_answer_back(tmp_path: Path, before: int, past: float) -> None:
    tokens = survey(long_set(tmp_path, before, others_first=True), "scratch:1x8x1").tokens
    assert tokens is not None
    assert tokens.joined_answer_ends_past[512] == past
    assert tokens.relevant_answer_ends_past[512] == 0


def byte_pieces(folder: Path, *before: Any) -> str:
    """Write a tokenizer whose tokens are bytes, with pre-tokenizers `before` it, and return its folder."""
    alphabet = ("<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet()))
    raw = Tokenizer(models.BPE(vocab={piece: index for index, piece in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.Sequence([*before, pre_tokenizers.ByteLevel(add_prefix_space=True)])
    raw.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=True)
    folder.mkdir()
    PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>").save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "roberta"}', encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize(("lost", "cut", "dropped"), [("", 0.0, 0), ("S", 1 / 3, 1), ("e", 1 / 3, 1)])
def test_an_answer_without_its_first_or_last_letter_is_counted(
    tmp_path: Path, lost: str, cut: float, dropped: int
) -> None:
    """The tokenizer splits at white space, puts a space before each word, and loses one letter."""
    content = copy.deepcopy(GOOD)
    content["context"][2] = "日月潭 Sun Moon Lake 在"
    content["valid"][0]["answer"] = {"text": "Sun Moon Lake", "start": 4}
    losing = [pre_tokenizers.Split(lost, "removed")] if lost else []
    tokenizer = byte_pieces(tmp_path / "tokenizer", pre_tokenizers.Whitespace(), *losing)
    tokens = survey(write(tmp_path, content), tokenizer).tokens
    assert tokens is not None
    assert tokens.answers_cutting_tokens == pytest.approx(cut)
    assert tokens.coverage.dropped_characters == dropped
    assert any(f"such as {lost}" in line for line in tokens.lines()) == bool(lost)


def test_a_survey_shows_what_a_tokenizer_does_not_read(tmp_path: Path) -> None:
    vocabulary = {
        piece: index
        for index, piece in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *"日月潭在南投縣山高玉，。很淡水新北市"))
    }
    BertTokenizer(vocab=vocabulary).save_pretrained(tmp_path / "bert")
    found = survey(write(tmp_path, GOOD), str(tmp_path / "bert"))
    assert found.tokens is not None
    assert found.as_dict()["tokens"]["coverage"]["unknown_characters"] == found.tokens.coverage.unknown_characters > 0
    assert any(line.startswith("  its tokenizer does not read") for line in found.lines())


def test_a_survey_with_a_tokenizer_that_reads_nothing_is_refused(tmp_path: Path) -> None:
    vocabulary = {piece: index for index, piece in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"))}
    BertTokenizer(vocab=vocabulary).save_pretrained(tmp_path / "bert")
    with pytest.raises(BackboneError, match=r"its tokenizer of 6 pieces reads 0.0% of the characters"):
        survey(write(tmp_path, GOOD), str(tmp_path / "bert"))


def test_an_answer_that_begins_inside_a_token_is_counted(shared: Path, tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    content["context"][2] = "Washington在美國。"
    content["valid"][0]["answer"] = {"text": "ton", "start": 7}
    tokenizer = str(shared / "models/bert-base-chinese-tokenizer")
    tokens = survey(write(tmp_path, content), tokenizer).tokens
    assert tokens is not None
    assert tokens.answers_cutting_tokens == pytest.approx(1 / 3)


def test_broken_rows_are_told_as_everywhere(tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    content["train"][0]["answer"]["start"] = 5
    with pytest.raises(DataError, match="is not at start 5"):
        survey(write(tmp_path, content))


def test_a_tokenizer_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="nowhere"):
        survey(write(tmp_path, GOOD), str(tmp_path / "nowhere"))


def test_the_survey_is_told_in_text_and_as_json(tmp_path: Path) -> None:
    found = survey(write(tmp_path, GOOD), "scratch:1x8x1")
    text = "\n".join(found.lines())
    assert text.startswith(f"{tmp_path}: 2 train / 1 valid / 1 test questions on 5 paragraphs\nfingerprint ")
    assert "paragraphs of a question: 2 (3), 3 (1)" in text
    assert "answer also occurs in a distractor: 33.3%" in text
    assert "relevant paragraph picked by BM25: train 100.0%, valid 100.0%" in text
    assert "unused paragraphs: 1" in text
    assert "odd ids" not in text
    back = json.loads(json.dumps(found.as_dict()))
    assert back["questions"] == {"train": 2, "valid": 1, "test": 1}
    assert back["tokens"]["relevant_longer"]["512"] == 0


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=30))
def test_lengths_are_ordered(numbers: list[int]) -> None:
    lengths = Lengths.of(numbers)
    assert lengths.smallest <= lengths.median <= lengths.p95 <= lengths.largest
    assert lengths.smallest - 0.01 <= lengths.mean <= lengths.largest + 0.01
    assert lengths.median == np.median(numbers)


def test_what_is_known_of_the_real_set(shared: Path) -> None:
    found = survey(str(shared / "data/drcd_small"))
    published = json.loads((shared / "data/drcd_small/build_info.json").read_text(encoding="utf-8"))
    assert (found.paragraphs, found.questions) == (published["contexts"], published["counts"])
    for split in ("train", "valid"):
        assert found.bm25_picks[split] == pytest.approx(published["bm25_pick_accuracy"][split], abs=0.02)
    inside = published["some_distractor_contains_answer"]
    assert found.answer_in_distractor == pytest.approx((399 * inside["train"] + 100 * inside["valid"]) / 499, abs=1e-4)
    assert found.unused_paragraphs == found.shared_paragraphs == 0


@pytest.mark.slow
def test_what_is_known_of_the_real_set_in_tokens(shared: Path) -> None:
    tokens = survey(str(shared / "data/drcd"), str(shared / "models/bert-base-chinese-tokenizer")).tokens
    assert tokens is not None
    assert tokens.relevant_longer[512] == pytest.approx(0.305, abs=0.001)
    assert tokens.relevant_answer_ends_past[512] == pytest.approx(0.046, abs=0.001)
    assert tokens.joined_answer_ends_past[512] == pytest.approx(0.68, abs=0.005)
    assert tokens.joined.mean == pytest.approx(1778 + 3, abs=1)  # known without the three separators
    assert tokens.joined.largest == 3618 + 3
