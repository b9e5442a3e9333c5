"""Train a reader that finds the answer's span in all paragraphs of a question at once.

The paragraphs are joined with a separator token between neighbours. Long texts are cut into overlapping windows.
[CLS], the question and the separator behind it have global attention; all other tokens attend to their neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Le, Lt

from jobs.backbone.architectures import rounded_up
from jobs.backbone.positions import local_config
from jobs.job import Direction, Job, ParamError
from jobs.model.backbones import fetch_backbone
from jobs.model.conversion import too_short, unlike_bert
from jobs.params import ACCUMULATED, BatchSize, MetricProfile, TrainingParams, check_workers, knob, smaller
from jobs.task import Task
from jobs.training import suits_function, train_function

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from jobs.dataset.data import Data, Question
    from jobs.dataset.lengths import InputLengths
    from jobs.features.windows import Group, Windows

WINDOW = 512  # neighbours of a token by default
LENGTH_MULTIPLE = 8  # tokens: a batch is padded to a multiple of it, because GPUs then multiply matrices faster


@dataclass(frozen=True, kw_only=True)
class LongformerParams(TrainingParams):
    """Hold the parameters of a longformer training. Raises ParamError for values that do not fit together."""

    backbone: str = knob(
        "scratch:2x128x2",
        "a Longformer, a BERT to convert to one, or a long encoder: hub name, folder, or scratch:LAYERSxHIDDENxHEADS",
    )
    learning_rate: Annotated[float, Gt(0), Le(1)] = knob(5e-5, "highest learning rate of the schedule")
    warmup_ratio: Annotated[float, Ge(0), Lt(1)] = knob(
        0.1, "share of all steps spent warming up; set 0 to use warmup_steps"
    )
    num_train_epochs: Annotated[int, Ge(1), Le(10_000)] = knob(1, "passes over the training questions")
    effective_batch_size: Annotated[int, Ge(1), Le(65_536)] = knob(2, "windows per optimizer step, over all workers")
    per_device_train_batch_size: BatchSize = knob(
        "auto", f"largest batch on a device; {ACCUMULATED}; auto: 2, on a GPU what fits", memory_only=True, stands_for=2
    )
    per_device_eval_batch_size: BatchSize = knob(
        "auto", "largest batch on a device in evaluation; auto: 4, on a GPU what fits", memory_only=True, stands_for=4
    )
    max_length: Annotated[int, Ge(32), Le(16_384)] = knob(
        4096, "longest window in tokens, with question, paragraphs and special tokens"
    )
    doc_stride: Annotated[int, Ge(0)] = knob(256, "tokens that two neighbouring windows have in common")
    max_answer_length: Annotated[int, Ge(1)] = knob(30, "longest answer in tokens")
    attention_window: Annotated[int, Ge(2)] = knob(
        WINDOW, "number of neighbours each token attends to, half on each side; only for Longformers and BERTs"
    )
    metric_profile: MetricProfile = knob("strict", "definition of exact_match and f1", defines_metrics=True)
    gradient_checkpointing: bool = knob(
        False, "compute activations again in the backward pass: less memory, more time", memory_only=True
    )

    def __post_init__(self) -> None:
        if self.warmup_ratio and self.warmup_steps:
            raise ParamError(
                "warmup_steps", f"set together with a warmup_ratio of {self.warmup_ratio}: set warmup_ratio to 0"
            )
        super().__post_init__()
        limit = self.max_length // 2 - 4
        if self.doc_stride >= limit:
            raise ParamError(
                "doc_stride",
                f"{self.doc_stride} leaves no room in windows of max_length {self.max_length}; use less than {limit}",
            )
        if self.attention_window % 2:
            raise ParamError(
                "attention_window", f"{self.attention_window} is odd; use an even number, half for each side"
            )
        self._check_backbone()

    def _check_backbone(self) -> None:
        """Verify that the backbone takes the window and the length, as far as config.json is on this machine."""
        config = local_config(self.backbone)
        if self.attention_window > self.max_length and not self._ignores_window(config):
            raise ParamError(
                "attention_window",
                f"{self.attention_window} is more than max_length {self.max_length}; use at most {self.max_length}",
            )
        if config and (problem := too_short(self.backbone, config, self.max_length)):
            raise ParamError("max_length", f"{self.max_length} is too much: {problem}")

    def _ignores_window(self, config: Mapping[str, Any] | None) -> bool:
        """Return True if the window has no effect on the backbone, or may have none and is the default."""
        if config is None:
            return not self.backbone.startswith("scratch:") and self.attention_window == WINDOW
        return unlike_bert(config) is not None


def idle_params(backbone: str) -> dict[str, str]:
    """Return the parameters that have no effect with this backbone, each with the reason."""
    config = local_config(backbone)
    reason = unlike_bert(config) if config else None
    return {"attention_window": f"it is read as it is and is no Longformer, because {reason}"} if reason else {}


def load_long_reader(params: LongformerParams, tokenizer: Any) -> Any:
    """Return a Longformer, a converted BERT or another encoder, with a question-answering head."""
    from jobs.model.conversion import load_long_model

    return load_long_model(params.backbone, tokenizer, params.attention_window, params.max_length)


def joined_windows(
    tokenizer: Any, data: Data, rows: Sequence[Question], params: LongformerParams, cache: Path
) -> Windows:
    """Cut the joined paragraphs of each question into windows."""
    from jobs.features.tokens import cached_tokens
    from jobs.features.windows import cut_joined_windows

    paragraphs = cached_tokens(cache, tokenizer, data.paragraphs)
    questions = cached_tokens(cache, tokenizer, [row.question for row in rows])
    return cut_joined_windows(
        tokenizer, questions, paragraphs, joined_groups(rows), params.max_length, params.doc_stride
    )


def joined_groups(rows: Sequence[Question]) -> list[Group]:
    """Return each question with its paragraphs and, if known, its answer's characters in the relevant paragraph.

    The answer's text is not labelled where it also occurs in other paragraphs.
    """
    from jobs.features.windows import Group

    return [
        Group(number, row.paragraphs)
        if row.relevant is None or row.start is None or row.answer is None
        else Group(number, row.paragraphs, row.relevant, row.start, row.start + len(row.answer))
        for number, row in enumerate(rows)
    ]


def collate_joined(windows: Windows, rows: Sequence[int], max_length: int | None = None) -> dict[str, torch.Tensor]:
    """Return model input and labels of some windows, padded to the longest.

    No window gets more than `max_length` positions, which may be all that the model has. The block attention of
    `jobs.model.attention` does not need padding to a multiple of its window.
    """
    import torch

    longest = int(windows.lengths()[list(rows)].max())
    fits = max_length is None or rounded_up(longest, LENGTH_MULTIPLE) <= max_length
    padded = windows.batch(rows, LENGTH_MULTIPLE if fits else 1)
    batch = {name: torch.from_numpy(values) for name, values in padded._asdict().items()}
    labels = torch.from_numpy(windows.labels[list(rows)].astype("int64"))
    return {**batch, "start_positions": labels[:, 0], "end_positions": labels[:, 1]}


def evaluate_joined(
    windows: Windows, data: Data, logits: tuple[Any, Any], max_answer_length: int, profile: str = "strict"
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Return metrics, and one prediction per validation question, given the start and end logits of all windows.

    `paragraph_accuracy` is the share of answers that lie in the relevant paragraph. The right text in another
    paragraph still counts as an exact match.
    """
    from jobs.dataset.data import accepted
    from jobs.features.windows import best_answers
    from jobs.metrics import mean_scores

    predictions = best_answers(windows, data.paragraphs, logits, max_answer_length)
    pairs = list(zip(data.valid, predictions, strict=True))
    given, right_answers = [prediction["answer"] for prediction in predictions], accepted(data, profile)
    scores = mean_scores(given, [right_answers[row.id] for row in data.valid], profile)
    right = [prediction["paragraph"] == row.relevant for row, prediction in pairs]
    scores["paragraph_accuracy"] = sum(right) / len(right)
    return scores, [{"id": row.id, **prediction} for row, prediction in pairs]


METRICS: dict[str, Direction] = {
    "exact_match": "max",
    "f1": "max",
    "paragraph_accuracy": "max",
    "eval_loss": "min",
    "train_loss": "min",
}


def longformer_lengths(params: LongformerParams, data: Data) -> InputLengths:
    """Return the estimated tokens of the inputs, for a forecast."""
    from jobs.dataset.lengths import joined_lengths

    return joined_lengths(data, params.max_length, params.doc_stride)


TASK = Task(
    "longformer",
    load_long_reader,
    lambda params, tokenizer, data, rows, cache: joined_windows(tokenizer, data, rows, params, cache),
    lambda windows, numbers, params: collate_joined(windows, numbers, params.max_length),
    lambda windows, data, logits, params: evaluate_joined(
        windows, data, logits, params.max_answer_length, params.metric_profile
    ),
)
train = train_function(TASK)
JOB = Job(
    "longformer",
    LongformerParams,
    METRICS,
    train,
    fetch_backbone,
    smaller,
    check_workers,
    TASK,
    idle_params,
    reads=True,
    suits=suits_function(TASK, encoder=True),
    lengths=longformer_lengths,
)
