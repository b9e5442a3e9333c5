"""A trial's answers scored question by question: what the paired tests compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.dataset.data import Data, DataError, Question, accepted, read_data
from jobs.metrics import best_score
from sweeper.errors import DataFailure
from sweeper.ledger.ledger import Ledger
from sweeper.ledger.lookup import Trial
from sweeper.ledger.ranking import best_first
from sweeper.results.statistics import indistinguishable

Prediction = Mapping[str, Any]
Scores = dict[str, NDArray[np.float64]]
PROFILE = "strict"
MOST = 200  # of the best trials are compared; more would only weaken the correction


def trial_scores(trial: Trial) -> Scores:
    """Scores of the trial's best evaluation, [questions] by metric, in the order of the data.

    >>> trial_scores(find_trial("qa_backbones/3", storage))["exact_match"].mean()
    0.8315

    Raises DataFailure when it left no predictions, or its data is not there or not what it was.
    """
    return question_scores(validation_data(trial), trial.predictions(), trial.name, metric_profile(trial))


def best_trials_line(ledger: Ledger) -> str | None:
    """Which trials of a sweep cannot be told from the best by the objective, in a line; None where fewer than two
    have left answers to compare.
    """
    objective, found = ledger.objective, {}
    trials = [Trial(ledger, record) for record in best_first(ledger.records(), ledger.direction)[:MOST]]
    if not trials:
        return None
    with suppress(DataFailure):
        data = validation_data(trials[0])
        for trial in trials:
            with suppress(DataFailure, KeyError):
                scores = question_scores(data, trial.predictions(), trial.name, metric_profile(trial))
                found[trial.record.number] = scores[objective]
    if len(found) < 2:
        return None
    same = indistinguishable(found)
    test = "paired bootstrap" if objective == "f1" else "McNemar"
    if len(same) == 1:
        return f"trial {same[0]} is better than the {len(found) - 1} others at 5 % ({test}, Holm-corrected)"
    named = ", ".join(map(str, same))
    return f"cannot be told from the best at 5 % ({test}, Holm-corrected): trials {named} of {len(found)}"


def metric_profile(trial: Trial) -> str:
    """The metric profile that its scores are given in."""
    return str(trial.record.params.get("metric_profile", PROFILE))


def validation_data(trial: Trial) -> Data:
    """The data set that it was evaluated on. Raises DataFailure when that is not there or has changed."""
    try:
        data: Data = read_data(trial.data)
    except DataError as error:
        raise DataFailure(error.lines) from None
    expected = str(trial.ledger.attributes["data_fingerprint"])
    if data.fingerprint != expected:
        raise DataFailure(
            f"{trial.data}: has changed since trial {trial.name} was evaluated on it (fingerprint "
            f"{data.fingerprint[:12]}, was {expected[:12]}); bring that data back, or run the trial again"
        )
    return data


def question_scores(data: Data, predictions: Sequence[Prediction], name: str, profile: str = PROFILE) -> Scores:
    """[questions] by metric, named as the jobs name them: `exact_match` and `f1` of answers, `accuracy` of picked
    paragraphs, which is `paragraph_accuracy` beside answers. The means are what the trial reported.

    Raises DataFailure when there is not one prediction for each validation question, in the same order; `name` says
    whose they are.
    """
    questions = data.valid
    if [row.id for row in questions] != [prediction.get("id") for prediction in predictions]:
        raise DataFailure(
            f"trial {name}: its {len(predictions)} predictions are not for the {len(questions)} validation "
            "questions in their order; run the trial again"
        )
    pairs = list(zip(questions, predictions, strict=True))
    return {**_answer_scores(pairs, accepted(data, profile), profile), **_paragraph_scores(pairs)}


def _answer_scores(
    pairs: Sequence[tuple[Question, Prediction]], right: Mapping[str, Sequence[str]], profile: str
) -> Scores:
    if any("answer" not in prediction for _, prediction in pairs):
        return {}
    scored = [best_score(given["answer"], right[row.id], profile) for row, given in pairs]
    return {
        "exact_match": np.array([one.em for one in scored]),
        "f1": np.array([one.f1 for one in scored]),
    }


def _paragraph_scores(pairs: Sequence[tuple[Question, Prediction]]) -> Scores:
    if any("paragraph" not in prediction for _, prediction in pairs):
        return {}
    right = np.array([float(prediction["paragraph"] == row.relevant) for row, prediction in pairs])
    return {"paragraph_accuracy" if "answer" in pairs[0][1] else "accuracy": right}
