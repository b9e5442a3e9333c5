"""Train a reader that finds the answer's span in the relevant paragraph.

Long paragraphs are cut into overlapping windows. A window without the answer is labelled with [CLS]. The best span
over all windows of a question is its answer, copied from the original text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Le

from jobs.job import Job, ParamError
from jobs.model.backbones import fetch_backbone
from jobs.params import MetricProfile, TrainingParams, check_length, check_workers, knob, smaller
from jobs.task import Task
from jobs.training import suits_function, train_function

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from jobs.dataset.data import Data, Question
    from jobs.dataset.lengths import InputLengths
    from jobs.features.tokens import Ints
    from jobs.features.windows import Pair, Windows


@dataclass(frozen=True, kw_only=True)
class QaParams(TrainingParams):
    """Hold the parameters of a qa training. Raises ParamError for values that do not fit together."""

    max_length: Annotated[int, Ge(32), Le(8192)] = knob(
        512, "longest window in tokens, with question, paragraph and special tokens"
    )
    doc_stride: Annotated[int, Ge(0)] = knob(128, "tokens that two neighbouring windows have in common")
    max_answer_length: Annotated[int, Ge(1)] = knob(30, "longest answer in tokens")
    unanswered_share: Annotated[float, Ge(0), Le(1)] = knob(1.0, "share of windows without an answer to train on")
    metric_profile: MetricProfile = knob("strict", "definition of exact_match and f1", defines_metrics=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        limit = self.max_length // 2 - 4
        if self.doc_stride >= limit:
            raise ParamError(
                "doc_stride",
                f"{self.doc_stride} leaves no room in windows of max_length {self.max_length}; use less than {limit}",
            )
        check_length(self, self.max_length)


def load_reader(params: QaParams, tokenizer: Any) -> Any:
    """Return the backbone with a question-answering head."""
    from jobs.model.backbones import load_model

    return load_model(params.backbone, "AutoModelForQuestionAnswering", tokenizer, params.max_length)


def paragraph_windows(params: QaParams, tokenizer: Any, data: Data, rows: Sequence[Question], cache: Path) -> Windows:
    """Cut the relevant paragraph of each question into windows."""
    return windows_of(params, tokenizer, data, rows, labelled_pairs(rows), cache)


def windows_of(
    params: QaParams, tokenizer: Any, data: Data, rows: Sequence[Question], pairs: Sequence[Pair], cache: Path
) -> Windows:
    """Cut the paragraph of each pair into windows; a pair has indices into `rows` and `data.paragraphs`."""
    from jobs.features.tokens import cached_tokens
    from jobs.features.windows import cut_windows

    paragraphs = cached_tokens(cache, tokenizer, data.paragraphs)
    questions = cached_tokens(cache, tokenizer, [row.question for row in rows])
    return cut_windows(tokenizer, questions, paragraphs, pairs, params.max_length, params.doc_stride)


def labelled_pairs(rows: Sequence[Question]) -> list[Pair]:
    """Return each labelled question with its relevant paragraph and the characters of its answer."""
    from jobs.features.windows import Pair

    return [Pair(n, row.relevant, row.start, row.start + len(row.answer)) for n, row in enumerate(rows)]  # type: ignore[operator,arg-type]


def training_windows(windows: Windows, unanswered_share: float, seed: int) -> Ints:
    """Return the numbers of the windows to train on: all windows with an answer and a random share of the others.

    Most windows of a long paragraph do not contain the answer. Training needs only a few of these (Alberti, Lee,
    Collins 2019, arXiv 1901.08634, section 3).
    """
    import numpy as np

    chance = np.random.default_rng(seed).random(len(windows))
    return np.flatnonzero((windows.labels[:, 0] > 0) | (chance < unanswered_share)).astype(np.int32)


def collate_windows(windows: Windows, rows: Sequence[int] | Ints) -> dict[str, torch.Tensor]:
    """Return model input and labels of some windows, padded to the longest."""
    import torch

    batch = {name: torch.from_numpy(values) for name, values in windows.batch(rows)._asdict().items()}
    labels = torch.from_numpy(windows.labels[list(rows)].astype("int64"))
    return {**batch, "start_positions": labels[:, 0], "end_positions": labels[:, 1]}


def evaluate_spans(
    windows: Windows, data: Data, logits: tuple[Any, Any], max_answer_length: int, profile: str = "strict"
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Return metrics, and one prediction per validation question, given the start and end logits of all windows."""
    from jobs.dataset.data import accepted
    from jobs.features.windows import best_answers
    from jobs.metrics import mean_scores

    found = best_answers(windows, data.paragraphs, logits, max_answer_length)
    right = accepted(data, profile)
    scores = mean_scores([one["answer"] for one in found], [right[row.id] for row in data.valid], profile)
    kept = ("answer", "start", "score")
    return scores, [
        {"id": row.id, **{key: one[key] for key in kept}} for row, one in zip(data.valid, found, strict=True)
    ]


def qa_lengths(params: QaParams, data: Data) -> InputLengths:
    """Return the estimated tokens of the inputs, for a forecast."""
    from jobs.dataset.lengths import relevant_lengths

    return relevant_lengths(data, params.max_length, params.doc_stride, params.unanswered_share)


TASK = Task(
    "qa",
    load_reader,
    paragraph_windows,
    lambda windows, numbers, params: collate_windows(windows, numbers),
    lambda windows, data, logits, params: evaluate_spans(
        windows, data, logits, params.max_answer_length, params.metric_profile
    ),
    trained=lambda windows, params: training_windows(windows, params.unanswered_share, params.seed).tolist(),
)
train = train_function(TASK)
JOB = Job(
    "qa",
    QaParams,
    {"exact_match": "max", "f1": "max", "eval_loss": "min", "train_loss": "min"},
    train,
    fetch_backbone,
    smaller,
    check_workers,
    TASK,
    reads=True,
    suits=suits_function(TASK, encoder=True),
    lengths=qa_lengths,
)
