"""Tell long questions from short ones: a job as its author wrote it for version 0.1.0. Leave it as it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from jobs.job import Job, ParamError
from jobs.params import TrainingParams, knob
from jobs.task import Task


@dataclass(frozen=True, kw_only=True)
class LengthParams(TrainingParams):
    longest: Annotated[int, Ge(1)] = knob(12, "characters of the longest short question")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.longest > 500:
            raise ParamError("longest", "no question is as long")


def train(params: LengthParams, data: str, workdir: Path, report: Any, resume_from: Path | None = None) -> None:
    from jobs import training

    training.train(TASK, params, data, workdir, report, resume_from)


def model(params: LengthParams, tokenizer: Any) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    return BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), num_labels=2, **sizes))


class Lengths:
    def __init__(self, params: LengthParams, tokenizer: Any, rows: Any) -> None:
        self.rows = rows
        self.ids = tokenizer([row.question for row in rows], truncation=True, max_length=64)["input_ids"]
        self.labels = [int(len(row.question) > params.longest) for row in rows]

    def __len__(self) -> int:
        return len(self.rows)

    def lengths(self) -> Any:
        import numpy as np

        return np.array([len(ids) for ids in self.ids])


def collate(inputs: Lengths, numbers: Any, params: LengthParams) -> dict[str, Any]:
    import torch

    chosen = [torch.tensor(inputs.ids[number]) for number in numbers]
    ids = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(one) for one in chosen], batch_first=True)
    labels = torch.tensor([inputs.labels[number] for number in numbers])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def evaluate(inputs: Lengths, data: Any, logits: Any, params: LengthParams) -> tuple[dict[str, float], list[Any]]:
    predicted = logits.argmax(-1)
    right = [int(one) == label for one, label in zip(predicted, inputs.labels, strict=True)]
    records = [{"id": row.id, "long": bool(one)} for row, one in zip(data.valid, predicted, strict=True)]
    return {"accuracy": sum(right) / len(right)}, records


TASK = Task(
    "length",
    model,
    lambda params, tokenizer, data, rows, cache: Lengths(params, tokenizer, rows),
    collate,
    evaluate,
)
JOB = Job("length", LengthParams, {"accuracy": "max", "eval_loss": "min"}, train)
