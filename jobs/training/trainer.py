"""A task and its params to a Hugging Face Trainer, and its evaluations to reports; a model to its logits.
Knows no job's input or metrics.

Several workers train as one would: they share every optimizer step's rows, and every evaluation's.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import (
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from jobs import checkpoint
from jobs.dataset.data import SAMPLE, read, vocabulary
from jobs.job import ParamError, Report
from jobs.model import backbones, dropout
from jobs.params import NO_GPUS, TrainingParams, check_workers, device_batch
from jobs.task import Task
from jobs.timing import START, TRAINING, phase
from jobs.training import workers

Batch = Mapping[str, torch.Tensor]
Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


class Share(NamedTuple):
    """One worker's batch, of an optimizer step's rows.

    weight  what the mean loss of its rows counts for, so that the mean over all workers of what a worker's batches
            of a step add up to is the mean loss of the step's rows
    """

    rows: Sequence[int]
    weight: float


WEIGHT = "weight"
UNFINISHED = "unfinished"  # the folder that Trainer writes to


class Inputs(Dataset[int]):  # type: ignore[misc]
    """Some inputs of a task by their numbers, and the function from numbers to a batch of tensors.

    PyTorch asks a dataset that has `__getitems__` for a whole batch at once, with what the batch sampler gives.
    """

    def __init__(self, numbers: Sequence[int], lengths: Ints, collate: Callable[[Sequence[int]], Batch]) -> None:
        self.numbers = numbers
        self.lengths = lengths
        self.collate = collate

    def __len__(self) -> int:
        return len(self.numbers)

    def batch(self, rows: Sequence[int] | Ints) -> Batch:
        return self.collate([int(self.numbers[row]) for row in rows])

    def __getitem__(self, row: int) -> Any:
        return self.batch([row])

    def __getitems__(self, share: Share) -> Mapping[str, Any]:
        return {**self.batch(share.rows), WEIGHT: share.weight}


def as_it_is(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """The collate function for Inputs, whose batches come collated."""
    return batch


POOL = 50  # batches that are sorted together, at most, as in Trainer's own way of grouping


def grouped(lengths: Ints, size: int, seed: int, epoch: int) -> Ints:
    """Every row once, so that each `size` in turn are alike in length, and the batches come in random order.

    Rows are shuffled, sorted within pools of batches, at least four pools where there are enough rows, and cut
    into batches. The incomplete batch is the last.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    pool = size * min(POOL, max(1, len(order) // (4 * size)))
    pools = [order[at : at + pool] for at in range(0, len(order), pool)]
    order = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in pools])
    whole = len(order) // size
    batches = order[: whole * size].reshape(whole, size)[rng.permutation(whole)]
    return np.concatenate([batches.ravel(), order[whole * size :]])


def shuffled(lengths: Ints, size: int, seed: int, epoch: int) -> Ints:
    """Every row once, in random order."""
    return np.random.default_rng([seed, epoch]).permutation(len(lengths))


ORDERS = {"group_by_length": grouped, "random": shuffled}


def shares(rows: Ints, most: int, count: int) -> list[list[Share]]:
    """The rows of one optimizer step for each of `count` workers, in as many batches each: of at most `most` rows,
    alike in size, each row once. A worker for which no row is left repeats one, which counts nothing."""
    parts = np.array_split(rows, count * -(-len(rows) // (most * count)))
    weighed = [
        Share(part.tolist() or rows[:1].tolist(), count * len(part) / len(rows))  # every worker steps as often
        for part in parts
    ]
    return [weighed[rank::count] for rank in range(count)]


class Shares(Sampler[Share]):  # type: ignore[misc]
    """One worker's batches of an epoch, of `order(epoch)` in steps of `size` rows. They depend on that alone, so that
    a training that goes on in the middle of an epoch sees the rest of it."""

    def __init__(
        self, order: Callable[[int], Ints], length: int, size: int, most: int, count: int = 1, rank: int = 0
    ) -> None:
        self.order = order
        self.length = length
        self.size = size
        self.most = most
        self.count = count
        self.rank = rank
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(self.length, self.size)
        at_once = self.most * self.count
        return whole * (self.size // at_once) - (-rest // at_once)

    def __iter__(self) -> Iterator[Share]:
        order = self.order(self.epoch)
        for at in range(0, len(order), self.size):
            yield from shares(order[at : at + self.size], self.most, self.count)[self.rank]


class Loader(DataLoader[Any]):  # type: ignore[misc]
    """A DataLoader whose batch sampler is told of epochs, as Trainer does it."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)


IN_CACHE = 1024  # tokens whose activations stay near a CPU: 32 inputs of 512 at once took 1.4 times as long


def budgeted(lengths: Ints, size: int, most: int | None = None) -> list[Ints]:
    """All rows, the longest first, in batches of as many tokens, with their padding, as `size` of the longest have;
    of `most` tokens where that is given and less, but one row at least."""
    order = np.argsort(-lengths, kind="stable")
    whole = size * int(lengths.max(initial=1))
    budget, at = min(whole, most or whole), 0
    batches: list[Ints] = []
    while at < len(order):
        batches.append(order[at : at + max(1, budget // int(lengths[order[at]]))])
        at += len(batches[-1])
    return batches


def evaluation_batches(lengths: Ints, size: int) -> list[Ints]:
    """`budgeted` for the device there is."""
    return budgeted(lengths, size, None if torch.cuda.is_available() else IN_CACHE)


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


def turns(batches: int, count: int, rank: int) -> list[int]:
    """The numbers of the batches that one of `count` workers evaluates. Each takes as many, since a sharded model
    gives its output to all or none: where there are too few, the last is taken more than once."""
    return [min(number, batches - 1) for number in range(rank, batches + -batches % count, count)]


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
        return Loader(
            self.train_dataset,
            batch_sampler=Shares(order, len(lengths), size, args.train_batch_size, count, args.process_index),
            collate_fn=as_it_is,
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
        own = turns(len(batches), workers.count(), workers.rank())
        parts = workers.gathered({number: self._step(batches[number]) for number in own})
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
        return float(loss), _arrays(outputs)

    def _judged(self, batches: Sequence[Ints], outputs: Mapping[int, tuple[float, list[Floats]]]) -> dict[str, float]:
        losses, logits = zip(*(outputs[number] for number in range(len(batches))), strict=True)
        loss = float(np.dot(losses, [len(rows) for rows in batches]) / len(self.eval_dataset))
        return {"loss": loss, **self.score(tuple(_in_order(batches, parts) for parts in zip(*logits, strict=True)))}


def train(
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
        trainer = prepared(task, params, data, workdir, report)
    with phase(TRAINING):
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    workers.once(lambda: shutil.rmtree(workdir / UNFINISHED, ignore_errors=True))


def prepared(task: Task, params: TrainingParams, data: str, workdir: Path, report: Report) -> BatchTrainer:
    """A Trainer with its model and data, for this worker among all of them."""
    workers.join()
    if params.fsdp:
        check_sharding(params, workers.count(), torch.cuda.is_available())
    set_seed(params.seed)
    dataset = read(data)
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
        args=arguments(params, unfinished, workers.count(), layer_classes(model)),
        data_collator=as_it_is,
        train_dataset=chosen(task, trained, task.trained(trained, params), params),
        eval_dataset=chosen(task, asked, range(len(asked)), params),
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


def chosen(task: Task, inputs: Any, numbers: Sequence[int], params: TrainingParams) -> Inputs:
    """Some of a task's inputs as Trainer takes them."""
    return Inputs(numbers, inputs.lengths()[list(numbers)], lambda rows: task.collate(inputs, rows, params))


def has_bf16() -> bool:
    """Whether the device that is trained on has bfloat16 products of its own."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def uses_bf16(params: TrainingParams) -> bool:
    """fp32, which is never less exact, takes the place of bf16 where the device would have to imitate it."""
    if params.bf16 and not has_bf16():
        logging.getLogger(__name__).warning("bf16 is not to be had on this device; fp32 takes its place")
    return params.bf16 and has_bf16()


def predict(task: Task, model: PreTrainedModel, inputs: Any, params: TrainingParams) -> tuple[Floats, ...]:
    """The model's logits for all inputs, in their order: arrays [inputs, positions], 0 beyond an input's own.

    Neighbours in length share a batch, so that little is padding; precision is that of the training.
    """
    batches = evaluation_batches(inputs.lengths(), params.per_device_eval_batch_size)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=uses_bf16(params)):
        outputs = [_logits(model.eval(), task.collate(inputs, rows, params)) for rows in batches]
    return tuple(_in_order(batches, parts) for parts in zip(*outputs, strict=True))


LABELS = ("labels", "start_positions", "end_positions")


def _logits(model: PreTrainedModel, batch: Batch) -> list[Floats]:
    with torch.inference_mode():
        output = model(**{name: tensor.to(model.device) for name, tensor in batch.items() if name not in LABELS})
    return _arrays(output)


def _arrays(output: Mapping[str, torch.Tensor]) -> list[Floats]:
    return [output[name].float().cpu().numpy() for name in output if name.endswith("logits")]


def _in_order(batches: Sequence[NDArray[np.integer[Any]]], parts: Sequence[Floats]) -> Floats:
    """The rows of all batches, each where it came from, as wide as the widest."""
    table = np.zeros((sum(map(len, batches)), max(part.shape[1] for part in parts)), np.float32)
    for rows, part in zip(batches, parts, strict=True):
        table[rows, : part.shape[1]] = part
    return table


def arguments(
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


class Reporter(TrainerCallback):  # type: ignore[misc]
    """Reports an evaluation once its checkpoint is whole: Trainer logs, evaluates, then saves.

    Rank 0 writes the checkpoint, and all report it.
    """

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

    def score(self, logits: tuple[Floats, ...]) -> dict[str, float]:
        """What `evaluate` makes of logits; a task with one kind of them is given the array itself."""
        metrics, self.predictions = self.evaluate(logits if len(logits) > 1 else logits[0])
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
        workers.wait()  # until each has put its random state into the folder
        self.report(
            metrics, workers.once(lambda: self._publish(Path(str(args.output_dir)), state.global_step, metrics))
        )

    def _publish(self, output_dir: Path, step: int, metrics: dict[str, float]) -> Path:
        folder = output_dir / f"checkpoint-{step}"
        checkpoint.write_json(folder / checkpoint.PREDICTIONS, self.predictions)
        checkpoint.write_json(folder / "metrics.json", metrics)
        checkpoint.write_json(folder / checkpoint.IDENTITY, self.identity)
        return checkpoint.publish(folder, self.workdir, step)
