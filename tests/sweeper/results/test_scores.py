"""Scores question by question have the means that the jobs report."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from optuna.storages import RDBStorage

from jobs import checkpoint, mc
from jobs.dataset import data
from jobs.metrics import mean_scores
from sweeper.cli import main
from sweeper.errors import ConfigError, DataFailure
from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import Ledger, create_ledger
from sweeper.ledger.lookup import Trial
from sweeper.results.scores import best_trials_line, check_reported, question_scores, validation_data, verified_scores
from sweeper.space.reading import read_search_space
from sweeper.storage.settings import read_stores

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


def sweep(storage: RDBStorage, folder: Path, objective: str = "exact_match", job: str = "qa") -> Ledger:
    path = folder / "readers.yaml"
    path.write_text(
        f"{{name: readers, job: {job}, data: sample, objective: {objective}, search: {{trials: 8}},"
        " parameters: {learning_rate: {min: 1e-5, max: 1e-1, log: true}}}"
    )
    return create_ledger(storage, read_search_space(path), "readers")


def evaluated(ledger: Ledger, folder: Path, answers: list[dict[str, Any]], **reported: float) -> Trial:
    """A trial that ended with these answers and reported these metrics."""
    record = ledger.ask(read_search_space(folder / "readers.yaml"))
    assert record is not None
    home = folder / str(record.number)
    home.mkdir()
    checkpoint.write_json(home / checkpoint.PREDICTIONS, answers)
    metrics = {"eval_loss": 0.5, "epoch": 1.0, "seconds": 1.0, **reported}
    ledger.report(record.number, metrics, str(home / "checkpoint-000001"))
    return Trial(ledger, ledger.finish(record.number, "COMPLETE"))


def whole() -> list[dict[str, Any]]:
    return [{"id": row.id, "answer": row.answer} for row in ROWS]


def exact(answers: list[dict[str, Any]]) -> float:
    return float(question_scores(SAMPLE, answers, "a/1")["exact_match"].mean())


def test_a_trial_is_scored_by_the_data_it_was_evaluated_on(storage: RDBStorage, tmp_path: Path) -> None:
    trial = evaluated(sweep(storage, tmp_path), tmp_path, halves(), exact_match=exact(halves()))
    assert len(verified_scores(trial, validation_data(trial), trial.predictions())["f1"]) == len(ROWS)
    trial.ledger.study.set_user_attr("data_fingerprint", "0" * 64)
    with pytest.raises(DataFailure, match=r"sample: has changed since trial readers/0 .* was 000000000000"):
        validation_data(Trial(type(trial.ledger)(storage, trial.ledger.study), trial.record))


def test_trials_that_cannot_be_told_from_the_best_are_named(storage: RDBStorage, tmp_path: Path) -> None:
    ledger = sweep(storage, tmp_path)
    assert best_trials_line(ledger) is None
    evaluated(ledger, tmp_path, halves(), exact_match=exact(halves()))
    assert best_trials_line(ledger) is None
    evaluated(ledger, tmp_path, whole(), exact_match=1.0)
    assert best_trials_line(ledger) == "trial 1 is better than the 1 others at 5 % (McNemar, Holm-corrected)"
    evaluated(ledger, tmp_path, whole(), exact_match=1.0)
    line = best_trials_line(ledger)
    assert line == "not significantly different from the best at 5 % (McNemar, Holm-corrected): trials 1, 2 of 3"


def test_compare_prints_its_table_and_no_test_of_scores_that_were_not_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    ledger = sweep(open_storage(read_stores().ledger), tmp_path)
    evaluated(ledger, tmp_path, whole(), exact_match=1.0)
    evaluated(ledger, tmp_path, halves(), exact_match=exact(halves()) + 0.26)
    result = CliRunner().invoke(main, ["compare", "readers"])
    assert (result.exit_code, "exact_match" in result.stdout, "5 %" in result.output) == (0, True, False)
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("next:")]
    assert line.startswith("no paired test: trial readers/1: exact_match recomputed from its predictions is ")
    result = CliRunner().invoke(main, ["errors", "readers/1"])
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)


@pytest.mark.parametrize(
    ("objective", "reported", "right"),
    [
        ("exact_match", {"exact_match": 1.0, "f1": 0.3}, True),  # another f1 of its own does no harm
        ("eval_loss", {"exact_match": 1.0, "eval_loss": 0.2}, True),
        ("eval_loss", {"exact_match": 0.9, "eval_loss": 0.2}, False),
        ("hits", {"hits": 1.0}, True),
        ("hits", {"hits": 0.76}, False),
        ("hits", {"hits": math.nan}, False),
    ],
)
def test_the_objective_or_else_what_has_the_same_name_must_be_the_reported_score(
    objective: str, reported: dict[str, float], right: bool
) -> None:
    scores = question_scores(SAMPLE, whole(), "a/1")
    if right:
        check_reported(scores, reported, objective, "a/1")
    else:
        with pytest.raises(ConfigError, match="trial a/1: exact_match recomputed"):
            check_reported(scores, reported, objective, "a/1")
