"""A task and its params to a Hugging Face Trainer, and its evaluations to reports; a model to its logits.
Knows no job's input or metrics.

Several workers train as one would: they share every optimizer step's rows, and every evaluation's.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    Trainer,
    TrainerControl,
    TrainingArguments,
    set_seed,
)

from jobs.dataset.data import SAMPLE, read_data, vocabulary
from jobs.job import ParamError, Report
from jobs.model import backbones, dropout
from jobs.params import NO_GPUS, TrainingParams, check_workers, device_batch
from jobs.task import Task
from jobs.timing import START, TRAINING, phase
from jobs.training import workers
from jobs.training.batches import (
    ORDERS,
    WEIGHT,
    Batch,
    EpochLoader,
    Floats,
    InputDataset,
    Ints,
    WorkerSampler,
    evaluation_batches,
    keep_batch,
    restore_order,
    worker_turns,
)
from jobs.training.predict import logit_arrays, uses_bf16
from jobs.training.reporting import UNFINISHED, Reporter


def span_loss(outputs: Mapping[str, torch.Tensor], batch: Batch) -> torch.Tensor:
    """The mean cross-entropy of a row's start and end among its own positions. A model's own loss is among those of
    the padding too, so that it depends on which rows share a batch, and thus on how many workers there are."""
    padding = batch["attention_mask"] == 0
    start, end = (
        torch.nn.functional.cross_entropy(
            outputs[f"{edge}_logits"].float().masked_fill(padding, float("-inf")), batch[f"{edge}_positions"]
        )
        for edge in ("start", "end")
    )
    return (start + end) / 2


class BatchTrainer(Trainer):  # type: ignore[misc]
    """Trainer with training batches alike in length and evaluation batches alike in tokens.

    score    from the logits of all evaluation inputs, in their order, to metrics
    """

    control: TrainerControl
    loss_is_scaled_for_ga = True  # by the weight of each Share

    def __init__(self, *, score: Callable[[tuple[Floats, ...]], dict[str, float]], **options: Any) -> None:
        super().__init__(**options)
        self.score = score

    def get_train_dataloader(self) -> Any:
        args, count = self.args, self.args.world_size
        size = args.train_batch_size * args.gradient_accumulation_steps * count
        lengths = self.train_dataset.lengths
        order = partial(ORDERS[args.train_sampling_strategy], lengths, size, args.seed)
        return EpochLoader(
            self.train_dataset,
            batch_sampler=WorkerSampler(order, len(lengths), size, args.train_batch_size, count, args.process_index),
            collate_fn=keep_batch,
            pin_memory=args.dataloader_pin_memory,
        )

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean loss of a row times the batch's weight. Trainer's own count of items is not asked: it counts
        labels, which some models have and some have not."""
        weight = inputs.pop(WEIGHT, 1.0)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        if "start_positions" in inputs:
            loss = span_loss(outputs, inputs)
        return (loss * weight, outputs) if return_outputs else loss * weight

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """The mean loss of an input, and what `score` says; logged and told to callbacks as Trainer does it.

        The workers share the batches, each input is counted once, and rank 0 tells all of them the metrics.
        """
        with phase("evaluation"):
            return self._evaluated(metric_key_prefix)

    def _evaluated(self, prefix: str) -> dict[str, float]:
        self.model.eval()
        batches = evaluation_batches(self.eval_dataset.lengths, self.args.per_device_eval_batch_size)
        own = worker_turns(len(batches), workers.count(), workers.rank())
        parts = workers.gather_on_first({number: self._step(batches[number]) for number in own})
        metrics = workers.once(
            lambda: self._judged(batches, {number: one for part in parts for number, one in part.items()})
        )
        metrics = {f"{prefix}_{name}": value for name, value in metrics.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save_checkpoint(self, *args: Any, **options: Any) -> None:
        with phase("checkpoints"):
            super()._save_checkpoint(*args, **options)

    def _step(self, rows: Ints) -> tuple[float, list[Floats]]:
        batch = self._prepare_inputs(self.eval_dataset.batch(rows))
        with torch.no_grad():
            loss, outputs = self.compute_loss(self.model, batch, return_outputs=True)
        return float(loss), logit_arrays(outputs)

    def _judged(self, batches: Sequence[Ints], outputs: Mapping[int, tuple[float, list[Floats]]]) -> dict[str, float]:
        losses, logits = zip(*(outputs[number] for number in range(len(batches))), strict=True)
        loss = float(np.dot(losses, [len(rows) for rows in batches]) / len(self.eval_dataset))
        return {"loss": loss, **self.score(tuple(restore_order(batches, parts) for parts in zip(*logits, strict=True)))}


def run_training(
    task: Task,
    params: TrainingParams,
    data: str,
    workdir: Path,
    report: Report,
    resume_from: Path | None = None,
) -> None:
    """Train one model, and report after every evaluation, with a complete checkpoint; see jobs.job.Job.

    Raises ParamError where the params do not fit the number of workers.
    """
    with phase(START):
        trainer = make_trainer(task, params, data, workdir, report)
    with phase(TRAINING):
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    workers.once(lambda: shutil.rmtree(workdir / UNFINISHED, ignore_errors=True))


def make_trainer(task: Task, params: TrainingParams, data: str, workdir: Path, report: Report) -> BatchTrainer:
    """A Trainer with its model and data, for this worker among all of them."""
    workers.join_workers()
    if params.fsdp:
        check_sharding(params, workers.count(), torch.cuda.is_available())
    set_seed(params.seed)
    dataset = read_data(data)
    tokenizer = backbones.load_tokenizer(params.backbone, vocabulary(dataset))
    cache = workdir.parent / "features"
    with phase("features"):
        trained = task.inputs(params, tokenizer, dataset, dataset.train, cache)
        asked = task.inputs(params, tokenizer, dataset, dataset.valid, cache)
    unfinished = workdir / UNFINISHED
    workers.once(lambda: shutil.rmtree(unfinished, ignore_errors=True))
    identity = {
        "job": task.name,
        "params": asdict(params),
        "data": data if data == SAMPLE else str(Path(data).absolute()),
        "data_fingerprint": dataset.fingerprint,
    }
    reporter = Reporter(
        lambda logits: task.evaluate(asked, dataset, logits, params), params.num_train_epochs, identity, workdir, report
    )
    model = task.model(params, tokenizer)
    trainer = BatchTrainer(
        score=reporter.score,
        model=model if torch.cuda.is_available() else dropout.quicken(model),
        args=training_arguments(params, unfinished, workers.count(), layer_classes(model)),
        data_collator=keep_batch,
        train_dataset=input_dataset(task, trained, task.trained(trained, params), params),
        eval_dataset=input_dataset(task, asked, range(len(asked)), params),
        processing_class=tokenizer,
        compute_loss_func=task.loss,
        callbacks=[reporter],
    )
    if workers.rank():
        set_seed((params.seed + workers.rank()) % 2**32)  # workers drop different numbers, from the same weights
    return trainer


def check_sharding(params: TrainingParams, count: int, on_gpus: bool) -> None:
    """Raises ParamError where there is nothing to shard a model over. (accelerate shards on GPUs only, and trains
    without a word unsharded where there are none.)"""
    check_workers(params, count, None)
    if not on_gpus:
        raise ParamError("fsdp", NO_GPUS)


def layer_classes(model: torch.nn.Module) -> list[str]:
    """The names of the classes that a model is a stack of: what is sharded, and put together again, by itself."""
    stacks = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return sorted({type(layer).__name__ for stack in stacks for layer in stack})


def input_dataset(task: Task, inputs: Any, numbers: Sequence[int], params: TrainingParams) -> InputDataset:
    """Some of a task's inputs as Trainer takes them."""
    return InputDataset(numbers, inputs.lengths()[list(numbers)], lambda rows: task.collate(inputs, rows, params))


def training_arguments(
    params: TrainingParams, output_dir: Path, workers: int = 1, layers: Sequence[str] = ()
) -> TrainingArguments:
    """What Trainer is told. Each device takes the largest share of the effective batch that divides it
    and is no larger than `per_device_train_batch_size`; accumulation does the rest. `layers` are the classes that
    are sharded one by one, if any are.

    Raises ParamError when the effective batch cannot be shared among the workers.
    """
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
        bf16=uses_bf16(params),
        train_sampling_strategy=params.train_sampling_strategy,
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
        average_tokens_across_devices=False,  # a Share's weight sees to it
        ddp_find_unused_parameters=False,  # there are none, and looking for them takes time
        fsdp=params.fsdp or None,
        fsdp_config={"transformer_layer_cls_to_wrap": list(layers)} if params.fsdp else None,
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
    )
