"""Train a Task with Hugging Face's Trainer and report its evaluations.

Several workers train one model as a single worker would: they divide the rows of each optimizer step and of each
evaluation among them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from transformers import Trainer, TrainerControl, set_seed
from transformers.utils import SAFE_WEIGHTS_NAME

from jobs.backbone import tokenizers
from jobs.checkpoint import UNFINISHED, CheckpointError, has_state
from jobs.dataset.data import SAMPLE, read_data, vocabulary
from jobs.job import ParamError, Report
from jobs.model import dropout
from jobs.model.facts import known_facts
from jobs.model.padding import padded_lengths
from jobs.model.recomputation import recompute_activations
from jobs.params import NO_GPUS, TrainingParams, check_workers
from jobs.task import Task
from jobs.timing import START, TRAINING, phase
from jobs.training import workers
from jobs.training.ahead import AHEAD, Ahead
from jobs.training.arguments import layer_classes, leaves_unused, training_arguments
from jobs.training.batches import (
    FACTS,
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
    pinned_batch,
    restore_order,
    worker_turns,
)
from jobs.training.conditions import record_conditions
from jobs.training.memory.device import device_memory
from jobs.training.memory.fitting import Fitting, agreed_sizes, with_sizes
from jobs.training.precision import FP32, UsedPrecision, computing_in, this_device, training_precision
from jobs.training.predict import Outputs, disable_cudnn_attention, logits_of
from jobs.training.reporting import Reporter

COMPILER = "inductor"  # torch's own; it needs a C++ compiler on a CPU and a C compiler on a GPU


def span_loss(outputs: Mapping[str, torch.Tensor], batch: Batch) -> torch.Tensor:
    """Return the mean cross-entropy of start and end positions, with padding excluded.

    The loss of a transformers model includes padding positions in the softmax. Padding depends on the other rows of the
    batch, so that loss would change with the number of workers.
    """
    padding = batch["attention_mask"] == 0
    start, end = (
        torch.nn.functional.cross_entropy(
            outputs[f"{edge}_logits"].float().masked_fill(padding, float("-inf")), batch[f"{edge}_positions"]
        )
        for edge in ("start", "end")
    )
    return (start + end) / 2


class BatchTrainer(Trainer):  # type: ignore[misc]
    """Train in batches of similar length and evaluate in batches with a limited number of tokens.

    `score` returns the metrics of the logits of all evaluation inputs, in their order. `stored` returns the model of a
    checkpoint's folder; it is needed to resume. `precision` is that of the arguments.
    """

    control: TrainerControl
    noting_shortages: Callable[[], AbstractContextManager[None]] = nullcontext
    loss_is_scaled_for_ga = True  # tells Trainer that compute_loss scales the loss, by the weight of each WorkerBatch

    def __init__(
        self,
        *,
        score: Callable[[tuple[Floats, ...]], dict[str, float]],
        stored: Callable[[str], torch.nn.Module] | None = None,
        precision: UsedPrecision = FP32,
        delivering: Callable[[], AbstractContextManager[None]] = nullcontext,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.score = score
        self.delivering = delivering
        self.stored = stored
        self.precision = precision
        self.ahead: Ahead[Any] = Ahead(iter(()), 0)

    def train(self, *args: Any, **options: Any) -> Any:
        with computing_in(self.precision), closing(self), self.delivering():
            return super().train(*args, **options)

    def close(self) -> None:
        """End the thread that prepares batches."""
        self.ahead.close()

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

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> tuple[list[Any], None]:
        """Return the next batches and prepare others in a thread.

        Trainer would also count the labels and copy their number to the device, for which the host waits.
        """
        if epoch_iterator is not self.ahead.source:
            self.ahead.close()
            self.ahead = Ahead(epoch_iterator, num_batches + AHEAD)
        return list(islice(self.ahead, num_batches)), None

    def floating_point_ops(self, inputs: Any) -> int:
        """Return 0: Trainer would count all parameters of the model for each batch."""
        return 0

    def _prepare_input(self, data: Any) -> Any:
        # Private in transformers 5.24, whose copy makes the host wait until the GPU has finished all its work. Pinned
        # memory is not used again before the copy is done: PyTorch's allocator sees to it.
        if isinstance(data, torch.Tensor):
            return data.to(self.args.device, non_blocking=True)
        return super()._prepare_input(data)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the mean loss of the batch's rows times the batch's weight.

        Trainer's `num_items_in_batch` is ignored: it counts labels, and only some tasks have a key `labels`.
        """
        weight = inputs.pop(WEIGHT, 1.0)
        with known_facts(self.model, inputs.pop(FACTS, None)):
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        if "start_positions" in inputs:
            loss = span_loss(outputs, inputs)
        return (loss * weight, outputs) if return_outputs else loss * weight

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Return `eval_loss` (the mean loss per input) and the metrics of `score`. Log them and inform callbacks.

        The workers divide the batches among them. Each input counts once. Rank 0 sends the metrics to all ranks.
        """
        with phase("evaluation"):
            return self._evaluate_all()

    def _evaluate_all(self) -> dict[str, float]:
        self.model.eval()
        lengths = padded_lengths(self.model, self.eval_dataset.lengths)
        batches = evaluation_batches(lengths, self.args.per_device_eval_batch_size)
        own = worker_turns(len(batches), workers.count(), workers.rank())
        outputs = Outputs()
        with closing(
            Ahead((pinned_batch(self.eval_dataset.told_batch(batches[number])) for number in own), AHEAD)
        ) as ahead:
            for batch in ahead:
                outputs.add(self._evaluate_batch(batch))
        parts = workers.gather_on_first(dict(zip(own, outputs.arrays(), strict=True)))
        metrics = workers.once(
            lambda: self._mean_metrics(batches, {number: one for part in parts for number, one in part.items()})
        )
        # The metrics keep the names that the job declares; Trainer's own `evaluate` would prefix them with "eval_".
        # `log` adds `epoch` to its argument (transformers 5.23), so it gets a copy.
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save_checkpoint(self, *args: Any, **options: Any) -> None:
        # Private in transformers 5.24, overridden to measure the time: no public method covers saving alone. No trial
        # resumes from its last checkpoint, so that one is written without training state.
        self.args.save_only_model = self.state.global_step >= self.state.max_steps
        with phase("checkpoints"):
            super()._save_checkpoint(*args, **options)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # Private in transformers 5.24, which skips weights whose names in the file are not the model's. But
        # `save_pretrained` writes the names of the backbone's files, such as LayerNorm.gamma of bert-base-chinese.
        loaded = self.model if model is None else model
        if self.stored and not self.is_fsdp_enabled and has_other_names(Path(resume_from_checkpoint), loaded):
            loaded.load_state_dict(self.stored(resume_from_checkpoint).state_dict())
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _evaluate_batch(self, batch: Mapping[str, Any]) -> list[torch.Tensor]:
        """Return the loss of a batch, then its logits."""
        # Private in transformers 5.23: no public method moves a batch to the device as a training step does.
        with torch.no_grad():
            loss, outputs = self.compute_loss(self.model, self._prepare_inputs(dict(batch)), return_outputs=True)
        return [loss, *logits_of(outputs)]

    def _mean_metrics(self, batches: Sequence[Ints], outputs: Mapping[int, list[Floats]]) -> dict[str, float]:
        losses, *logits = zip(*(outputs[number] for number in range(len(batches))), strict=True)
        loss = float(np.dot([float(one) for one in losses], [len(rows) for rows in batches]) / len(self.eval_dataset))
        return {
            "eval_loss": loss,
            **self.score(tuple(restore_order(batches, parts) for parts in logits)),
        }


def has_other_names(checkpoint: Path, model: torch.nn.Module) -> bool:
    """Return True if a checkpoint's file has weights under names that the model does not have."""
    file = checkpoint / SAFE_WEIGHTS_NAME
    if not file.is_file():
        return False
    with safe_open(file, "pt") as weights:
        return not set(weights.keys()) <= set(model.state_dict())


@computing_in(FP32)  # and so reset at the end what Trainer sets for a compiled model
def run_training(
    task: Task,
    params: TrainingParams,
    data: str,
    workdir: Path,
    report: Report,
    resume_from: Path | None = None,
) -> None:
    """Train one model and report every evaluation with a complete checkpoint; called by `jobs.training.train`.

    Raises ParamError when the params do not fit the number of workers, CheckpointError for a checkpoint without
    training state.
    """
    if resume_from:
        refuse_without_state(resume_from)
    with phase(START):
        trainer = make_trainer(task, params, data, workdir, report)
    with phase(TRAINING), trainer.noting_shortages():
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    workers.once(lambda: shutil.rmtree(workdir / UNFINISHED, ignore_errors=True))


def refuse_without_state(checkpoint: Path) -> None:
    """Raise CheckpointError for a checkpoint without training state: Trainer would go on with a new optimizer."""
    if not has_state([path.name for path in checkpoint.iterdir()]):
        raise CheckpointError(
            f"{checkpoint}: has no training state, because its training has ended; resume from an earlier checkpoint"
        )


def make_trainer(task: Task, params: TrainingParams, data: str, workdir: Path, report: Report) -> BatchTrainer:
    """Return this worker's Trainer with model and data, ready to train."""
    disable_cudnn_attention()
    workers.join_workers()
    if params.fsdp:
        check_sharding(params, workers.count(), torch.cuda.is_available())
    precision = agreed_precision(params)
    set_seed(params.seed)
    dataset = read_data(data)
    tokenizer = tokenizers.load_tokenizer(params.backbone, vocabulary(dataset))
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
        lambda logits: task.evaluate(asked, dataset, logits, params),
        params.num_train_epochs,
        identity,
        tokenizer,
        workdir,
        report,
    )
    model = task.model(params, tokenizer)
    if params.gradient_checkpointing:
        recompute_activations(model, params.backbone)
    layers, unused = layer_classes(model), leaves_unused(model)
    make = partial(
        BatchTrainer,
        score=reporter.score,
        stored=lambda folder: task.model(replace(params, backbone=folder), tokenizer),
        model=made_fast(model, params.torch_compile),
        precision=precision,
        delivering=reporter.delivering,
        data_collator=keep_batch,
        train_dataset=input_dataset(task, trained, task.trained(trained, params), params),
        eval_dataset=input_dataset(task, asked, range(len(asked)), params),
        compute_loss_func=task.loss,
        callbacks=[reporter],
    )
    trainer = fitting_trainer(
        lambda fit: make(args=training_arguments(fit, unfinished, workers.count(), layers, unused, precision)),
        task.name,
        params,
    )
    if workers.rank():
        # All workers have built equal weights with the same seed. From here on, dropout must differ between them.
        set_seed((params.seed + workers.rank()) % 2**32)
    return trainer


def made_fast(model: Any, compiled: bool) -> Any:
    """Return the model as this machine trains it fastest: compiled if asked for, else on CPUs with quick dropout.

    A model is compiled in place, so that its weights keep their names, and for batches of any size and length.
    """
    if compiled:
        model.compile(dynamic=True, backend=COMPILER)
        return model
    return model if torch.cuda.is_available() else dropout.quicken(model)


def fitting_trainer(make: Callable[[TrainingParams], BatchTrainer], job: str, params: TrainingParams) -> BatchTrainer:
    """Return the Trainer that `make` gives with the batch sizes that fit into the memory of all workers' devices.

    Raises TooLittleMemory if not even one input fits.
    """
    trainer = make(params)
    model = trainer.model
    fitting = Fitting(job, params, device_memory(trainer, params), workers.count())
    sizes = agreed_sizes(fitting)
    if fitting.memory:
        fit = with_sizes(params, sizes)
        if fit.gradient_checkpointing:
            recompute_activations(model, params.backbone)
        trainer = make(fit)
    trainer.noting_shortages = partial(fitting.noting_shortages, sizes, lambda: model.training)
    return trainer


def agreed_precision(params: TrainingParams) -> UsedPrecision:
    """Return the precision of all workers, whose devices may differ, and record it with the devices.

    Raises ParamError if the device of a worker lacks the precision that the params demand.
    """
    found = workers.gather_on_first(this_device())
    devices = workers.once(lambda: found)
    precision = training_precision(params, devices)
    record_conditions(precision=precision.name, device=", ".join(dict.fromkeys(device.name for device in devices)))
    return precision


def check_sharding(params: TrainingParams, count: int, on_gpus: bool) -> None:
    """Verify that there are several workers with GPUs to shard a model over. Raises ParamError if not.

    Without GPUs, accelerate would train unsharded and give no warning.
    """
    check_workers(params, count, None)
    if not on_gpus:
        raise ParamError("fsdp", NO_GPUS)


def input_dataset(task: Task, inputs: Any, numbers: Sequence[int], params: TrainingParams) -> InputDataset:
    """Wrap some of a task's inputs in a dataset for Trainer."""
    counts = inputs.counts()[list(numbers)] if hasattr(inputs, "counts") else None
    return InputDataset(
        numbers, inputs.lengths()[list(numbers)], lambda rows: task.collate(inputs, rows, params), counts
    )
