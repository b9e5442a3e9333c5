"""Train a selector that picks the relevant paragraph among a question's candidates.

The model scores each candidate together with the question, and a softmax runs over the candidates of a question.
Questions may have different numbers of candidates. A candidate that is too long is truncated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Le

from jobs.job import Job
from jobs.model.backbones import fetch_backbone
from jobs.params import BatchSize, TrainingParams, check_length, check_workers, knob, smaller
from jobs.task import Task
from jobs.training import suits_function, train_function

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from jobs.dataset.data import Data, Question
    from jobs.dataset.lengths import InputLengths
    from jobs.features.windows import Windows

ABSENT = -100  # the label that PyTorch's cross-entropy ignores


@dataclass(frozen=True, kw_only=True)
class McParams(TrainingParams):
    """Hold the parameters of an mc training. Raises ParamError for values that do not fit together."""

    max_length: Annotated[int, Ge(32), Le(8192)] = knob(
        512, "longest input in tokens, with question, paragraph and special tokens"
    )
    per_device_train_batch_size: BatchSize = knob(
        "auto",
        "most questions in a batch on a device, each with all its candidates; auto: 2, on a GPU what fits",
        memory_only=True,
        stands_for=2,
    )
    per_device_eval_batch_size: BatchSize = knob(
        "auto",
        "most questions in a batch on a device in evaluation; auto: 8, on a GPU what fits",
        memory_only=True,
        stands_for=8,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_length(self, self.max_length)


def load_selector(params: McParams, tokenizer: Any) -> Any:
    """Return the backbone with a multiple-choice head."""
    from jobs.model.backbones import load_model

    return load_model(params.backbone, "AutoModelForMultipleChoice", tokenizer, params.max_length)


@dataclass(frozen=True)
class Candidates:
    """Hold questions and their candidates, in the order of the questions. Only a candidate's first window is used.

    windows  all windows of all candidates
    opening  [candidates] the number of each candidate's first window
    bounds   [questions + 1] the number of each question's first candidate; the last entry is the number of candidates
    """

    rows: Sequence[Question]
    windows: Windows
    opening: NDArray[np.intp]
    bounds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def lengths(self) -> NDArray[np.integer[Any]]:
        """Return [questions]: the number of tokens in the longest candidate of each."""
        import numpy as np

        return np.maximum.reduceat(self.windows.lengths()[self.opening], self.bounds[:-1])

    def counts(self) -> NDArray[np.integer[Any]]:
        """Return [questions]: the number of candidates of each."""
        import numpy as np

        return np.diff(self.bounds)

    def collate(self, numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return model input [questions, candidates, positions] and labels.

        Questions with fewer candidates than others get their first candidate again, because some models read no
        other rows than real ones. `candidate_loss` and `evaluate_picks` ignore these copies.
        """
        import numpy as np
        import torch

        counts = self.counts()[list(numbers)]
        most = int(counts.max())
        own = np.concatenate([self._rows(number, most) for number in numbers])
        batch = self.windows.batch(own)._asdict()
        filled = {name: values.reshape(len(numbers), most, -1) for name, values in batch.items()}
        labels = np.full((len(numbers), most), ABSENT)
        for line, number in enumerate(numbers):
            row = self.rows[number]
            if row.relevant is not None:
                labels[line, row.paragraphs.index(row.relevant)] = counts[line]
        return {name: torch.from_numpy(values) for name, values in {**filled, "labels": labels}.items()}

    def _rows(self, number: int, most: int) -> NDArray[np.intp]:
        """Return the first windows of a question's candidates, and of its first candidate again, `most` in all."""
        import numpy as np

        own = self.opening[self.bounds[number] : self.bounds[number + 1]]
        return np.append(own, own[:1].repeat(most - len(own)))


def candidate_inputs(tokenizer: Any, data: Data, rows: Sequence[Question], max_length: int, cache: Path) -> Candidates:
    """Cut each candidate of these questions to one input of at most `max_length` tokens.

    A text in front of a multiple-choice question is cut at its beginning, so that the question itself stays.
    """
    import numpy as np

    from jobs.features.tokens import cached_tokens
    from jobs.features.windows import Pair, cut_windows

    paragraphs = cached_tokens(cache, tokenizer, data.paragraphs)
    questions = cached_tokens(cache, tokenizer, [row.question for row in rows])
    pairs = [Pair(number, paragraph) for number, row in enumerate(rows) for paragraph in row.paragraphs]
    windows = cut_windows(tokenizer, questions, paragraphs, pairs, max_length, 0, keep_end=data.options)
    bounds = np.concatenate([[0], np.cumsum([len(row.paragraphs) for row in rows])])
    return Candidates(rows, windows, np.flatnonzero(windows.first == 0), bounds)


def candidate_loss(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Return the cross-entropy over each question's candidates, averaged over questions.

    `labels` [questions, candidates] has the number of candidates at the relevant one and ABSENT elsewhere. Trainer
    counts the labels that are not ABSENT, so `num_items_in_batch` is the number of questions.
    """
    import torch

    logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
    counts = labels.max(dim=1, keepdim=True).values
    beyond = torch.arange(labels.shape[1], device=labels.device) >= counts
    target = (labels != ABSENT).int().argmax(dim=1)
    total = torch.nn.functional.cross_entropy(
        logits.float().masked_fill(beyond, float("-inf")), target, reduction="sum"
    )
    return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def evaluate_picks(
    rows: Sequence[Question], logits: NDArray[np.floating[Any]]
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Return the accuracy, and one prediction per question: the paragraph picked and the score of each candidate.

    `logits` is [questions, candidates]; columns beyond a question's own candidates are ignored.
    """
    predictions = []
    for row, scores in zip(rows, logits, strict=True):
        own = scores[: len(row.paragraphs)]
        predictions.append(
            {
                "id": row.id,
                "paragraph": row.paragraphs[int(own.argmax())],
                "scores": [float(score) for score in own],
            }
        )
    right = [prediction["paragraph"] == row.relevant for prediction, row in zip(predictions, rows, strict=True)]
    return {"accuracy": sum(right) / len(right)}, predictions


def mc_lengths(params: McParams, data: Data) -> InputLengths:
    """Return the estimated tokens of the inputs, for a forecast."""
    from jobs.dataset.lengths import candidate_lengths

    return candidate_lengths(data, params.max_length)


TASK = Task(
    "mc",
    load_selector,
    lambda params, tokenizer, data, rows, cache: candidate_inputs(tokenizer, data, rows, params.max_length, cache),
    lambda source, numbers, params: source.collate(numbers),
    lambda source, data, logits, params: evaluate_picks(data.valid, logits),
    loss=candidate_loss,
)
train = train_function(TASK)
JOB = Job(
    "mc",
    McParams,
    {"accuracy": "max", "eval_loss": "min", "train_loss": "min"},
    train,
    fetch_backbone,
    smaller,
    check_workers,
    TASK,
    suits=suits_function(TASK, encoder=True),
    lengths=mc_lengths,
)
