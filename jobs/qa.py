"""The reader: marks the answer's span in the relevant paragraph.

Long paragraphs are read in overlapping windows. A window without the answer is labelled [CLS]; the best
span over all windows of a question is its answer, cut from the original text.
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
from jobs.training import train_function

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from jobs.dataset.data import Data, Question
    from jobs.features.tokens import Ints
    from jobs.features.windows import Pair, Windows


@dataclass(frozen=True, kw_only=True)
class QaParams(TrainingParams):
    max_length: Annotated[int, Ge(32), Le(8192)] = knob(
        512, "longest window in tokens: question, paragraph, special tokens"
    )
    doc_stride: Annotated[int, Ge(0)] = knob(128, "tokens two neighbouring windows share")
    max_answer_length: Annotated[int, Ge(1)] = knob(30, "longest answer in tokens")
    unanswered_share: Annotated[float, Ge(0), Le(1)] = knob(1.0, "share kept of training windows without the answer")
    metric_profile: MetricProfile = knob("strict", "definition of exact_match and f1")

    def __post_init__(self) -> None:
        super().__post_init__()
        room = self.max_length // 2 - 4
        if self.doc_stride >= room:
            raise ParamError(
                "doc_stride",
                f"{self.doc_stride} leaves no room in windows of max_length {self.max_length}; use less than {room}",
            )
        check_length(self, self.max_length)


def reader(params: QaParams, tokenizer: Any) -> Any:
    from jobs.model.backbones import load_model

    return load_model(params.backbone, "AutoModelForQuestionAnswering", tokenizer, params.max_length)


def paragraph_windows(params: QaParams, tokenizer: Any, data: Data, rows: Sequence[Question], cache: Path) -> Windows:
    """Windows of some questions, each over its relevant paragraph."""
    return windows_of(params, tokenizer, data, rows, pairs(rows), cache)


def windows_of(
    params: QaParams, tokenizer: Any, data: Data, rows: Sequence[Question], pairs: Sequence[Pair], cache: Path
) -> Windows:
    """Windows of any `pairs` of these questions and the data set's paragraphs."""
    from jobs.features.tokens import cached_tokens
    from jobs.features.windows import cut_windows

    paragraphs = cached_tokens(cache, tokenizer, data.paragraphs)
    questions = cached_tokens(cache, tokenizer, [row.question for row in rows])
    return cut_windows(tokenizer, questions, paragraphs, pairs, params.max_length, params.doc_stride)


def pairs(rows: Sequence[Question]) -> list[Pair]:
    """Each labelled question with its relevant paragraph and the characters of its answer."""
    from jobs.features.windows import Pair

    return [Pair(n, row.relevant, row.start, row.start + len(row.answer)) for n, row in enumerate(rows)]  # type: ignore[operator,arg-type]


def kept_windows(windows: Windows, unanswered_share: float, seed: int) -> Ints:
    """The rows to train on: every window with the answer, and a random share of the others. Short windows over
    long paragraphs are mostly without it, and few of these teach as much as all (Alberti, Lee, Collins
    2019, arXiv 1901.08634, section 3).
    """
    import numpy as np

    chance = np.random.default_rng(seed).random(len(windows))
    return np.flatnonzero((windows.labels[:, 0] > 0) | (chance < unanswered_share)).astype(np.int32)


def collate_windows(windows: Windows, rows: Sequence[int] | Ints) -> dict[str, torch.Tensor]:
    """Model input and labels of some windows, padded to the longest of them."""
    import torch

    batch = {name: torch.from_numpy(values) for name, values in windows.batch(rows)._asdict().items()}
    labels = torch.from_numpy(windows.labels[list(rows)].astype("int64"))
    return {**batch, "start_positions": labels[:, 0], "end_positions": labels[:, 1]}


def evaluate_spans(
    windows: Windows, data: Data, logits: tuple[Any, Any], max_answer_length: int, profile: str = "strict"
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Metrics and one prediction per validation question, from the start and end logits of its windows."""
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


TASK = Task(
    "qa",
    reader,
    paragraph_windows,
    lambda windows, numbers, params: collate_windows(windows, numbers),
    lambda windows, data, logits, params: evaluate_spans(
        windows, data, logits, params.max_answer_length, params.metric_profile
    ),
    trained=lambda windows, params: kept_windows(windows, params.unanswered_share, params.seed).tolist(),
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
)
