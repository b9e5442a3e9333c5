"""Define what a job gives to the shared Trainer: a model, inputs, batches and an evaluation. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MakeInputs = Callable[..., Any]
Evaluate = Callable[..., tuple[dict[str, float], list[dict[str, Any]]]]


def all_inputs(inputs: Any, params: Any) -> Sequence[int]:
    """Return the numbers of all inputs."""
    return range(len(inputs))


@dataclass(frozen=True)
class Task:
    """Describe a model that the shared Trainer can train. `jobs.training.train(task, params, …)` trains it.

    An input is one row of a batch, for example a window of a paragraph. Inputs are numbered from 0.

    name      the job's name; it is written into every checkpoint
    model     model(params, tokenizer): returns a transformers PreTrainedModel, for example from
              `jobs.model.backbones.load_model`, which takes the number of classes as `num_labels`. Its outputs are
              named `logits` or end in `_logits`, and each is 2-dimensional: [inputs, positions or classes]
    inputs    inputs(params, tokenizer, data, rows, cache): returns the inputs of some questions of a data set. The
              object has `len()` and `lengths()`, an integer array [inputs] with the tokens of each. If an input has
              several sequences, such as candidates, it also has `counts()`, an integer array [inputs] with their
              numbers. `cache` is a folder for tokenized texts that trials share
    collate   collate(inputs, numbers, params): returns a batch of some inputs, a dict of tensors. Labels are named
              `labels`, or `start_positions` and `end_positions`; prediction leaves them out. A batch has
              `attention_mask`, since the loss of start and end positions ignores padding. Padding comes last; a
              model from `load_model` that needs other padding changes its batches itself. It is called in a thread,
              while the model computes; if it draws random numbers from the global generators, between two steps
    evaluate  evaluate(inputs, data, logits, params): returns metrics and predictions for the questions `data.valid`.
              `logits` is one array [inputs, widest] in the order of the inputs, padded with 0, or a tuple of arrays
              when the model has several outputs. No metric may be called `loss` or `epoch`
    trained   trained(inputs, params): returns the numbers of the inputs to train on; all by default
    loss      loss(outputs, labels, num_items_in_batch): replaces the model's own loss

    `evaluate` returns one prediction (a dict) per question, in the order of `data.valid`. `sweeper errors` and
    `compare` read these keys:

    id         the question's id; required
    answer     the answer's text; a job that only picks a paragraph leaves it out
    start      the character in the paragraph where `answer` begins; required with `answer`
    paragraph  the row of the chosen paragraph in `data.paragraphs`; left out by a job that reads the relevant one

    The task must handle paragraphs that are longer than a window: cut several windows and choose the best, as
    `jobs.features.windows.cut_windows` and `best_answers` do, or keep one window and cut off the rest, as jobs.mc
    does. `rows` may be unlabelled (`relevant` is None) when a trained model answers new questions.

    `errors` needs `answer` or `paragraph`, and the paired test of `compare` needs one of the metrics that follow from
    them: exact_match, f1, accuracy, paragraph_accuracy. A job with other metrics and predictions runs and is compared
    without both. `data` and its questions (`rows`) are described in jobs/dataset/data.py, as Data and Question.

    The smallest example guesses from the question alone if the first of its paragraphs is the relevant one, and picks
    the second if not:

        class Questions:
            def __init__(self, params, tokenizer, rows):
                self.rows = rows
                self.ids = tokenizer([row.question for row in rows], truncation=True, max_length=64)["input_ids"]

            def __len__(self):
                return len(self.rows)

            def lengths(self):
                return np.array([len(ids) for ids in self.ids])

        def collate(inputs, numbers, params):
            ids = [torch.tensor(inputs.ids[number]) for number in numbers]
            rows = [inputs.rows[number] for number in numbers]
            return {
                "input_ids": pad_sequence(ids, batch_first=True),
                "attention_mask": pad_sequence([torch.ones_like(one) for one in ids], batch_first=True),
                "labels": torch.tensor([int(row.relevant != row.paragraphs[0]) for row in rows]),
            }

        def evaluate(inputs, data, logits, params):
            chosen = [row.paragraphs[best] for row, best in zip(data.valid, logits.argmax(axis=1))]
            right = [one == row.relevant for one, row in zip(chosen, data.valid)]
            return {"accuracy": sum(right) / len(right)}, [
                {"id": row.id, "paragraph": one} for row, one in zip(data.valid, chosen)
            ]

        TASK = Task(
            "first",
            lambda params, tokenizer: load_model(
                params.backbone, "AutoModelForSequenceClassification", tokenizer, 64, num_labels=2
            ),
            lambda params, tokenizer, data, rows, cache: Questions(params, tokenizer, rows),
            collate,
            evaluate,
        )
    """

    name: str
    model: Callable[..., Any]
    inputs: MakeInputs
    collate: Callable[..., Mapping[str, Any]]
    evaluate: Evaluate
    trained: Callable[..., Sequence[int]] = all_inputs
    loss: Callable[..., Any] | None = None
