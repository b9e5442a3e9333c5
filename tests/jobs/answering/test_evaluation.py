from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jobs.answering import answers as answering
from jobs.answering import evaluation
from jobs.answering.answers import Answer
from jobs.answering.evaluation import Estimate, assess, cross_fitted, estimate, exam, mean, ratio, scored
from jobs.checkpoint import load_json
from jobs.dataset.data import Data, Question

ROWS = [Question(str(n), "誰？", (0, 1), 0, "山" if n else "山海", 0) for n in range(4)]


def test_a_row_by_hand() -> None:
    given = [("山海", 0), ("山", 0), ("山", 1), ("海", 0)]
    answers = [Answer(str(n), paragraph, 0, text, 0.0) for n, (text, paragraph) in enumerate(given)]
    one = scored(ROWS, answers, {row.id: [row.answer or ""] for row in ROWS}, "strict")
    assert (one.right.tolist(), one.em.tolist()) == ([1, 1, 0, 1], [1, 1, 1, 0])
    row = assess("all", one, seconds=2.0)
    assert row.paragraph_accuracy.value == row.exact_match.value == 0.75  # type: ignore[union-attr]
    assert row.exact_match_given_right.value == pytest.approx(2 / 3)  # type: ignore[union-attr]
    assert (row.selection_errors, row.reading_errors, row.questions_per_second) == (0.0, 1.0, 2.0)


def test_nothing_wrong_has_no_kinds_of_errors() -> None:
    answers = [Answer(row.id, 0, 0, row.answer or "", 0.0) for row in ROWS]
    row = assess("all", scored(ROWS, answers, {r.id: [r.answer or ""] for r in ROWS}, "strict"), 1.0)
    assert (row.selection_errors, row.reading_errors, row.exact_match) == (None, None, Estimate(1, 1, 1))


def test_the_interval_is_about_that_of_a_binomial_and_the_same_every_time() -> None:
    values = np.array([1.0] * 300 + [0.0] * 100)
    found = estimate(mean, values)
    half = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert found.value == 0.75
    assert (found.low, found.high) == (pytest.approx(0.75 - half, abs=0.008), pytest.approx(0.75 + half, abs=0.008))
    assert estimate(mean, values) == found
    assert estimate(ratio, values * values, np.ones(400)) == found


def test_a_fold_is_answered_without_its_own_labels() -> None:
    """Give either reading half of the questions, by whole folds: without its own labels a fold sees a majority for the
    other reading. One fold that saw its own labels would see a draw, as the fit on all questions does."""
    numbers = range(12)
    selection = [np.log([0.7, 0.3]) for _ in numbers]
    readings = [[Answer(str(n), 0, 0, "山", 1.0), Answer(str(n), 1, 0, "湖", 3.0)] for n in numbers]
    right = [["山"] if n % evaluation.FOLDS < 2 else ["湖"] for n in numbers]
    assert sum(texts == ["山"] for texts in right) == len(right) / 2
    answers, weight = cross_fitted(selection, readings, right)
    assert weight == 0.0
    assert [answer.id for answer in answers] == [str(n) for n in numbers]
    assert not any(answer.text in texts for answer, texts in zip(answers, right, strict=True))


def test_every_system_has_a_row(few: Data, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    rows = {
        row.system: row
        for row in evaluation.evaluate_systems(
            exam(few, "test", "strict"), evaluation.load_models(checkpoints, tmp_path)
        )
    }
    assert list(rows) == ["BM25, then read", "two stages", "soft two stages", "end to end"]
    assert all(row.questions == len(few.test) and row.questions_per_second > 0 for row in rows.values())
    assert all(0 <= row.exact_match.low <= row.exact_match.value <= row.exact_match.high for row in rows.values())  # type: ignore[union-attr]
    weight = rows["soft two stages"].weight
    selector, reader = (answering.load_answering_model(checkpoints[job], job, tmp_path) for job in ("mc", "qa"))
    assert weight == evaluation.fitted_weight(few, selector, [reader], "strict")


def test_without_models_bm25_is_judged_by_its_pick(few: Data) -> None:
    (row,) = evaluation.evaluate_systems(exam(few, "valid", "strict"), {})
    assert (row.system, row.exact_match, row.reading_errors) == ("BM25", None, None)
    assert row.paragraph_accuracy.value > 0.5  # names stand in the questions


def test_a_model_alone_scores_as_it_did_in_training(few: Data, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    valid, models = exam(few, "valid", "strict"), evaluation.load_models(checkpoints, tmp_path)
    for job, metric in (("mc", "accuracy"), ("qa", "exact_match"), ("longformer", "exact_match")):
        told = load_json(checkpoints[job] / "metrics.json")[metric]
        assert evaluation.alone(valid, job, models[job]) == pytest.approx(told)
