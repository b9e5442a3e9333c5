"""Answer questions with trained checkpoints, for validation, comparison and submission.

Two stages: a selector picks the paragraph, a reader marks the span in it. Soft two stages: the reader reads every
paragraph, and a weighted sum of both scores decides. End to end: one model does both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from jobs import get_job, longformer, qa
from jobs.checkpoint import CheckpointError, WrongJobError, identity
from jobs.dataset.data import Data, Question
from jobs.features.blanks import is_blank
from jobs.features.spans import best_spans
from jobs.features.windows import Pair, Windows, answer_without_span, best_answers
from jobs.metrics import best_score
from jobs.params import TrainingParams
from jobs.task import Task
from jobs.training.precision import FP32, UsedPrecision, answering_precision, this_device

Floats = NDArray[np.floating[Any]]
MIN_PROBABILITY = 1e-30  # replaces a probability of 0, whose logarithm would be -inf
WEIGHTS = np.linspace(0, 1, 101)  # candidates for the weight of the reader's score; see fit_weight


class Answer(NamedTuple):
    """Holds the answer to one question.

    `paragraph` is an index into Data.paragraphs. `start` is the answer's first character in that paragraph. Compare
    `score` only with other scores of the same model.
    """

    id: str
    paragraph: int
    start: int
    text: str
    score: float


@dataclass(frozen=True)
class Model:
    """Holds a trained model with its tokenizer and training params. Its features are cached in the folder `cache`.

    `precision` is the one in which it answers.
    """

    task: Task
    params: TrainingParams
    tokenizer: Any
    network: Any
    cache: Path
    precision: UsedPrecision = FP32

    def logits(self, inputs: Any) -> tuple[Floats, ...]:
        from jobs.training.predict import predict

        return predict(self.task, self.network, inputs, self.params, self.precision)


def load_answering_model(folder: Path, job: str, cache: Path) -> Model:
    """Load the model of a checkpoint of `job`, on a GPU if there is one. It answers in the precision of its training if
    the device has it.

    Raises CheckpointError when the folder has no usable checkpoint, or one of another job. Raises BackboneError when
    the model cannot be loaded.
    """
    import torch
    from transformers.utils import logging

    from jobs.backbone.tokenizers import load_tokenizer

    logging.disable_progress_bar()  # otherwise every model that is loaded prints a progress bar
    made = identity(folder)
    if made["job"] != job:
        raise WrongJobError(f"{folder}: was made by job {made['job']}; name a checkpoint of {job}")
    known = get_job(job)
    if known.task is None:
        raise CheckpointError(f"{folder}: the job {job} has no task, so its models cannot answer; give its Job a task")
    params = known.params(**{**made["params"], "backbone": str(folder)})  # the backbone itself may be gone by now
    tokenizer = load_tokenizer(str(folder), ())
    network = known.task.model(params, tokenizer).to("cuda" if torch.cuda.is_available() else "cpu")
    precision = answering_precision(params, made["conditions"], this_device())
    return Model(known.task, params, tokenizer, network, cache, precision)


def paragraph_scores(selector: Model, data: Data, rows: Sequence[Question]) -> list[Floats]:
    """Return the selector's log-probability of each paragraph: one array [candidates] for each question."""
    inputs = selector.task.inputs(selector.params, selector.tokenizer, data, rows, selector.cache)
    (logits,) = selector.logits(inputs)
    return [log_softmax(scores[: len(row.paragraphs)]) for row, scores in zip(rows, logits, strict=True)]


def best_paragraphs(rows: Sequence[Question], scores: Sequence[Floats]) -> list[int]:
    """Return the paragraph with the highest score for each question; ties go to the first."""
    return [row.paragraphs[int(own.argmax())] for row, own in zip(rows, scores, strict=True)]


def picked_options(selector: Model, data: Data, rows: Sequence[Question]) -> list[Answer]:
    """Return the whole paragraph with the highest score for each question: an option of a multiple-choice question."""
    scores = paragraph_scores(selector, data, rows)
    return [
        Answer(row.id, paragraph, 0, data.paragraphs[paragraph], float(own.max()))
        for row, paragraph, own in zip(rows, best_paragraphs(rows, scores), scores, strict=True)
    ]


def read_paragraphs(
    readers: Sequence[Model], data: Data, rows: Sequence[Question], paragraphs: Sequence[int]
) -> list[Answer]:
    """Return the best span of each question in its given paragraph. Several readers vote; see `averaged`."""
    return _read_pairs(readers, data, rows, [Pair(number, paragraph) for number, paragraph in enumerate(paragraphs)])


def read_all_paragraphs(readers: Sequence[Model], data: Data, rows: Sequence[Question]) -> list[list[Answer]]:
    """Return the best span of each question in each of its paragraphs."""
    pairs = [Pair(number, paragraph) for number, row in enumerate(rows) for paragraph in row.paragraphs]
    found = iter(_read_pairs(readers, data, rows, pairs))
    return [[next(found) for _ in row.paragraphs] for row in rows]


def _read_pairs(readers: Sequence[Model], data: Data, rows: Sequence[Question], pairs: Sequence[Pair]) -> list[Answer]:
    texts = [data.paragraphs[pair.paragraph] for pair in pairs]
    spans = _spans(readers[0], data, rows, pairs) if len(readers) == 1 else _votes(readers, data, rows, pairs, texts)
    return [
        Answer(rows[pair.question].id, pair.paragraph, span["start"], span["answer"], span["score"])
        for pair, span in zip(pairs, spans, strict=True)
    ]


def _spans(reader: Model, data: Data, rows: Sequence[Question], pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    params = cast(qa.QaParams, reader.params)
    windows = qa.windows_of(params, reader.tokenizer, data, rows, pairs, reader.cache)
    start, end = reader.logits(windows)
    return best_answers(windows, data.paragraphs, (start, end), params.max_answer_length)


def _votes(
    readers: Sequence[Model], data: Data, rows: Sequence[Question], pairs: Sequence[Pair], texts: Sequence[str]
) -> list[dict[str, Any]]:
    votes = []
    for reader in readers:
        params = cast(qa.QaParams, reader.params)
        windows = qa.windows_of(params, reader.tokenizer, data, rows, pairs, reader.cache)
        votes.append(character_chances(windows, reader.logits(windows), texts))
    longest = max(cast(qa.QaParams, reader.params).max_answer_length for reader in readers)
    return [averaged(text, [vote[number] for vote in votes], longest) for number, text in enumerate(texts)]


def character_chances(windows: Windows, logits: tuple[Floats, ...], texts: Sequence[str]) -> list[Floats]:
    """Return one array [2, characters] for each pair: the start and end probability of each character.

    A token's start score goes to its first character, its end score to its last; tokens without text take no part.
    Where several tokens share a character, or windows overlap, the higher score counts. Without such a token, all
    chances are 0.
    """
    have_text = windows.paragraphs.have_text()
    chances = [np.full((2, len(text)), -np.inf) for text in texts]
    for window, paragraph, first, last, offset in zip(*windows.segments, strict=True):
        base = windows.paragraphs.bounds[paragraph]
        own = np.flatnonzero(have_text[base + first : base + last])
        chars = windows.paragraphs.chars[base + first + own]
        for side, places in enumerate((chars[:, 0], chars[:, 1] - 1)):
            np.maximum.at(chances[windows.group[window]][side], places, logits[side][window, offset + own])
    return [softmax(one, axis=1) if np.isfinite(one).any() else np.zeros_like(one) for one in chances]


def averaged(text: str, votes: Sequence[Floats], longest: int) -> dict[str, Any]:
    """Return the best span of at most `longest` characters by the mean probabilities of several readers.

    `votes` has start and end probabilities by character, because the readers' tokenizers may differ. The score is a
    log-probability. The span begins and ends with text. If no reader gives a chance to any character, the answer is
    that of `answer_without_span`.
    """
    mean = np.mean(votes, axis=0)
    if not (mean > 0).any(axis=1).all():
        return answer_without_span([text], [0], longest)
    start, end = np.log(np.maximum(mean, MIN_PROBABILITY))
    spans = best_spans(start[None], end[None], np.array([[not is_blank(letter) for letter in text]]), longest)
    first, last, score = int(spans.first[0]), int(spans.last[0]) + 1, float(spans.scores[0])
    return {"answer": text[first:last], "start": first, "score": score}


def combine(selection: Sequence[Floats], readings: Sequence[Sequence[Answer]], weight: float) -> list[Answer]:
    """Return each question's reading with the highest weighted sum of paragraph score and span score.

    The sum is (1 - weight) x paragraph log-probability + weight x span score, as in BERTserini (Yang et al. 2019, arXiv
    1902.01718, section 3.2). Weight 0 gives the two-stage pipeline.
    """
    totals = (
        (1 - weight) * scores + weight * np.array([answer.score for answer in own])
        for scores, own in zip(selection, readings, strict=True)
    )
    return [own[int(total.argmax())] for own, total in zip(readings, totals, strict=True)]


def pipeline(
    selector: Model, readers: Sequence[Model], data: Data, rows: Sequence[Question], weight: float
) -> list[Answer]:
    """Select a paragraph and read it; with `weight` above 0, read all paragraphs and combine both scores."""
    selection = paragraph_scores(selector, data, rows)
    if weight == 0:
        return read_paragraphs(readers, data, rows, best_paragraphs(rows, selection))
    return combine(selection, read_all_paragraphs(readers, data, rows), weight)


def fit_weight(
    selection: Sequence[Floats],
    readings: Sequence[Sequence[Answer]],
    right: Sequence[Sequence[str]],
    profile: str = "strict",
) -> float:
    """Return the weight for `combine` with the most exact matches; ties go to the smallest weight.

    `right` has the right answers of each question. `profile` names the metric profile.
    """
    worth = [
        {answer: best_score(answer.text, answers, profile).em for answer in own}
        for own, answers in zip(readings, right, strict=True)
    ]

    def matches(weight: float) -> float:
        chosen = combine(selection, readings, weight)
        return sum(own[answer] for answer, own in zip(chosen, worth, strict=True))

    return float(max(WEIGHTS, key=matches))


def end_to_end(model: Model, data: Data, rows: Sequence[Question]) -> list[Answer]:
    """Return the best span of each question over all its paragraphs joined."""
    params = cast(longformer.LongformerParams, model.params)
    windows = longformer.joined_windows(model.tokenizer, data, rows, params, model.cache)
    start, end = model.logits(windows)
    spans = best_answers(windows, data.paragraphs, (start, end), params.max_answer_length)
    return [
        Answer(row.id, span["paragraph"], span["start"], span["answer"], span["score"])
        for row, span in zip(rows, spans, strict=True)
    ]
