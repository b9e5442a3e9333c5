"""Read unusual texts with every kind of tokenizer: labels and answers have the exact text, or are counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jobs.answering.answers import Answer, averaged, character_chances, combine
from jobs.backbone.tokenizers import load_tokenizer
from jobs.features.blanks import has_text, is_blank, opening, text_span
from jobs.features.tokens import Tokens, cached_tokens, tokenize
from jobs.features.windows import (
    NO_SPAN_SCORE,
    Group,
    Pair,
    Windows,
    answer_tokens,
    best_answers,
    cut_joined_windows,
    cut_windows,
    pair_table,
    unrepresentable,
)
from tests.support.tokenizers import KINDS, build_tokenizer
from tests.support.unusual import STRINGS

TEXTS = tuple(STRINGS.values())
WIDTH = 2048  # tokens: a window holds each of the texts
LENGTH = 512  # longest answer, in tokens or characters
REAL = ("me5-small-zh", "bert-base-chinese-tokenizer")


def spans_of(texts: Sequence[str], longest: int) -> Iterator[Pair]:
    """Yield each whole text without blanks at its ends, and each span of up to `longest` characters."""
    for row, text in enumerate(texts):
        places = [place for place, letter in enumerate(text) if not is_blank(letter)]
        yield Pair(0, row, places[0], places[-1] + 1)
        for start in range(len(text)):
            for end in range(start + 1, min(len(text), start + longest) + 1):
                yield Pair(0, row, start, end)


def windows_of(reader: Any, texts: Sequence[str], pairs: Sequence[Pair]) -> Windows:
    return cut_windows(reader, tokenize(reader, ["湖在哪裡"]), tokenize(reader, texts), pairs, WIDTH, 0)


def labels_as_logits(windows: Windows) -> tuple[Any, Any]:
    """Return the scores of a model that has learnt the labels."""
    start, end = np.zeros((2, len(windows), int(windows.lengths().max())), np.float32)
    labelled = np.flatnonzero(windows.labels[:, 0])
    for scores, places in ((start, windows.labels[labelled, 0]), (end, windows.labels[labelled, 1])):
        scores[labelled, places] = 50
    return start, end


def begins_and_ends_with_text(answer: str) -> bool:
    return bool(answer) and not is_blank(answer[0]) and not is_blank(answer[-1])


def check_spans(reader: Any, texts: Sequence[str], pairs: Sequence[Pair]) -> int:
    """Check each gold span: the answer of its label, also in a vote, is its exact text, or it is counted.

    Return the number of spans that are recovered.
    """
    windows = windows_of(reader, texts, pairs)
    logits = labels_as_logits(windows)
    answers = best_answers(windows, texts, logits, LENGTH)
    own = [texts[pair.paragraph] for pair in pairs]
    chances = character_chances(windows, logits, own)
    exact = 0
    for pair, text, answer, vote, (label, _) in zip(pairs, own, answers, chances, windows.labels, strict=True):
        voted, gold = averaged(text, [vote, vote], LENGTH), (text[pair.start : pair.end], pair.start)
        lost = unrepresentable(windows.paragraphs, [pair])
        assert begins_and_ends_with_text(answer["answer"])
        assert begins_and_ends_with_text(voted["answer"])
        assert text[answer["start"] :].startswith(answer["answer"])
        if label or not lost:
            assert ((answer["answer"], answer["start"]) == gold) is not bool(lost), (text, gold)
        if not lost:
            assert (voted["answer"], voted["start"]) == gold
        exact += not lost
    return exact


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_of_a_label_is_the_answer_or_the_answer_is_counted(kind: str) -> None:
    pairs = list(spans_of(TEXTS, 1))[KINDS.index(kind) % 9 :: 9]
    exact = check_spans(build_tokenizer(kind), TEXTS, pairs)
    assert exact > (0 if kind.startswith(("drops", "words")) else len(pairs) / 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_so_it_is_with_tokenizers_of_real_encoders(name: str, shared: Path) -> None:
    pairs = list(spans_of(TEXTS, 1))
    assert check_spans(load_tokenizer(str(shared / "models" / name), ()), TEXTS, pairs) > len(pairs) / 4


@pytest.mark.long
@pytest.mark.parametrize("kind", [*KINDS, *REAL])
def test_every_span_of_every_text_is_the_answer_or_is_counted(kind: str, request: pytest.FixtureRequest) -> None:
    if kind in REAL:
        reader = load_tokenizer(str(request.getfixturevalue("shared") / "models" / kind), ())
    else:
        reader = build_tokenizer(kind)
    check_spans(reader, TEXTS, list(spans_of(TEXTS, 8)))


@pytest.mark.parametrize("gold", ["Sun Moon Lake", "Moon Lake", "Lake 在", "在", "湖", "。"])
def test_a_word_keeps_its_first_letter_when_the_tokenizer_puts_a_space_before_it(gold: str) -> None:
    """RoBERTa's own places of such a word, which is one token with the space, begin at the second letter."""
    reader, text = build_tokenizer("RoBERTa, after words"), "日月潭 Sun Moon Lake 在。湖"
    encoding = reader.backend_tokenizer.encode(text, add_special_tokens=False)
    assert (text.index("在") + 1,) * 2 in encoding.offsets
    ids = reader(text, add_special_tokens=False)["input_ids"]
    pair = Pair(0, 0, text.index(gold), text.index(gold) + len(gold))
    assert check_spans(reader, [text], [pair]) == 1
    assert tokenize(reader, [text]).ids.tolist() == ids == reader(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_that_mentions_special_tokens_does_not_split_the_input(kind: str) -> None:
    reader, text = build_tokenizer(kind), "湖[SEP]山[CLS]水 [PAD]"
    tokens = tokenize(reader, [text])
    assert not set(tokens.ids.tolist()) & {reader.cls_token_id, reader.sep_token_id, reader.pad_token_id}
    check_spans(reader, [text], list(spans_of([text], 3)))


@pytest.mark.parametrize(
    ("kind", "text", "gold"),
    [
        ("BERT, cased", "湖\x01\ue000在台灣", "\ue000在"),  # it drops what stands for no character
        ("BERT, uncased", "在cafe\u0301裡", "cafe\u0301"),  # it drops marks
        ("ALBERT", "湖\u0301", "湖\u0301"),
        ("RoBERTa", "在 湖", " 湖"),
        ("RoBERTa", "湖\u200b", "湖\u200b"),
        ("drops all but Latin", "在湖", "湖"),
    ],
)
def test_answers_that_no_token_begins_or_ends_are_counted_and_learnt_as_the_nearest_tokens(
    kind: str, text: str, gold: str
) -> None:
    start = text.index(gold)
    windows = windows_of(build_tokenizer(kind), [text], [Pair(0, 0, start, start + len(gold))])
    assert unrepresentable(windows.paragraphs, [Pair(0, 0, start, start + len(gold))]) == 1
    (answer,) = best_answers(windows, [text], labels_as_logits(windows), LENGTH)
    assert answer["answer"] == ("在湖" if kind.startswith("drops") else gold.strip("\ue000\u0301\u200b "))


def test_a_label_skips_tokens_without_text() -> None:
    """The paragraph begins with a dropped letter and a token of a space alone."""
    chars = np.array([[2, 2], [2, 3], [4, 4], [5, 5]], np.int32)
    paragraphs = Tokens(np.arange(4, dtype=np.int32), chars, np.array([0, 4], np.int32), np.array([True]))
    assert answer_tokens(paragraphs, pair_table([Pair(0, 0, 0, 6)])).tolist() == [[1, 1]]


def test_characters_in_another_order_than_their_tokens_make_an_answer() -> None:
    chars = np.array([[1, 2], [0, 1]], np.int32)
    paragraphs = Tokens(np.arange(2, dtype=np.int32), chars, np.array([0, 2], np.int32), np.array([False]))
    assert paragraphs.characters(np.array([0]), np.array([1]), np.array([True])).tolist() == [[0, 2]]
    assert unrepresentable(paragraphs, [Pair(0, 0, 0, 2)]) == 0


LETTERS = st.sampled_from("湖在 \u3000\r\n\t\u200b\ufeff\u0301a1。🎉\ue000\x01")
PARAGRAPHS = st.lists(st.text(LETTERS, min_size=1, max_size=12).filter(has_text), min_size=2, max_size=4)
ODD_SCORES = (-np.inf, np.nan, np.inf, 1e30)


def any_scores(windows: Windows, seed: int) -> tuple[Any, Any]:
    """Return random scores, with some that are no numbers if `seed` is odd."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(2, len(windows), int(windows.lengths().max())))
    if seed % 2:
        odd = random.random(scores.shape) < 0.2
        scores[odd] = random.choice(ODD_SCORES, odd.sum())
    return scores[0], scores[1]


@pytest.mark.parametrize("kind", ["characters", "RoBERTa, prefix space", "XLM-R", "Llama", "drops all but Latin"])
@settings(max_examples=15)
@given(texts=PARAGRAPHS, seed=st.integers(0, 2**32))
@example(texts=["湖 ", "\u3000湖\r\n"], seed=0)
def test_any_scores_give_answers_that_begin_and_end_with_text(kind: str, texts: list[str], seed: int) -> None:
    reader = build_tokenizer(kind)
    alone = windows_of(reader, texts, [Pair(0, row) for row in range(len(texts))])
    groups = [Group(0, tuple(range(len(texts))))]
    joined = cut_joined_windows(reader, tokenize(reader, ["湖在"]), tokenize(reader, texts), groups, 24, 2)
    with np.errstate(invalid="ignore"):
        found = [best_answers(windows, texts, any_scores(windows, seed), 5) for windows in (alone, joined)]
    assert [answer["paragraph"] for answer in found[0]] == list(range(len(texts)))
    for answer in (*found[0], *found[1]):
        assert begins_and_ends_with_text(answer["answer"])
        assert texts[answer["paragraph"]][answer["start"] :].startswith(answer["answer"])


@settings(max_examples=15)
@given(texts=PARAGRAPHS, seed=st.integers(0, 2**32), kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=3))
@example(texts=["湖 ", "湖\r\n", "\u3000湖"], seed=0, kinds=["RoBERTa", "RoBERTa, spaces kept"])
def test_readers_of_any_tokenizers_vote_for_answers_that_begin_and_end_with_text(
    texts: list[str], seed: int, kinds: list[str]
) -> None:
    votes = []
    for kind in kinds:
        windows = windows_of(build_tokenizer(kind), texts, [Pair(0, row) for row in range(len(texts))])
        with np.errstate(invalid="ignore"):
            votes.append(character_chances(windows, any_scores(windows, seed), texts))
    for text, own in zip(texts, zip(*votes, strict=True), strict=True):
        answer = averaged(text, own, 5)
        assert begins_and_ends_with_text(answer["answer"])
        assert text[answer["start"] :].startswith(answer["answer"])
        assert np.isfinite(answer["score"])


def test_a_group_without_any_token_is_answered_with_the_beginning_of_the_first_text(tmp_path: Path) -> None:
    """The reader drops all of it, also from the stored tokens, of which there are none."""
    reader, texts = build_tokenizer("drops all but Latin"), ["\u200b", " 日月潭 在湖。", "山"]
    stored = [cached_tokens(tmp_path, reader, own) for own in (["湖？"], texts)]
    windows = cut_joined_windows(reader, *stored, [Group(0, (0, 1, 2), 2, 0, 1)], 24, 2)
    (answer,) = best_answers(windows, texts, labels_as_logits(windows), 4)
    assert answer == {"paragraph": 1, "answer": "日月潭", "start": 1, "score": NO_SPAN_SCORE}


def test_a_paragraph_without_tokens_loses_by_any_weight_and_makes_no_sum_that_is_no_number() -> None:
    reader, texts = build_tokenizer("drops all but Latin"), ["湖", "ab"]
    windows = windows_of(reader, texts, [Pair(0, 0), Pair(0, 1)])
    found = best_answers(windows, texts, any_scores(windows, 0), 4)
    readings = [[Answer("q", row, one["start"], one["answer"], one["score"]) for row, one in enumerate(found)]]
    selection = [np.log([0.9, 0.1])]
    assert [combine(selection, readings, weight)[0].text for weight in (0.0, 0.5, 1.0)] == ["湖", "ab", "ab"]


@pytest.mark.parametrize("character", " \t\r\n\x00\x1f\x85\u00a0\u00ad\u200b\u200f\u2028\u2800\u3000\u3164\ufeff")
def test_what_shows_as_nothing_is_blank(character: str) -> None:
    assert is_blank(character)
    assert text_span(f"{character}湖{character}", 0, 3) == (1, 2)


@pytest.mark.parametrize("character", "湖a1。\u0301\ufe0f\U000e007f\u0600\ue000\ufffd\U0010ffff·")
def test_what_shows_or_changes_what_shows_is_text(character: str) -> None:
    assert not is_blank(character)


@given(st.text(), st.integers(1, 9))
def test_an_opening_is_short_and_begins_and_ends_with_text(text: str, most: int) -> None:
    first, last = opening(text, most)
    assert last - first <= most
    assert begins_and_ends_with_text(text[first:last]) is has_text(text)
