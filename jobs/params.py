"""Define the parameters that all training jobs share, without importing torch.

Names follow Hugging Face's TrainingArguments and its question-answering examples. The annotation of a parameter gives
its bounds; `__post_init__` verifies parameters against each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Le, Lt

from jobs.backbone.names import check_name
from jobs.backbone.positions import position_limit
from jobs.job import DEFINES_METRICS, MEMORY_ONLY, REPLACED_BY, STANDS_FOR, ParamError

LrSchedulerType = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
]

TrainSamplingStrategy = Literal["group_by_length", "random"]

MetricProfile = Literal["strict", "drcd", "cmrc2018"]
Precision = Literal["auto", "bf16", "fp16", "tf32", "fp32"]
Optimizer = Literal["adamw_torch_fused", "adamw_torch", "adafactor"]
BatchSize = Annotated[int, Ge(1)] | Literal["auto"]
Params = TypeVar("Params", bound="TrainingParams")
AUTO = "auto"
TRAIN_BATCH, EVALUATION_BATCH = "per_device_train_batch_size", "per_device_eval_batch_size"
ACCUMULATED = "gradient accumulation reaches the effective batch size"
NO_GPUS = "fsdp shards a model over GPUs and these workers have none: set fsdp to false"


def knob(
    default: Any,
    help: str,
    defines_metrics: bool = False,
    *,
    memory_only: bool = False,
    stands_for: Any = ...,
    replaced_by: str | None = None,
) -> Any:
    """Return a dataclass field with a one-line help text in its metadata, where `HfArgumentParser` expects it.

    defines_metrics  the parameter changes what a metric means. All trials of a sweep have the same value of it, since
                     their scores could not be compared otherwise
    memory_only      the parameter changes memory and time, and no result
    stands_for       value that the default has in the keys of trials, so that trials of an earlier version keep their
                     keys; None leaves a default out, for a parameter that the earlier version did not have
    replaced_by      name of the parameter to use instead; then only files of an earlier version have this one
    """
    marks = {DEFINES_METRICS: defines_metrics, MEMORY_ONLY: memory_only, REPLACED_BY: replaced_by}
    known = {} if stands_for is ... else {STANDS_FOR: stands_for}
    return field(default=default, metadata={"help": help, **{k: v for k, v in marks.items() if v}, **known})


@dataclass(frozen=True, kw_only=True)
class TrainingParams:
    """Hold the parameters of one training; jobs add their own. Raises ParamError for values that do not fit."""

    backbone: str = knob("scratch:2x128x2", "hub name, local folder, or scratch:LAYERSxHIDDENxHEADS[@TOKENIZER]")
    seed: Annotated[int, Ge(0), Lt(2**32)] = knob(42, "seed of random weights, order of the data and dropout")
    learning_rate: Annotated[float, Gt(0), Le(1)] = knob(3e-5, "highest learning rate of the schedule")
    lr_scheduler_type: LrSchedulerType = knob("linear", "shape of the learning rate schedule after warm-up")
    warmup_ratio: Annotated[float, Ge(0), Lt(1)] = knob(0.0, "share of all steps spent warming up")
    warmup_steps: Annotated[int, Ge(0)] = knob(0, "number of warm-up steps; set this or warmup_ratio")
    weight_decay: Annotated[float, Ge(0), Le(1)] = knob(0.0, "weight decay of AdamW, not applied to biases and norms")
    max_grad_norm: Annotated[float, Gt(0)] = knob(1.0, "clip gradients to this norm")
    precision: Precision = knob(
        "auto", "numbers of the matrix products; auto: the fastest of the device that trains as well", stands_for=None
    )
    bf16: bool | None = knob(None, "bf16 or fp32, as earlier versions", stands_for=False, replaced_by="precision")
    optim: Optimizer = knob("adamw_torch_fused", "optimizer", stands_for=None)
    torch_compile: bool = knob(False, "compile the model: minutes at first, then faster steps", stands_for=None)
    gradient_checkpointing: bool = knob(
        False,
        "compute activations again in the backward pass: less memory, more time",
        memory_only=True,
        stands_for=None,
    )
    train_sampling_strategy: TrainSamplingStrategy = knob(
        "group_by_length", "group windows of similar length into batches to save padding, or draw them at random"
    )
    num_train_epochs: Annotated[int, Ge(1), Le(10_000)] = knob(3, "passes over the training questions")
    eval_steps: Annotated[int, Ge(0)] = knob(0, "evaluate every N optimizer steps; 0: after each epoch")
    effective_batch_size: Annotated[int, Ge(1), Le(65_536)] = knob(8, "windows per optimizer step, over all workers")
    per_device_train_batch_size: BatchSize = knob(
        "auto", f"largest batch on a device; {ACCUMULATED}; auto: 8, on a GPU what fits", memory_only=True, stands_for=8
    )
    per_device_eval_batch_size: BatchSize = knob(
        "auto",
        "largest batch on a device in evaluation; auto: 32, on a GPU what fits",
        memory_only=True,
        stands_for=32,
    )
    fsdp: bool = knob(False, "shard weights, gradients and optimizer over the workers' GPUs, for large backbones")

    def __post_init__(self) -> None:
        if mistake := check_name(self.backbone):
            raise ParamError("backbone", mistake)
        if self.warmup_ratio and self.warmup_steps:
            raise ParamError("warmup_steps", "set together with warmup_ratio: keep one of the two")
        if self.torch_compile and self.fsdp:
            raise ParamError(
                "torch_compile", "set together with fsdp: a sharded model is not compiled; keep one of the two"
            )
        if self.bf16 is not None and self.precision != "auto":
            raise ParamError("bf16", "set together with precision, which replaces it: leave bf16 out")


def check_length(params: TrainingParams, max_length: int) -> None:
    """Verify that the backbone reads `max_length` tokens, if its limit is known. Raises ParamError if not."""
    limit = position_limit(params.backbone)
    if limit is not None and limit < max_length:
        raise ParamError("max_length", f"{max_length} is more than the {limit} tokens that {params.backbone} reads")


def device_batch(effective: int, most: int, workers: int = 1) -> int:
    """Return the largest batch size per device up to `most` that divides each worker's share of the effective batch.

    >>> device_batch(24, 16)
    12

    Raises ParamError when `effective` is not a multiple of `workers`.
    """
    part, rest = divmod(effective, workers)
    if rest:
        raise ParamError(
            "effective_batch_size",
            f"an effective batch of {effective} cannot be divided among {workers} workers: use a multiple of {workers}",
        )
    return max(size for size in range(1, min(most, part) + 1) if part % size == 0)


def batch_size(params: TrainingParams, name: str) -> int:
    """Return a batch size of the params. `auto` stands for the number that earlier versions had as default."""
    size = getattr(params, name)
    known = {one.name: one.metadata.get(STANDS_FOR) for one in fields(params)}
    return int(known[name] if size == AUTO else size)  # type: ignore[arg-type]


def train_batch(params: TrainingParams, workers: int = 1) -> int:
    """Return the batch size per device in training. Raises ParamError if the effective batch cannot be divided."""
    return device_batch(params.effective_batch_size, batch_size(params, TRAIN_BATCH), workers)


def check_workers(params: TrainingParams, workers: int, gpus: float | None) -> None:
    """Verify that the params fit this number of workers with `gpus` GPUs each. Raises ParamError if not."""
    train_batch(params, workers)
    if gpus is not None and gpus > 1:  # Trainer would multiply the batch size by the number of GPUs
        raise ParamError("gpus", f"a worker of this job uses one GPU: write workers: {workers * gpus:g} and gpus: 1")
    if params.fsdp and workers == 1:
        raise ParamError("fsdp", "fsdp shards a model over several workers and there is one: set fsdp to false")
    if params.fsdp and gpus == 0:
        raise ParamError("fsdp", NO_GPUS)


def smaller(params: Params, workers: int) -> Params | None:
    """Return params for the same training with less memory: with half the batch size per device, or, if both batch
    sizes are 1 already, with activations that are computed again.

    Returns None when nothing is left to change.
    """
    train, evaluation = train_batch(params, workers), batch_size(params, EVALUATION_BATCH)
    if train == evaluation == 1:
        return None if params.gradient_checkpointing else _recomputing(params)
    return replace(
        params,
        per_device_train_batch_size=max(1, train // 2),
        per_device_eval_batch_size=max(1, evaluation // 2),
    )


def _recomputing(params: Params) -> Params | None:
    from jobs.model.recomputation import can_recompute  # imports transformers

    return replace(params, gradient_checkpointing=True) if can_recompute(params.backbone) else None
