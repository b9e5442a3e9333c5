"""The scores are BM25's own formula, every text can be looked for, and real questions find their paragraph."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.dataset.bm25 import bigrams, bm25_scores, most_similar
from jobs.dataset.data import Data, read_data

TEXTS = ["日月潭在南投縣魚池鄉。", "玉山高3952公尺，在南投縣。", "淡水河在新北市，很長。", "🎉！？"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("日月潭", ["日月", "月潭"]),
        ("湖，山", ["湖", "山"]),  # no pair reaches over a mark
        ("Wall-E 2", ["wa", "al", "ll", "e", "2"]),
        ("１２年", ["１２", "２年"]),
        ("日\r\n月", ["日", "月"]),
        ("！🎉。", []),
        ("", []),
    ],
)
def test_bigrams_are_pairs_within_a_run_of_letters(text: str, expected: list[str]) -> None:
    assert bigrams(text) == expected


def bm25(query: str, text: str, collection: list[str]) -> float:
    """Lucene's BM25 with k1 1.5 and b 0.75, term by term as the formula is written."""
    mean = sum(len(bigrams(one)) for one in collection) / len(collection)
    total = 0.0
    for term in bigrams(query):
        holders = sum(term in bigrams(one) for one in collection)
        often = bigrams(text).count(term)
        rarity = math.log(1 + (len(collection) - holders + 0.5) / (holders + 0.5))
        total += rarity * often / (often + 1.5 * (0.25 + 0.75 * len(bigrams(text)) / mean))
    return total


def test_scores_are_those_of_the_formula() -> None:
    question = "玉山在南投縣的什麼地方？"
    (scores,) = bm25_scores([question], [TEXTS])
    assert scores == pytest.approx([bm25(question, text, TEXTS) for text in TEXTS], rel=1e-5)
    assert scores.argmax() == 1


def test_rarity_is_counted_over_the_whole_collection() -> None:
    question, more = "玉山在南投縣？", ["玉山銀行。", "玉山箭竹。", "玉山圓柏。"]
    (alone,) = bm25_scores([question], [TEXTS[:2]])
    (among,) = bm25_scores([question], [TEXTS[:2]], collection=more)
    assert among == pytest.approx([bm25(question, text, [*TEXTS[:2], *more]) for text in TEXTS[:2]], rel=1e-5)
    assert among.tolist() != alone.tolist()


def test_each_question_has_its_own_candidates() -> None:
    scores = bm25_scores(["淡水河？", "日月潭？"], [[TEXTS[0], TEXTS[2]], [TEXTS[2], TEXTS[1], TEXTS[0]]])
    assert [len(own) for own in scores] == [2, 3]
    assert [own.argmax() for own in scores] == [1, 2]
    with pytest.raises(ValueError, match="zip"):
        bm25_scores(["淡水河？"], [])


@pytest.mark.parametrize("question", ["", "？", "🎉", "abc", "龘"])
def test_a_question_with_nothing_known_scores_nothing(question: str) -> None:
    (scores,) = bm25_scores([question], [TEXTS])
    assert scores.tolist() == [0, 0, 0, 0]
    assert most_similar(TEXTS, [question], 2)[0].tolist() == []


def test_texts_without_a_single_bigram_are_no_mistake() -> None:
    assert bm25_scores(["湖在哪？"], [["！", "🎉"]])[0].tolist() == [0, 0]
    assert most_similar(["", "！"], ["湖"], 1)[0].tolist() == []
    assert most_similar([], ["湖"], 1)[0].tolist() == []


def test_the_nearest_come_best_first_and_of_equals_the_earlier() -> None:
    texts = ["南投縣", "淡水", "南投縣", "南投", "南投縣"]
    assert most_similar(texts, ["南投縣"], 2)[0].tolist() == [0, 2]
    assert most_similar(texts, ["南投縣"], 9)[0].tolist() == [0, 2, 4, 3]


@given(st.lists(st.text("南投縣淡水", max_size=6), max_size=12), st.text("南投縣淡水", max_size=6), st.integers(1, 5))
def test_the_nearest_are_the_first_of_a_full_sort(texts: list[str], query: str, k: int) -> None:
    scores = bm25_scores([query], [texts])[0] if len(set(texts)) == len(texts) else None
    found = most_similar(texts, [query], k)[0].tolist()
    assert len(set(found)) == len(found) <= k
    if scores is not None:
        order = sorted(range(len(texts)), key=lambda row: (-scores[row], row))
        assert found == [row for row in order if scores[row] > 0][:k]


def picked(data: Data) -> float:
    """Share of validation questions whose relevant paragraph scores highest."""
    candidates = [[data.paragraphs[index] for index in row.paragraphs] for row in data.valid]
    scores = bm25_scores([row.question for row in data.valid], candidates, data.paragraphs)
    picks = [row.paragraphs[int(np.argmax(own))] for row, own in zip(data.valid, scores, strict=True)]
    return float(np.mean([pick == row.relevant for pick, row in zip(picks, data.valid, strict=True)]))


@pytest.mark.parametrize(("name", "published"), [("drcd", 0.969), ("drcd_hard", 0.937)])
def test_it_picks_as_many_paragraphs_of_real_questions_as_is_known(name: str, published: float, shared: Path) -> None:
    assert picked(read_data(str(shared / "data" / name))) == pytest.approx(published, abs=0.005)
