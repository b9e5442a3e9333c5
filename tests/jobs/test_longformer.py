from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jobs import longformer
from jobs.backbone import tokenizers
from jobs.dataset.data import Data, Question, read_data
from jobs.features import tokens
from jobs.features.spans import Spans
from jobs.features.tokens import tokenize
from jobs.features.windows import Group, Windows, best_answers, cut_joined_windows
from jobs.job import ParamError
from jobs.longformer import JOB, LongformerParams

PARAMS = LongformerParams(
    backbone="scratch:1x32x2", learning_rate=5e-3, num_train_epochs=2, effective_batch_size=8,
    per_device_train_batch_size=8, max_length=64, doc_stride=8, max_answer_length=12, attention_window=16,
)  # fmt: skip
PARAGRAPHS = [
    "日月潭在南投縣，湖很大。",
    "阿里山在嘉義縣，山很高。",
    "淡水在新北市，河很長。",
    "墾丁在屏東縣，海很藍。",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four paragraphs, each asked about eight times, the four in another order every time."""
    folder = tmp_path_factory.mktemp("data")
    places = [(n, text[text.index("在") + 1 : text.index("，")]) for n, text in enumerate(PARAGRAPHS)] * 8
    rows = [
        {"id": f"q{i}", "question": f"{PARAGRAPHS[n][:2]}在哪裡？", "paragraphs": [(n + i + k) % 4 for k in range(4)],
         "relevant": n, "answer": {"text": place, "start": PARAGRAPHS[n].index(place)}}
        for i, (n, place) in enumerate(places)
    ]  # fmt: skip
    for name, content in {"context": PARAGRAPHS, "train": rows[:28], "valid": rows[28:]}.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


Reports = list[tuple[dict[str, float], Path]]


def trained(params: LongformerParams, folder: Path, workdir: Path) -> Reports:
    reports: Reports = []
    workdir.mkdir(parents=True)
    longformer.train(params, str(folder), workdir, lambda metrics, saved: reports.append((metrics, saved)))  # type: ignore[arg-type]
    return reports


@pytest.fixture(scope="module")
def reports(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Reports:
    return trained(PARAMS, folder, tmp_path_factory.mktemp("sweep") / "trial")


# Training


def test_the_loss_falls(reports: Reports) -> None:
    assert reports[1][0]["train_loss"] < reports[0][0]["train_loss"]


def test_a_right_paragraph_is_one_the_answer_was_taken_from(reports: Reports, folder: Path) -> None:
    metrics, saved = reports[-1]
    predictions = json.loads((saved / "predictions.json").read_text(encoding="utf-8"))
    pairs = list(zip(predictions, read_data(str(folder)).valid, strict=True))
    assert metrics["paragraph_accuracy"] == sum(p["paragraph"] == q.relevant for p, q in pairs) / len(pairs)
    assert all(PARAGRAPHS[p["paragraph"]].startswith(p["answer"], p["start"]) for p in predictions)


def test_recomputed_activations_change_no_metric(reports: Reports, folder: Path, tmp_path: Path) -> None:
    again = trained(dataclasses.replace(PARAMS, gradient_checkpointing=True), folder, tmp_path / "trial")
    for name in JOB.metrics:
        assert again[-1][0][name] == pytest.approx(reports[-1][0][name], rel=1e-4)


CLASHES = [
    ({"max_length": 64, "doc_stride": 28, "attention_window": 32}, "doc_stride", "leaves no room"),
    ({"attention_window": 511}, "attention_window", "511 is odd"),
    ({"attention_window": 1024, "max_length": 640}, "attention_window", "more than max_length 640"),
    ({"warmup_steps": 10}, "warmup_steps", "set together with a warmup_ratio of 0.1: set warmup_ratio to 0"),
    ({"backbone": "bert-base-chines"}, "backbone", "did you mean"),
]


@pytest.mark.parametrize(("knobs", "key", "message"), CLASHES)
def test_knobs_that_do_not_fit_together_are_named(knobs: dict[str, Any], key: str, message: str) -> None:
    with pytest.raises(ParamError, match=message) as caught:
        LongformerParams(**knobs)
    assert caught.value.key == key


# From paragraphs to windows


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tokenizers.character_tokenizer(["湖在哪答案旁邊日月潭，"])


@pytest.fixture(scope="module")
def sentencepiece(shared: Path) -> Any:
    return tokenizers.load_tokenizer(str(shared / "models/me5-small-zh"), [])


def cut(tokenizer: Any, paragraphs: list[str], group: Group, max_length: int, doc_stride: int) -> Windows:
    return cut_joined_windows(
        tokenizer,
        tokenize(tokenizer, ["湖在哪"]),
        tokenize(tokenizer, paragraphs),
        [group],
        max_length,
        doc_stride,
    )


def text_of(tokenizer: Any, source: Windows, row: int) -> str:
    return " ".join(tokenizer.convert_ids_to_tokens(source.batch([row], 1).input_ids[0].tolist()))


def test_paragraphs_are_joined_in_the_questions_order_with_separators_between(tokenizer: Any) -> None:
    source = cut(tokenizer, ["日月潭", "答案", "旁"], Group(0, (1, 2, 0)), 32, 4)
    assert text_of(tokenizer, source, 0) == "[CLS] 湖 在 哪 [SEP] 答 案 [SEP] 旁 [SEP] 日 月 潭 [SEP]"
    assert source.batch([0], 1).token_type_ids[0].tolist() == [0] * 5 + [1] * 9


def test_windows_overlap_by_the_stride_across_paragraphs(tokenizer: Any) -> None:
    source = cut(tokenizer, ["日月潭", "答案", "旁"], Group(0, (0, 1, 2), 1, 0, 2), 10, 2)  # room for four tokens
    assert [text_of(tokenizer, source, row) for row in range(len(source))] == [
        "[CLS] 湖 在 哪 [SEP] 日 月 潭 [SEP] [SEP]",
        "[CLS] 湖 在 哪 [SEP] 潭 [SEP] 答 案 [SEP]",
        "[CLS] 湖 在 哪 [SEP] 答 案 [SEP] 旁 [SEP]",
    ]
    assert source.labels.tolist() == [[0, 0], [7, 8], [5, 6]]


def test_a_window_with_half_of_the_answer_is_labelled_cls(tokenizer: Any) -> None:
    source = cut(tokenizer, ["日月潭答案旁", "湖"], Group(0, (0, 1), 0, 3, 5), 10, 1)
    assert text_of(tokenizer, source, 0) == "[CLS] 湖 在 哪 [SEP] 日 月 潭 答 [SEP]"
    assert text_of(tokenizer, source, 1) == "[CLS] 湖 在 哪 [SEP] 答 案 旁 [SEP] [SEP]"
    assert source.labels.tolist() == [[0, 0], [5, 6], [0, 0]]


def test_the_same_text_in_another_paragraph_is_no_label(tokenizer: Any) -> None:
    source = cut(tokenizer, ["答案在湖", "日答案", "答案"], Group(0, (0, 1, 2), 1, 1, 3), 32, 4)
    # [CLS] 湖 在 哪 [SEP] 答 案 在 湖 [SEP] 日 答 案 [SEP] 答 案 [SEP]: the second 答案 stands at 11 and 12.
    assert source.labels.tolist() == [[11, 12]]


def test_the_separator_of_another_tokenizer_is_used(sentencepiece: Any) -> None:
    source = cut(sentencepiece, ["日月潭", "答案"], Group(0, (0, 1)), 32, 4)
    assert (
        text_of(sentencepiece, source, 0).split().count("</s>") == 4
    )  # two behind the question, as this tokenizer joins a pair
    assert source.batch([0], 1).token_type_ids.sum() == 0


def test_inputs_are_padded_to_the_longest_in_whole_eights_and_no_further(tokenizer: Any) -> None:
    source = cut(tokenizer, ["日" * 40, "月"], Group(0, (0, 1)), 64, 4)
    assert source.batch([0], 1).input_ids.shape == (1, 48)
    assert longformer.collate_joined(source, [0])["input_ids"].shape == (1, 48)
    shorter = cut(tokenizer, ["日" * 39, "月"], Group(0, (0, 1)), 64, 4)
    assert longformer.collate_joined(shorter, [0])["input_ids"].shape == (1, 48)
    assert longformer.collate_joined(shorter, [0])["attention_mask"].sum() == 47


def test_cls_question_and_the_separator_behind_it_are_global_and_nothing_else(tokenizer: Any) -> None:
    source = cut(tokenizer, ["日月潭", "湖在哪"], Group(0, (0, 1)), 32, 4)
    batch = longformer.collate_joined(source, [0])
    assert batch["global_attention_mask"].tolist() == [[1] * 5 + [0] * 11]


# From logits to answers


def asked(text: list[str], relevant: int, max_length: int, doc_stride: int = 8) -> tuple[Windows, Data]:
    """One question about 答案 in the paragraph `relevant`, and its windows."""
    question = Question("q", "湖在哪", tuple(range(len(text))), relevant, "答案", text[relevant].index("答案"))
    data = Data("-", tuple(text), (question,), (question,), ())
    tokenizer = tokenizers.character_tokenizer([*text, "湖在哪"])
    source = cut_joined_windows(
        tokenizer,
        tokenize(tokenizer, ["湖在哪"]),
        tokenize(tokenizer, text),
        longformer.joined_groups(data.valid),
        max_length,
        doc_stride,
    )
    return source, data


def perfect_logits(source: Windows) -> tuple[np.ndarray, np.ndarray]:
    """A model that is sure of every label: of [CLS] too, where a window has no answer."""
    shape = (len(source), source.batch(range(len(source)), 16).input_ids.shape[1])
    start, end = np.zeros(shape), np.zeros(shape)
    start[np.arange(len(source)), source.labels[:, 0]] = 9
    end[np.arange(len(source)), source.labels[:, 1]] = 9
    return start, end


@pytest.mark.parametrize("max_length", [4096, 1024, 128])
def test_an_answer_1500_tokens_into_the_paragraphs_is_found(max_length: int) -> None:
    source, data = asked(["湖" * 700, "日" * 500, "月" * 300 + "答案，在。", "潭" * 400], 2, max_length)
    assert (len(source) == 1) == (max_length == 4096)
    assert max_length != 4096 or source.labels[0, 0] == 5 + 700 + 1 + 500 + 1 + 300
    metrics, predictions = longformer.evaluate_joined(source, data, perfect_logits(source), 12)
    assert metrics == {"exact_match": 1.0, "f1": 1.0, "paragraph_accuracy": 1.0}
    assert predictions == [{"id": "q", "paragraph": 2, "answer": "答案", "start": 300, "score": 18.0}]


def test_the_answer_of_the_second_window_beats_the_first_windows_span() -> None:
    source, data = asked(["湖" * 30, "月" * 30 + "答案"], 1, 48)
    assert source.labels[0].tolist() == [0, 0]
    assert source.labels[1, 0] > 0
    start, end = perfect_logits(source)
    start[0, 20], end[0, 21] = 8, 8
    assert longformer.evaluate_joined(source, data, (start, end), 12)[1][0]["answer"] == "答案"


def test_question_separators_and_padding_never_win() -> None:
    source, data = asked(["湖" * 13, "月答案", "潭" * 9], 1, 32)
    start, end = perfect_logits(source)
    for row in range(len(source)):
        ids = source.batch([row], 1).input_ids[0]
        outside = [
            *range(source.offset[row]),
            *np.flatnonzero(ids == source.separator),
            *range(len(ids), start.shape[1]),
        ]
        start[row, outside], end[row, outside] = 99, 99
    assert longformer.evaluate_joined(source, data, (start, end), 12)[0]["exact_match"] == 1.0


def test_the_right_text_from_the_wrong_paragraph_is_an_exact_match_but_no_paragraph_found() -> None:
    source, data = asked(["湖答案", "答案在月"], 1, 32)
    start, end = perfect_logits(source)
    start[0, 6], end[0, 7] = 20, 20
    metrics, predictions = longformer.evaluate_joined(source, data, (start, end), 12)
    assert metrics == {"exact_match": 1.0, "f1": 1.0, "paragraph_accuracy": 0.0}
    assert (predictions[0]["paragraph"], predictions[0]["start"]) == (0, 1)


def test_a_question_whose_paragraphs_no_tokenizer_reads_gets_an_empty_answer(tokenizer: Any) -> None:
    paragraphs = ["\u200b", "\u200b\u200b", "湖在"]
    questions = [Question("q0", "湖", (0, 1), 0, "\u200b", 0), Question("q1", "湖", (0, 2), 2, "在", 1)]
    source = cut_joined_windows(
        tokenizer,
        tokenize(tokenizer, ["湖", "湖"]),
        tokenize(tokenizer, paragraphs),
        longformer.joined_groups(questions),
        32,
        4,
    )
    given = best_answers(source, paragraphs, perfect_logits(source), 12)
    assert [(answer["paragraph"], answer["answer"]) for answer in given] == [(0, ""), (2, "在")]


SCORE = st.integers(-3, 3).map(float)  # few values, so that ties happen


@given(st.data())
def test_spans_are_the_best_within_one_paragraph_of_one_window(tokenizer: Any, data: st.DataObject) -> None:
    paragraphs = data.draw(st.lists(st.text("日月潭", min_size=1, max_size=9), min_size=2, max_size=4))
    most = data.draw(st.integers(1, 6))
    source = cut(tokenizer, paragraphs, Group(0, tuple(range(len(paragraphs)))), data.draw(st.integers(10, 40)), 1)
    width = source.batch(range(len(source)), 4).input_ids.shape[1]
    start, end = data.draw(arrays(np.float64, (2, len(source), width), elements=SCORE))
    (answer,) = best_answers(source, paragraphs, (start, end), most)
    spans = {
        (start[row, i] + end[row, j], paragraph, first, paragraphs[paragraph][first : last + 1])
        for row in range(len(source))
        for paragraph, places in held(source, row, [len(text) for text in paragraphs])
        for i, first in places
        for j, last in places
        if i <= j < i + most
    }
    assert answer["score"] == max(score for score, *_ in spans)
    assert (answer["score"], answer["paragraph"], answer["start"], answer["answer"]) in spans


def held(source: Windows, row: int, lengths: list[int]) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """For each paragraph, where in the window which of its characters stands; worked out without `segments`."""
    begin = 0
    for paragraph, length in enumerate(lengths):
        joined = [(begin + character, character) for character in range(length)]
        yield (
            paragraph,
            [
                (int(source.offset[row] + place - source.first[row]), character)
                for place, character in joined
                if source.first[row] <= place < source.last[row]
            ],
        )
        begin += length + 1


TEXT = st.text(
    st.one_of(st.sampled_from("日月潭1987ab ，「」龘🎉"), st.characters(exclude_categories=["Cs"])),
    min_size=1,
    max_size=25,
)


@given(texts=st.lists(TEXT, min_size=2, max_size=5), data=st.data())
@pytest.mark.parametrize("kind", ["tokenizer", "sentencepiece"])
def test_a_labelled_span_leads_back_to_its_paragraph_and_characters(
    kind: str, texts: list[str], data: st.DataObject, request: pytest.FixtureRequest
) -> None:
    reader = request.getfixturevalue(kind)
    relevant = data.draw(st.integers(0, len(texts) - 1))
    start = data.draw(st.integers(0, len(texts[relevant]) - 1))
    end = data.draw(st.integers(start + 1, len(texts[relevant])))
    order = tuple(data.draw(st.permutations(range(len(texts)))))
    paragraphs = tokenize(reader, texts)
    source = cut(reader, texts, Group(0, order, relevant, start, end), 64, 26)
    held = tokens.token_span(paragraphs, relevant, start, end)
    assume(held != (-1, -1) and held[1] - held[0] < 26)  # no window need hold one that is longer than they share
    first, last = paragraphs.chars[paragraphs.bounds[relevant] + np.array(held)]
    assert set(labelled(source)) == {(relevant, int(first[0]), int(last[1]))}


def labelled(source: Windows) -> Iterator[tuple[int, int, int]]:
    """(paragraph, first character, one behind the last) of every label that is not [CLS]."""
    parts = source.segments
    for row in np.flatnonzero(source.labels[:, 0]):
        first, last = source.labels[row]
        holder = np.flatnonzero(
            (parts.window == row) & (parts.offset <= first) & (last < parts.offset + parts.last - parts.first)
        )
        assert len(holder) == 1
        span = Spans(np.zeros(1), first - parts.offset[holder], last - parts.offset[holder])
        ((begin, end),) = source.characters(holder, span)
        yield int(parts.paragraph[holder[0]]), int(begin), int(end)
