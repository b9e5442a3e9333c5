"""A task and its params to a Hugging Face Trainer, and its evaluations to reports; a model to its logits.
Knows no job's input or metrics."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from jobs import backbones, checkpoint
from jobs.data import SAMPLE, read, vocabulary
from jobs.job import Report
from jobs.params import TrainingParams
from jobs.task import Task

Batch = Mapping[str, torch.Tensor]
Floats = NDArray[np.floating[Any]]


class Inputs(Dataset[int]):  # type: ignore[misc]
    """`count` inputs, and the function from some of their numbers to a batch of tensors.

    PyTorch asks a dataset that has `__getitems__` for a whole batch at once.
    """

    def __init__(self, count: int, collate: Callable[[Sequence[int]], Batch]) -> None:
        self.count = count
        self.collate = collate

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> Any:
        return self.collate([row])

    def __getitems__(self, rows: Sequence[int]) -> Batch:
        return self.collate(rows)


def as_it_is(batch: Batch) -> Batch:
    """The collate function for Inputs, whose batches come collated."""
    return batch


def train(
    task: Task,
    params: TrainingParams,
    data: str,
    workdir: Path,
    report: Report,
    resume_from: Path | None = None,
) -> None:
    """Train one model, and report after every evaluation, with a complete checkpoint; see jobs.job.Job."""
    set_seed(params.seed)
    dataset = read(data)
    tokenizer = backbones.load_tokenizer(params.backbone, vocabulary(dataset))
    cache = workdir.parent / "features"
    trained = task.inputs(params, tokenizer, dataset, dataset.train, cache)
    asked = task.inputs(params, tokenizer, dataset, dataset.valid, cache)
    numbers = task.trained(trained, params)
    unfinished = workdir / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    identity = {
        "job": task.name,
        "params": asdict(params),
        "data": data if data == SAMPLE else str(Path(data).absolute()),
        "data_fingerprint": dataset.fingerprint,
    }
    reporter = Reporter(
        lambda logits: task.evaluate(asked, dataset, logits, params), params.num_train_epochs, identity, workdir, report
    )
    trainer = Trainer(
        model=task.model(params, tokenizer),
        args=arguments(params, unfinished),
        data_collator=as_it_is,
        train_dataset=Inputs(
            len(numbers), lambda rows: task.collate(trained, [int(numbers[row]) for row in rows], params)
        ),
        eval_dataset=Inputs(len(asked), lambda rows: task.collate(asked, rows, params)),
        processing_class=tokenizer,
        compute_loss_func=task.loss,
        compute_metrics=reporter.compute_metrics,
        callbacks=[reporter],
    )
    trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    shutil.rmtree(unfinished, ignore_errors=True)


def predict(task: Task, model: PreTrainedModel, inputs: Any, params: TrainingParams) -> tuple[Floats, ...]:
    """The model's logits for all inputs, in their order: arrays [inputs, positions], 0 beyond an input's own.

    Neighbours in length share a batch, so that little is padding.
    """
    lengths = inputs.lengths()
    order = np.argsort(-lengths, kind="stable")
    size = params.per_device_eval_batch_size
    batches = [order[at : at + size] for at in range(0, len(order), size)]
    outputs = [_logits(model.eval(), task.collate(inputs, rows, params)) for rows in batches]
    return tuple(_in_order(batches, parts) for parts in zip(*outputs, strict=True))


LABELS = ("labels", "start_positions", "end_positions")


def _logits(model: PreTrainedModel, batch: Batch) -> list[Floats]:
    with torch.inference_mode():
        output = model(**{name: tensor.to(model.device) for name, tensor in batch.items() if name not in LABELS})
    return [output[name].float().cpu().numpy() for name in output if name.endswith("logits")]


def _in_order(batches: Sequence[NDArray[np.integer[Any]]], parts: Sequence[Floats]) -> Floats:
    """The rows of all batches, each where it came from, as wide as the widest."""
    table = np.zeros((sum(map(len, batches)), max(part.shape[1] for part in parts)), np.float32)
    for rows, part in zip(batches, parts, strict=True):
        table[rows, : part.shape[1]] = part
    return table


def arguments(params: TrainingParams, output_dir: Path, workers: int = 1) -> TrainingArguments:
    """What Trainer is told. Each device takes the largest share of the effective batch that divides it
    and is no larger than `per_device_train_batch_size`; accumulation does the rest."""
    strategy = "steps" if params.eval_steps else "epoch"
    every = max(params.eval_steps, 1)
    per_device = device_batch(params.effective_batch_size, params.per_device_train_batch_size, workers)
    return TrainingArguments(
        output_dir=str(output_dir),
        seed=params.seed,
        learning_rate=params.learning_rate,
        lr_scheduler_type=params.lr_scheduler_type,
        warmup_steps=params.warmup_steps or params.warmup_ratio,
        weight_decay=params.weight_decay,
        max_grad_norm=params.max_grad_norm,
        bf16=params.bf16,
        num_train_epochs=params.num_train_epochs,
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=params.effective_batch_size // (per_device * workers),
        per_device_eval_batch_size=params.per_device_eval_batch_size,
        eval_strategy=strategy,
        save_strategy=strategy,
        logging_strategy=strategy,
        eval_steps=every,
        save_steps=every,
        logging_steps=every,
        logging_nan_inf_filter=False,  # a loss that is not finite must be seen, not averaged away
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
    )


def device_batch(effective: int, most: int, workers: int = 1) -> int:
    """The largest batch of at most `most` which a whole number of times, on each of `workers`, makes `effective`.

    >>> device_batch(24, 16)
    12

    Raises ValueError when the effective batch cannot be shared among the workers.
    """
    share, rest = divmod(effective, workers)
    if rest:
        raise ValueError(f"an effective batch of {effective} cannot be shared among {workers} workers")
    return max(size for size in range(1, min(most, share) + 1) if share % size == 0)


class Reporter(TrainerCallback):  # type: ignore[misc]
    """Reports an evaluation once its checkpoint is whole: Trainer logs, evaluates, then saves."""

    def __init__(
        self,
        evaluate: Callable[[Any], tuple[dict[str, float], list[dict[str, Any]]]],
        epochs: int,
        identity: Mapping[str, Any],
        workdir: Path,
        report: Report,
    ) -> None:
        self.evaluate = evaluate
        self.epochs = epochs
        self.identity = identity
        self.workdir = workdir
        self.report = report
        self.metrics: dict[str, float] = {}
        self.predictions: list[dict[str, Any]] = []
        self.train_loss = float("nan")

    def compute_metrics(self, output: EvalPrediction) -> dict[str, float]:
        metrics, self.predictions = self.evaluate(output.predictions)
        return metrics

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step >= state.max_steps:  # else the last evaluation has no train_loss beside it
            control.should_log = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **_: Any,
    ) -> None:
        self.train_loss = logs.get("loss", self.train_loss)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **_: Any,
    ) -> None:
        own = {key: value for key, value in metrics.items() if not key.endswith(("_per_second", "_runtime", "epoch"))}
        self.metrics = {key if key == "eval_loss" else key.removeprefix("eval_"): value for key, value in own.items()}

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        finished = state.global_step >= state.max_steps
        epoch = float(self.epochs) if finished else round(float(state.epoch or 0), 6)
        metrics = {
            **self.metrics,
            "train_loss": self.train_loss,
            "epoch": epoch,
            "step": float(state.global_step),
        }
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        checkpoint.write_json(folder / checkpoint.PREDICTIONS, self.predictions)
        checkpoint.write_json(folder / "metrics.json", metrics)
        checkpoint.write_json(folder / checkpoint.IDENTITY, self.identity)
        self.report(metrics, checkpoint.publish(folder, self.workdir, state.global_step))
