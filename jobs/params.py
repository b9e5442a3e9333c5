"""The knobs every training job shares. Light: a search space is checked without importing torch.

Names are those of Hugging Face's TrainingArguments and its question-answering examples where they
have one. Bounds of a single knob stand in its annotation, relations between knobs in `__post_init__`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from jobs.backbones import check_name
from jobs.job import ParamError

LrSchedulerType = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
]

MetricProfile = Literal["strict", "drcd", "cmrc2018"]


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
    bf16: bool = knob(False, "matrix products in bfloat16, on devices that have it; CPUs with AVX512-BF16 too")
    num_train_epochs: Annotated[int, Ge(1), Le(10_000)] = knob(3, "passes over the training questions")
    eval_steps: Annotated[int, Ge(0)] = knob(0, "evaluate every N optimizer steps; 0: after each epoch")
    effective_batch_size: Annotated[int, Ge(1), Le(65_536)] = knob(8, "windows per optimizer step, over all workers")
    per_device_train_batch_size: Annotated[int, Ge(1)] = knob(
        8, "most windows at once on a device; accumulation makes up the rest"
    )
    per_device_eval_batch_size: Annotated[int, Ge(1)] = knob(32, "windows at once on a device in evaluation")

    def __post_init__(self) -> None:
        if mistake := check_name(self.backbone):
            raise ParamError("backbone", mistake)
        if self.warmup_ratio and self.warmup_steps:
            raise ParamError("warmup_steps", "set beside warmup_ratio: keep one of the two, drop the other")
