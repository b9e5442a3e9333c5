"""The knobs every training job shares. Light: a search space is checked without importing torch.

Names are those of Hugging Face's TrainingArguments and its question-answering examples where they
have one. Bounds of a single knob stand in its annotation, relations between knobs in `__post_init__`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Le, Lt

from jobs.job import ParamError
from jobs.model.backbones import check_name, position_limit

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
Params = TypeVar("Params", bound="TrainingParams")
NO_GPUS = "fsdp shards a model over GPUs and these workers have none: leave it off"


def knob(default: Any, help: str) -> Any:
    """A dataclass field that carries its one-line explanation, as `HfArgumentParser` reads it."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class TrainingParams:
    backbone: str = knob("scratch:2x128x2", "hub name, local folder, or scratch:LAYERSxHIDDENxHEADS[@TOKENIZER]")
    seed: Annotated[int, Ge(0), Lt(2**32)] = knob(42, "weights that start random, order of the data, dropout")
    learning_rate: Annotated[float, Gt(0), Le(1)] = knob(3e-5, "peak of the schedule")
    lr_scheduler_type: LrSchedulerType = knob("linear", "shape of the schedule after warm-up")
    warmup_ratio: Annotated[float, Ge(0), Lt(1)] = knob(0.0, "share of all steps spent warming up")
    warmup_steps: Annotated[int, Ge(0)] = knob(0, "the same as a count; set one of the two")
    weight_decay: Annotated[float, Ge(0), Le(1)] = knob(0.0, "AdamW's, not applied to biases and norms")
    max_grad_norm: Annotated[float, Gt(0)] = knob(1.0, "gradients are clipped to this norm")
    bf16: bool = knob(False, "matrix products in bfloat16, on devices that have it; not every CPU gains by it")
    train_sampling_strategy: TrainSamplingStrategy = knob(
        "group_by_length", "batches of windows alike in length, with little padding, or drawn at random"
    )
    num_train_epochs: Annotated[int, Ge(1), Le(10_000)] = knob(3, "passes over the training questions")
    eval_steps: Annotated[int, Ge(0)] = knob(0, "evaluate every N optimizer steps; 0: after each epoch")
    effective_batch_size: Annotated[int, Ge(1), Le(65_536)] = knob(8, "windows per optimizer step, over all workers")
    per_device_train_batch_size: Annotated[int, Ge(1)] = knob(
        8, "most windows at once on a device; accumulation makes up the rest"
    )
    per_device_eval_batch_size: Annotated[int, Ge(1)] = knob(32, "windows at once on a device in evaluation")
    fsdp: bool = knob(False, "shard weights, gradients and optimizer over the workers' GPUs, for large backbones")

    def __post_init__(self) -> None:
        if mistake := check_name(self.backbone):
            raise ParamError("backbone", mistake)
        if self.warmup_ratio and self.warmup_steps:
            raise ParamError("warmup_steps", "set beside warmup_ratio: keep one of the two, drop the other")


def check_length(params: TrainingParams, max_length: int) -> None:
    """Raises ParamError when the backbone is known to read less than `max_length` tokens at once."""
    limit = position_limit(params.backbone)
    if limit is not None and limit < max_length:
        raise ParamError("max_length", f"{max_length} is more than the {limit} tokens that {params.backbone} reads")


def device_batch(effective: int, most: int, workers: int = 1) -> int:
    """The largest batch of at most `most` which a whole number of times, on each of `workers`, makes `effective`.

    >>> device_batch(24, 16)
    12

    Raises ParamError when the effective batch cannot be shared among the workers.
    """
    share, rest = divmod(effective, workers)
    if rest:
        raise ParamError(
            "effective_batch_size",
            f"an effective batch of {effective} cannot be shared among {workers} workers: use a multiple of {workers}",
        )
    return max(size for size in range(1, min(most, share) + 1) if share % size == 0)


def check_workers(params: TrainingParams, workers: int, gpus: float | None) -> None:
    """Raises ParamError when so many workers, with as many GPUs each, cannot share the training."""
    device_batch(params.effective_batch_size, params.per_device_train_batch_size, workers)
    if gpus is not None and gpus > 1:  # Trainer would take more than one for a larger batch
        raise ParamError("gpus", f"a worker of this job uses one GPU: write workers: {workers * gpus:g} and gpus: 1")
    if params.fsdp and workers == 1:
        raise ParamError("fsdp", "fsdp shards a model over several workers and there is one: leave it off")
    if params.fsdp and gpus == 0:
        raise ParamError("fsdp", NO_GPUS)


def smaller(params: Params, workers: int) -> Params | None:
    """The same training with half as much at once on a device, and the same effective batch; None where one
    thing at a time is trained and evaluated already."""
    train = device_batch(params.effective_batch_size, params.per_device_train_batch_size, workers)
    if train == params.per_device_eval_batch_size == 1:
        return None
    return replace(
        params,
        per_device_train_batch_size=max(1, train // 2),
        per_device_eval_batch_size=max(1, params.per_device_eval_batch_size // 2),
    )
