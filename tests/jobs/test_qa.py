from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import qa
from jobs.backbone import tokenizers
from jobs.dataset.data import Data, Question, read_data
from jobs.job import ParamError
from jobs.qa import QaParams

PARAMS = QaParams(
    backbone="scratch:1x32x2",
    learning_rate=5e-3,
    num_train_epochs=2,
    effective_batch_size=8,
    max_length=64,
    doc_stride=8,
    max_answer_length=12,
)
PARAGRAPHS = [
    "日月潭在南投縣，湖很大。",
    "阿里山在嘉義縣，山很高。",
    "淡水在新北市，河很長。",
    "墾丁在屏東縣，海很藍。",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four paragraphs, each asked about eight times."""
    folder = tmp_path_factory.mktemp("data")
    places = [(n, text[text.index("在") + 1 : text.index("，")]) for n, text in enumerate(PARAGRAPHS)] * 8
    rows = [
        {"id": f"q{i}", "question": f"{PARAGRAPHS[n][:2]}在哪裡？", "paragraphs": [0, 1, 2, 3], "relevant": n,
         "answer": {"text": place, "start": PARAGRAPHS[n].index(place)}}
        for i, (n, place) in enumerate(places)
    ]  # fmt: skip
    for name, content in {"context": PARAGRAPHS, "train": rows[:28], "valid": rows[28:]}.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_reading_is_learned_and_answers_are_cut_where_they_say(folder: Path, tmp_path: Path) -> None:
    reports: list[tuple[dict[str, float], Path]] = []
    (tmp_path / "trial").mkdir()
    qa.train(PARAMS, str(folder), tmp_path / "trial", lambda metrics, saved: reports.append((metrics, saved)))  # type: ignore[arg-type]
    assert reports[-1][0]["train_loss"] < reports[0][0]["train_loss"]
    predictions = json.loads((reports[-1][1] / "predictions.json").read_text(encoding="utf-8"))
    for prediction, question in zip(predictions, read_data(str(folder)).valid, strict=True):
        assert PARAGRAPHS[question.relevant or 0].startswith(prediction["answer"], prediction["start"])


def test_knobs_that_do_not_fit_together_are_named() -> None:
    with pytest.raises(ParamError, match="leaves no room") as caught:
        QaParams(max_length=64, doc_stride=32)
    assert caught.value.key == "doc_stride"
    with pytest.raises(ParamError, match="keep one of the two"):
        QaParams(warmup_ratio=0.1, warmup_steps=10)


def windows(text: str, max_length: int) -> tuple[Any, Data]:
    start = text.index("答案")
    question = Question("q", "湖在哪", (0, 1), 0, "答案", start)
    data = Data("-", (text, "旁邊"), (question,), (question,), ())
    params = dataclasses.replace(PARAMS, max_length=max_length, doc_stride=4)
    tokenizer = tokenizers.character_tokenizer([text, "湖在哪"])
    from jobs.features.tokens import tokenize
    from jobs.features.windows import cut_windows

    questions, paragraphs = tokenize(tokenizer, ["湖在哪"]), tokenize(tokenizer, data.paragraphs)
    return cut_windows(
        tokenizer, questions, paragraphs, qa.labelled_pairs(data.valid), max_length, params.doc_stride
    ), data


def perfect_logits(source: Any) -> tuple[np.ndarray, np.ndarray]:
    """A model that is sure of every label: of [CLS] too, where a window has no answer."""
    shape = (len(source), int(source.lengths().max()))
    start, end = np.zeros(shape), np.zeros(shape)
    start[np.arange(len(source)), source.labels[:, 0]] = 9
    end[np.arange(len(source)), source.labels[:, 1]] = 9
    return start, end


@pytest.mark.parametrize("before", [0, 3, 10, 40, 200])
def test_an_answer_past_the_first_window_is_found(before: int) -> None:
    source, data = windows("湖" * before + "答案" + "，在台灣。", 32)
    metrics, predictions = qa.evaluate_spans(source, data, perfect_logits(source), 12)
    assert metrics == {"exact_match": 1.0, "f1": 1.0}
    assert predictions == [{"id": "q", "answer": "答案", "start": before, "score": 18.0}]


def test_a_share_of_the_windows_without_the_answer_is_kept() -> None:
    source, _ = windows("湖" * 900 + "答案" + "湖" * 900, 32)
    answered = np.flatnonzero(source.labels[:, 0]).tolist()
    assert qa.training_windows(source, 1.0, 42).tolist() == list(range(len(source)))
    assert qa.training_windows(source, 0.0, 42).tolist() == answered
    few = qa.training_windows(source, 0.2, 42).tolist()
    assert set(answered) < set(few)
    assert 0.1 < len(few) / len(source) < 0.3
    assert few == qa.training_windows(source, 0.2, 42).tolist() != qa.training_windows(source, 0.2, 43).tolist()


def test_padding_and_question_never_win() -> None:
    source, data = windows("湖" * 30 + "答案", 32)
    start, end = perfect_logits(source)
    place = np.arange(start.shape[1])
    outside = (place < source.offset[:, None]) | (place >= (source.offset + source.last - source.first)[:, None])
    start[outside], end[outside] = 99, 99
    assert qa.evaluate_spans(source, data, (start, end), 12)[0]["exact_match"] == 1.0
