"""Scores question by question have the means that the jobs report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.storages import RDBStorage

from jobs import checkpoint, mc
from jobs.dataset import data
from jobs.metrics import mean_scores
from sweeper.errors import DataFailure
from sweeper.ledger.ledger import create_ledger
from sweeper.ledger.lookup import Trial
from sweeper.results.scores import question_scores, trial_scores
from sweeper.space.search_space import SearchSpace

SAMPLE = data.read_data("sample")
ROWS = SAMPLE.valid


def halves() -> list[dict[str, Any]]:
    """An answer to each question: the whole one, or every other time its first character."""
    answers = [(row.answer or "")[: None if place % 2 else 1] for place, row in enumerate(ROWS)]
    return [{"id": row.id, "answer": answer} for row, answer in zip(ROWS, answers, strict=True)]


def test_answers_have_the_means_of_the_metrics() -> None:
    scores = question_scores(SAMPLE, halves(), "a/1")
    expected = mean_scores([one["answer"] for one in halves()], [row.answer or "" for row in ROWS])
    assert {name: values.mean() for name, values in scores.items()} == pytest.approx(expected)
    assert len(scores["f1"]) == len(ROWS)
    assert set(scores["exact_match"]) == {0.0, 1.0}


def test_picked_paragraphs_have_the_mean_that_the_job_reports() -> None:
    logits = np.random.default_rng(0).normal(size=(len(ROWS), 4))
    metrics, predictions = mc.evaluate_picks(ROWS, logits)
    scores = question_scores(SAMPLE, predictions, "a/1")
    assert list(scores) == ["accuracy"]
    assert scores["accuracy"].mean() == pytest.approx(metrics["accuracy"])


def test_beside_answers_paragraphs_have_a_score_of_their_own() -> None:
    predictions = [{**one, "paragraph": row.paragraphs[0]} for row, one in zip(ROWS, halves(), strict=True)]
    scores = question_scores(SAMPLE, predictions, "a/1")
    assert list(scores) == ["exact_match", "f1", "paragraph_accuracy"]
    assert list(scores["paragraph_accuracy"]) == [float(row.paragraphs[0] == row.relevant) for row in ROWS]


def test_a_profile_counts_every_reference(tmp_path: Path) -> None:
    rows = [{"id": f"q{n}", "question": "哪裡？", "paragraphs": [0, 1], "relevant": 0} for n in range(3)]
    labelled = [{**row, "answer": {"text": "日月潭", "start": 0}} for row in rows]
    contents = {"context": ["日月潭很美。", "玉山。"], "train": labelled[:1], "valid": labelled[1:]}
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False))
    (tmp_path / "references.json").write_text(json.dumps({"q1": ["日月潭", "潭"]}))
    several, given = data.read_data(str(tmp_path)), [{"id": "q1", "answer": "潭。"}, {"id": "q2", "answer": "潭。"}]
    assert list(question_scores(several, given, "a/1", "drcd")["exact_match"]) == [1.0, 0.0]
    assert list(question_scores(several, given, "a/1")["exact_match"]) == [0.0, 0.0]


@pytest.mark.parametrize("change", [lambda given: given[:-1], lambda given: [given[1], given[0], *given[2:]]])
def test_predictions_of_other_questions_are_refused(change: Callable[[list[Any]], list[Any]]) -> None:
    with pytest.raises(DataFailure, match=r"trial a/1: its \d+ predictions are not for the \d+ validation questions"):
        question_scores(SAMPLE, change(halves()), "a/1")


def evaluated(storage: RDBStorage, space: SearchSpace, folder: Path) -> Trial:
    ledger = create_ledger(storage, space, "toy")
    record = ledger.ask(space)
    assert record is not None
    checkpoint.write_json(folder / checkpoint.PREDICTIONS, halves())
    metrics = {"height": 0.5, "eval_loss": 0.5, "epoch": 1.0, "seconds": 1.0}
    return Trial(ledger, ledger.report(record.number, metrics, str(folder / "checkpoint-000001")))


def test_a_trial_is_scored_by_the_data_it_was_evaluated_on(
    storage: RDBStorage, toy_space: Callable[..., SearchSpace], tmp_path: Path
) -> None:
    trial = evaluated(storage, toy_space(), tmp_path)
    assert len(trial_scores(trial)["f1"]) == len(ROWS)
    trial.ledger.study.set_user_attr("data_fingerprint", "0" * 64)
    with pytest.raises(DataFailure, match=r"sample: has changed since trial toy/0 .* was 000000000000"):
        trial_scores(Trial(type(trial.ledger)(storage, trial.ledger.study), trial.record))
