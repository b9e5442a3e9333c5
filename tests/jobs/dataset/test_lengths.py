"""Estimated lengths of inputs: equal to those of a tokenizer that makes one token of each character."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import get_job
from jobs.backbone.tokenizers import load_tokenizer
from jobs.dataset.data import Data, read_data, vocabulary
from jobs.dataset.lengths import token_counts, window_lengths

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "qa": [{"max_length": 64, "doc_stride": 16}, {"max_length": 128, "doc_stride": 0}, {"max_length": 512}],
    "mc": [{"max_length": 64}, {"max_length": 512}],
    "longformer": [
        {"max_length": 128, "doc_stride": 32, "attention_window": 32},
        {"max_length": 4096, "attention_window": 64},
    ],
}


@pytest.fixture(scope="module")
def data() -> Data:
    """Return a few questions with a Chinese character in place of each letter, number and blank."""
    whole = read_data("sample")
    train, valid = (
        tuple(replace(row, question=_chinese(row.question)) for row in rows)
        for rows in (whole.train[:40], whole.valid[:10])
    )
    return replace(whole, paragraphs=tuple(map(_chinese, whole.paragraphs)), train=train, valid=valid)


def _chinese(text: str) -> str:
    return re.sub(r"[\sA-Za-z0-9]", "字", text)


@pytest.mark.parametrize(("name", "settings"), [(name, one) for name, found in SETTINGS.items() for one in found])
def test_the_estimate_is_what_a_tokenizer_of_characters_gives(
    name: str, settings: dict[str, Any], data: Data, tmp_path: Path
) -> None:
    job = get_job(name)
    params = job.params(backbone="scratch:1x32x2", **settings)
    assert job.task is not None
    assert job.lengths is not None
    tokenizer = load_tokenizer(params.backbone, vocabulary(data))
    estimated = job.lengths(params, data)
    for rows, lengths in ((data.train, estimated.train), (data.valid, estimated.valid)):
        inputs = job.task.inputs(params, tokenizer, data, rows, tmp_path)
        real = np.repeat(inputs.lengths(), 4) if name == "mc" else inputs.lengths()
        assert sorted(lengths.tolist()) == sorted(real.tolist())
        assert estimated.inputs(lengths) == len(inputs)


def test_words_and_numbers_count_as_few_tokens_and_blanks_as_none() -> None:
    assert token_counts(["台北 101 大樓", "transformers", " \n", ""]).tolist() == [5, 3, 0, 0]


@given(
    st.lists(st.tuples(st.integers(4, 40), st.integers(0, 900)), min_size=1, max_size=5),
    st.integers(96, 300),
    st.integers(0, 20),
)
def test_windows_cover_their_texts(texts: list[tuple[int, int]], longest: int, stride: int) -> None:
    before, text = (np.array(column) for column in zip(*texts, strict=True))
    lengths = window_lengths(before, text, longest, stride)
    assert len(lengths) >= len(texts)
    assert lengths.max() <= longest
    covered = lengths.sum() - sum(before)  # each further window has the question again, and the stride
    assert covered >= sum(text)


def test_unanswered_windows_are_left_out(data: Data) -> None:
    job = get_job("qa")
    assert job.lengths is not None
    params = job.params(max_length=64, doc_stride=16)
    every, none = (job.lengths(replace(params, unanswered_share=share), data).train for share in (1.0, 0.0))
    assert len(none) == len(data.train) < len(every)
