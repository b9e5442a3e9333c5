"""Score a trial's answers question by question, for paired tests between trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset.data import Data, DataError, Question, accepted, read_data
from jobs.metrics import best_score
from sweeper.errors import ConfigError, DataFailure
from sweeper.ledger.ledger import Ledger
from sweeper.ledger.lookup import Trial
from sweeper.ledger.ranking import best_first
from sweeper.results.statistics import indistinguishable

Prediction = Mapping[str, Any]
Scores = dict[str, NDArray[np.float64]]
DEFAULT_PROFILE = "strict"
MAX_TRIALS = 200  # only the best trials are compared: with more tests, the Holm correction finds fewer differences
TOLERANCE = 1e-6  # largest difference between a recomputed and a reported score
SCORE_NAMES = ("exact_match", "f1", "accuracy", "paragraph_accuracy")
PREDICTION_KEYS = (
    "in a job's predictions `answer` is the answer's text, `start` the index of its first character in the paragraph, "
    "and `paragraph` the paragraph's index in the data; change the job, or use these keys for nothing else"
)


def best_trials_line(ledger: Ledger) -> str | None:
    """Return one line that names the trials not significantly different from the best one by the objective.

    Returns None when fewer than two trials have predictions to compare. When a trial's recomputed and reported
    scores differ, the line says so and no test is made.
    """
    if ledger.objective not in SCORE_NAMES:
        return None
    try:
        scores = _objective_scores(ledger)
    except ConfigError as error:
        return f"no paired test: {error}"
    if len(scores) < 2:
        return None
    same = indistinguishable(scores)
    test = "paired bootstrap" if ledger.objective == "f1" else "McNemar"
    if len(same) == 1:
        return f"trial {same[0]} is better than the {len(scores) - 1} others at 5 % ({test}, Holm-corrected)"
    listed = ", ".join(map(str, same))
    return (
        f"not significantly different from the best at 5 % ({test}, Holm-corrected): trials {listed} of {len(scores)}"
    )


def _objective_scores(ledger: Ledger) -> dict[int, NDArray[np.float64]]:
    """Return the objective's score per question of each trial that has predictions, by trial number."""
    found: dict[int, NDArray[np.float64]] = {}
    trials = [Trial(ledger, record) for record in best_first(ledger.records(), ledger.direction)[:MAX_TRIALS]]
    with suppress(DataFailure, IndexError):  # the data has changed, or no trial has ended
        data = validation_data(trials[0])
        for trial in trials:
            with suppress(DataFailure, KeyError):
                found[trial.record.number] = verified_scores(trial, data, trial.predictions())[ledger.objective]
    return found


def metric_profile(trial: Trial) -> str:
    """Return the metric profile that the trial's scores were computed with."""
    return str(trial.record.params.get("metric_profile", DEFAULT_PROFILE))


def validation_data(trial: Trial) -> Data:
    """Read the data set that the trial was evaluated on. Raises DataFailure when it is missing or has changed."""
    try:
        data: Data = read_data(trial.data)
    except DataError as error:
        raise DataFailure(error.lines) from None
    expected = str(trial.ledger.attributes["data_fingerprint"])
    if not data.matches(expected):
        raise DataFailure(
            f"{trial.data}: has changed since trial {trial.name} was evaluated on it (fingerprint "
            f"{data.fingerprint[:12]}, was {expected[:12]}); bring that data back, or run the trial again"
        )
    return data


def is_same_data(trial: Trial, fingerprint: str) -> bool:
    """Return True if the fingerprint is that of the trial's data, by the present or an earlier definition."""
    if fingerprint == trial.ledger.attributes["data_fingerprint"]:
        return True
    with suppress(DataFailure):
        return validation_data(trial).matches(fingerprint)
    return False


def verified_scores(trial: Trial, data: Data, predictions: Sequence[Prediction]) -> Scores:
    """Return `question_scores` of a trial after comparing their means with its reported scores.

    Raises ConfigError when they differ.
    """
    scores = question_scores(data, predictions, trial.name, metric_profile(trial))
    check_reported(scores, trial.record.metrics, trial.ledger.objective, trial.name)
    return scores


def check_reported(scores: Scores, reported: Mapping[str, float], objective: str, name: str) -> None:
    """Raise ConfigError when the means of recomputed scores differ from the reported metrics.

    Compares the objective if it is among the scores, else all metrics with the same names. If no name matches, the
    objective must equal the mean of the first score.
    """
    common = [objective] if objective in scores else [metric for metric in scores if metric in reported]
    pairs = [(metric, metric) for metric in common] or [(metric, objective) for metric in list(scores)[:1]]
    for metric, other in pairs:
        mean = float(scores[metric].mean())
        if not abs(mean - reported[other]) <= TOLERANCE:
            raise ConfigError(
                f"trial {name}: {metric} recomputed from its predictions is {mean:.4f}, but the trial reported {other} "
                f"{reported[other]:.4f}; {PREDICTION_KEYS}"
            )


def question_scores(data: Data, predictions: Sequence[Prediction], name: str, profile: str = DEFAULT_PROFILE) -> Scores:
    """Return arrays of shape [questions] by metric name, in the order of the data.

    Predictions with `answer` give `exact_match` and `f1`. Predictions with `paragraph` give `paragraph_accuracy`
    next to answers, else `accuracy`. Each mean is the value that the built-in jobs report for this metric. `name`
    is the trial's name in messages.

    Raises DataFailure when the predictions do not belong to the validation questions in this order, ConfigError
    when a prediction's `answer` is no text or its `paragraph` is no index of a paragraph.
    """
    questions = data.valid
    ids = [prediction.get("id") if isinstance(prediction, Mapping) else None for prediction in predictions]
    if [row.id for row in questions] != ids:
        raise DataFailure(
            f"trial {name}: its {len(predictions)} predictions are not for the {len(questions)} validation "
            "questions in their order; run the trial again"
        )
    _check_keys(predictions, len(data.paragraphs), name)
    pairs = list(zip(questions, predictions, strict=True))
    return {**_answer_scores(pairs, accepted(data, profile), profile), **_picked_right(pairs)}


def _check_keys(predictions: Sequence[Prediction], paragraphs: int, name: str) -> None:
    for key in ("answer", "paragraph"):
        used = any(key in prediction for prediction in predictions)
        for prediction in predictions if used else []:
            value = prediction.get(key)
            index = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < paragraphs
            if not (isinstance(value, str) if key == "answer" else index):
                raise ConfigError(
                    f"trial {name}: its prediction for question {prediction['id']} has `{key}` {value!r}; "
                    f"{PREDICTION_KEYS}"
                )


def _answer_scores(
    pairs: Sequence[tuple[Question, Prediction]], right: Mapping[str, Sequence[str]], profile: str
) -> Scores:
    if any("answer" not in prediction for _, prediction in pairs):
        return {}
    scored = [best_score(given["answer"], right[row.id], profile) for row, given in pairs]
    return {"exact_match": np.array([one.em for one in scored]), "f1": np.array([one.f1 for one in scored])}


def _picked_right(pairs: Sequence[tuple[Question, Prediction]]) -> Scores:
    if any("paragraph" not in prediction for _, prediction in pairs):
        return {}
    right = np.array([float(prediction["paragraph"] == row.relevant) for row, prediction in pairs])
    return {"paragraph_accuracy" if "answer" in pairs[0][1] else "accuracy": right}
