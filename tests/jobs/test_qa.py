from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import backbones, checkpoint, get_job, qa
from jobs.data import Data, Question, read
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


Reports = list[tuple[dict[str, float], Path]]


def trained(params: QaParams, folder: Path, workdir: Path, resume_from: Path | None = None) -> Reports:
    reports: Reports = []
    workdir.mkdir(parents=True, exist_ok=True)
    qa.train(
        params,
        str(folder),
        workdir,
        lambda metrics, checkpoint: reports.append((metrics, checkpoint)),
        resume_from,
    )  # type: ignore[arg-type]
    return reports


@pytest.fixture(scope="module")
def reports(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Reports:
    return trained(PARAMS, folder, tmp_path_factory.mktemp("sweep") / "trial")


def test_every_epoch_reports_the_declared_metrics_with_a_whole_checkpoint(reports: Reports) -> None:
    assert [metrics["epoch"] for metrics, _ in reports] == [1.0, 2.0]
    assert [metrics["step"] for metrics, _ in reports] == [4.0, 8.0]
    for metrics, folder in reports:
        assert {*get_job("qa").metrics, "epoch", "step"} == set(metrics)
        assert all(np.isfinite(value) for value in metrics.values())
        assert checkpoint.damage(folder) is None


def test_predictions_of_the_validation_set_travel_with_the_checkpoint(reports: Reports, folder: Path) -> None:
    metrics, saved = reports[-1]
    predictions = json.loads((saved / "predictions.json").read_text(encoding="utf-8"))
    valid = read(str(folder)).valid
    assert [prediction["id"] for prediction in predictions] == [question.id for question in valid]
    right = [p["answer"] == q.answer for p, q in zip(predictions, valid, strict=True)]
    assert metrics["exact_match"] == sum(right) / len(right)
    for prediction, question in zip(predictions, valid, strict=True):
        assert PARAGRAPHS[question.relevant or 0].startswith(prediction["answer"], prediction["start"])


def test_the_loss_falls(reports: Reports) -> None:
    assert reports[1][0]["train_loss"] < reports[0][0]["train_loss"]


def test_a_checkpoint_loads_without_the_sweep(reports: Reports) -> None:
    saved = str(reports[-1][1])
    tokenizer = backbones.load_tokenizer(saved, [])
    model = backbones.load_model(saved, "AutoModelForQuestionAnswering", tokenizer, 64)
    assert model.config.num_hidden_layers == 1
    assert not list(Path(saved).parent.glob("unfinished*"))


def test_the_same_seed_gives_the_same_metrics_and_another_seed_others(
    reports: Reports, folder: Path, tmp_path: Path
) -> None:
    again = trained(PARAMS, folder, tmp_path / "again")
    assert [metrics for metrics, _ in again] == [metrics for metrics, _ in reports]
    other = trained(dataclasses.replace(PARAMS, seed=7), folder, tmp_path / "other")
    assert other[0][0]["eval_loss"] != reports[0][0]["eval_loss"]


def test_a_resumed_trial_ends_where_an_uninterrupted_one_does(reports: Reports, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(reports[0][1], tmp_path / "trial" / "checkpoint-000004")
    resumed = trained(PARAMS, folder, tmp_path / "trial", tmp_path / "trial" / "checkpoint-000004")
    assert [metrics for metrics, _ in resumed] == [reports[1][0]]


def test_evaluation_every_few_steps_ends_with_one_at_the_end(folder: Path, tmp_path: Path) -> None:
    reports = trained(dataclasses.replace(PARAMS, num_train_epochs=1, eval_steps=3), folder, tmp_path / "trial")
    assert [(metrics["step"], metrics["epoch"]) for metrics, _ in reports] == [(3.0, 0.75), (4.0, 1.0)]
    assert all(np.isfinite(metrics["train_loss"]) for metrics, _ in reports)


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
    tokenizer = backbones.character_tokenizer([text, "湖在哪"])
    from jobs.features import cut_windows, tokenize

    questions, paragraphs = tokenize(tokenizer, ["湖在哪"]), tokenize(tokenizer, data.paragraphs)
    return cut_windows(tokenizer, questions, paragraphs, qa.pairs(data.valid), max_length, params.doc_stride), data


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
    metrics, predictions = qa.evaluate(source, data, perfect_logits(source), 12)
    assert metrics == {"exact_match": 1.0, "f1": 1.0}
    assert predictions == [{"id": "q", "answer": "答案", "start": before, "score": 18.0}]


def test_a_share_of_the_windows_without_the_answer_is_kept() -> None:
    source, _ = windows("湖" * 900 + "答案" + "湖" * 900, 32)
    answered = np.flatnonzero(source.labels[:, 0]).tolist()
    assert qa.kept_windows(source, 1.0, 42).tolist() == list(range(len(source)))
    assert qa.kept_windows(source, 0.0, 42).tolist() == answered
    few = qa.kept_windows(source, 0.2, 42).tolist()
    assert set(answered) < set(few)
    assert 0.1 < len(few) / len(source) < 0.3
    assert few == qa.kept_windows(source, 0.2, 42).tolist() != qa.kept_windows(source, 0.2, 43).tolist()


def test_padding_and_question_never_win() -> None:
    source, data = windows("湖" * 30 + "答案", 32)
    start, end = perfect_logits(source)
    outside = ~source.allowed(start.shape[1])
    start[outside], end[outside] = 99, 99
    assert qa.evaluate(source, data, (start, end), 12)[0]["exact_match"] == 1.0
