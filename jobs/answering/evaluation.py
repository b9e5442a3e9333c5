"""Evaluate answering systems on labelled questions: paragraph accuracy, exact match, F1 and speed.

BM25, which needs no labels, is always one of the systems.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from jobs.answering import answers as answering
from jobs.answering.answers import Answer, Model
from jobs.dataset.bm25 import bm25_scores as bm25
from jobs.dataset.data import Data, Question, accepted, labelled_questions
from jobs.metrics import best_score

Floats = NDArray[np.floating[Any]]
FOLDS = 5
RESAMPLES = 2000


class Estimate(NamedTuple):
    """Holds a mean over questions with its 95 % percentile bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SystemScore:
    """Holds one system's scores. Shares are between 0 and 1; None if the system has no such score.

    exact_match_given_right  over the questions whose paragraph was right
    selection_errors         share of the questions without an exact match whose paragraph was wrong
    reading_errors           share of the questions without an exact match whose paragraph was right
    weight                   the fitted weight of the reader's score
    """

    system: str
    questions: int
    paragraph_accuracy: Estimate
    exact_match_given_right: Estimate | None
    exact_match: Estimate | None
    f1: Estimate | None
    selection_errors: float | None
    reading_errors: float | None
    questions_per_second: float
    weight: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return {key: value._asdict() if isinstance(value, Estimate) else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Scored:
    """Holds three scores of each question, 0 to 1: `right` (1 for the relevant paragraph), `em` and `f1`."""

    right: Floats
    em: Floats
    f1: Floats


def scored(
    rows: Sequence[Question], answers: Sequence[Answer], right: Mapping[str, Sequence[str]], profile: str
) -> Scored:
    """Score answers against `right`, which has the right answers by question id."""
    scores = [best_score(answer.text, right[row.id], profile) for row, answer in zip(rows, answers, strict=True)]
    picked = [answer.paragraph == row.relevant for row, answer in zip(rows, answers, strict=True)]
    return Scored(np.array(picked, float), np.array([one.em for one in scores]), np.array([one.f1 for one in scores]))


def assess(system: str, one: Scored, seconds: float, weight: float | None = None) -> SystemScore:
    """Compute the scores of a system that took `seconds` for its answers."""
    wrong = one.em < 1
    by_selection = float((one.right[wrong] == 0).mean()) if wrong.any() else None
    return SystemScore(
        system,
        len(one.em),
        estimate(mean, one.right),
        estimate(ratio, one.em * one.right, one.right) if one.right.any() else None,
        estimate(mean, one.em),
        estimate(mean, one.f1),
        by_selection,
        None if by_selection is None else 1 - by_selection,
        len(one.em) / seconds,
        weight,
    )


def mean(values: Floats, axis: int = -1) -> Floats:
    return np.asarray(values.mean(axis=axis))


def ratio(parts: Floats, wholes: Floats, axis: int = -1) -> Floats:
    """Return sum(parts) / sum(wholes); 0 for a resample in which `wholes` is 0."""
    total = wholes.sum(axis=axis)
    return np.asarray(parts.sum(axis=axis) / np.maximum(total, 1))


def estimate(statistic: Callable[..., Floats], *samples: Floats) -> Estimate:
    """Return a statistic of paired samples with its bootstrap interval. Equal samples give equal intervals."""
    value = float(statistic(*samples))
    if len(samples[0]) < 2:
        return Estimate(value, value, value)
    interval = bootstrap(
        samples,
        statistic,
        paired=True,
        method="percentile",
        n_resamples=RESAMPLES,
        batch=max(1, 2_000_000 // len(samples[0])),
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high))


@dataclass(frozen=True)
class Exam:
    """Holds the labelled questions of one split, their right answers by id, and the metric profile."""

    data: Data
    split: str
    rows: Sequence[Question]
    right: Mapping[str, Sequence[str]]
    profile: str

    def row(self, system: str, answers: Sequence[Answer], seconds: float, weight: float | None = None) -> SystemScore:
        return assess(system, scored(self.rows, answers, self.right, self.profile), seconds, weight)


def exam(data: Data, split: str, profile: str) -> Exam:
    """Read the labelled questions of a split. Raises DataError when it has no labels."""
    rows = labelled_questions(data, split)
    own = {row.id: [row.answer or ""] for row in rows}
    return Exam(data, split, rows, {**own, **accepted(data, profile)}, profile)


def load_models(checkpoints: Mapping[str, Path], cache: Path) -> dict[str, Model]:
    """Load the models of checkpoints, by job. Raises CheckpointError or BackboneError for an unusable one."""
    return {job: answering.load_answering_model(folder, job, cache) for job, folder in checkpoints.items()}


def evaluate_systems(exam: Exam, models: Mapping[str, Model]) -> Iterator[SystemScore]:
    """Yield the scores of BM25 and of each system for which `models` (by job) has all models."""
    mc, qa, longformer = (models.get(job) for job in ("mc", "qa", "longformer"))
    yield label_free(exam, qa)
    if mc and exam.data.options:
        selection, selecting = timed(lambda: answering.paragraph_scores(mc, exam.data, exam.rows))
        yield picks("selector", exam, selection, selecting)
    if mc and qa:
        selection, selecting = timed(lambda: answering.paragraph_scores(mc, exam.data, exam.rows))
        chosen = answering.best_paragraphs(exam.rows, selection)
        answers, reading = timed(lambda: answering.read_paragraphs([qa], exam.data, exam.rows, chosen))
        yield exam.row("two stages", answers, selecting + reading)
        yield soft(exam, mc, qa, selection, selecting)
    if longformer:
        yield exam.row("end to end", *timed(lambda: answering.end_to_end(longformer, exam.data, exam.rows)))


def alone(exam: Exam, job: str, model: Model) -> float:
    """Return the objective of one job's model on this exam.

    It is paragraph accuracy for `mc`, exact match in the relevant paragraph for `qa`, exact match over all paragraphs
    for `longformer`.
    """
    if job == "mc":
        chosen = answering.best_paragraphs(exam.rows, answering.paragraph_scores(model, exam.data, exam.rows))
        return float(np.mean([pick == row.relevant for pick, row in zip(chosen, exam.rows, strict=True)]))
    answers = (
        answering.read_paragraphs([model], exam.data, exam.rows, [row.relevant or 0 for row in exam.rows])
        if job == "qa"
        else answering.end_to_end(model, exam.data, exam.rows)
    )
    return float(scored(exam.rows, answers, exam.right, exam.profile).em.mean())


def label_free(exam: Exam, reader: Model | None) -> SystemScore:
    """Score BM25's paragraphs, read by `reader`; without a reader, only paragraph accuracy."""
    questions = [row.question for row in exam.rows]
    candidates = [[exam.data.paragraphs[paragraph] for paragraph in row.paragraphs] for row in exam.rows]
    scores, seconds = timed(lambda: bm25(questions, candidates, exam.data.paragraphs))
    chosen = answering.best_paragraphs(exam.rows, scores)
    if reader is None:
        return picks("BM25", exam, scores, seconds)
    answers, reading = timed(lambda: answering.read_paragraphs([reader], exam.data, exam.rows, chosen))
    return exam.row("BM25, then read", answers, seconds + reading)


def picks(system: str, exam: Exam, scores: Sequence[Floats], seconds: float) -> SystemScore:
    """Return the paragraph accuracy of a system that only picks paragraphs."""
    chosen = answering.best_paragraphs(exam.rows, scores)
    right = np.array([pick == row.relevant for pick, row in zip(chosen, exam.rows, strict=True)], float)
    return SystemScore(system, len(right), estimate(mean, right), None, None, None, None, None, len(right) / seconds)


def soft(exam: Exam, selector: Model, reader: Model, selection: Sequence[Floats], selecting: float) -> SystemScore:
    """Score the weighted combination of selector and reader.

    The weight is fitted on the validation questions. If these are also the exam's questions, they are divided into five
    folds, and each fold is answered with the weight fitted on the other four.
    """
    readings, reading = timed(lambda: answering.read_all_paragraphs([reader], exam.data, exam.rows))
    if exam.split == "valid":
        right = [exam.right[row.id] for row in exam.rows]
        answers, weight = cross_fitted(selection, readings, right, exam.profile)
    else:
        weight = fitted_weight(exam.data, selector, [reader], exam.profile)
        answers = answering.combine(selection, readings, weight)
    return exam.row("soft two stages", answers, selecting + reading, weight)


def fitted_weight(data: Data, selector: Model, readers: Sequence[Model], profile: str) -> float:
    """Return the weight fitted on all validation questions."""
    right = accepted(data, profile)
    return answering.fit_weight(
        answering.paragraph_scores(selector, data, data.valid),
        answering.read_all_paragraphs(readers, data, data.valid),
        [right[row.id] for row in data.valid],
        profile,
    )


def cross_fitted(
    selection: Sequence[Floats],
    readings: Sequence[Sequence[Answer]],
    right: Sequence[Sequence[str]],
    profile: str = "strict",
) -> tuple[list[Answer], float]:
    """Return the answers and the weight fitted on all questions.

    The answers of a fold use a weight fitted on the other folds, so that no question influences its own answer.
    """
    numbers = range(len(readings))
    answers: dict[int, Answer] = {}
    for fold in range(FOLDS):
        others = [number for number in numbers if number % FOLDS != fold]
        weight = answering.fit_weight(
            [selection[n] for n in others], [readings[n] for n in others], [right[n] for n in others], profile
        )
        own = list(numbers[fold::FOLDS])
        combined = answering.combine([selection[n] for n in own], [readings[n] for n in own], weight)
        answers.update(zip(own, combined, strict=True))
    return [answers[number] for number in numbers], answering.fit_weight(selection, readings, right, profile)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    return work(), time.perf_counter() - began
