"""Take training steps on a device that a test names, and compare them. Needs PyTorch and transformers, no Ray.

A test on a GPU has a twin on the CPU, which runs the same code and shows that it works.
"""

from __future__ import annotations

import gc
import json
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import IntervalStrategy, TrainerCallback

from jobs import get_job
from jobs.dataset.sample import sample_files
from jobs.params import TrainingParams
from jobs.training import trainer as training
from sweeper.cluster.gpus import VISIBLE, shown_gpus, survey_gpus, unusable_reason

BOTH = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))
CUDA_AND_LONG_CPU = (pytest.param("cpu", marks=pytest.mark.long), pytest.param("cuda", marks=pytest.mark.gpu))
JOBS_ON_BOTH = (  # on the CPU one of the jobs in the quick tier
    ("qa", "cpu"),
    *(pytest.param(name, "cpu", marks=pytest.mark.long) for name in ("mc", "longformer")),
    *(pytest.param(name, "cuda", marks=pytest.mark.gpu) for name in ("qa", "mc", "longformer")),
)
# Steps that leave the weights as they are. fp16 scales losses, at first so much that gradients may be infinite.
STEADY: dict[str, Any] = {"steps": 4, "learning_rate": 1e-9}
MODELS: list[weakref.ref[torch.nn.Module]] = []
JOINED = 8  # paragraphs of the sample in one of ours, which has some hundred characters
LENGTHS: dict[str, dict[str, Any]] = {
    "mc": {"max_length": 192},
    "qa": {"max_length": 192, "doc_stride": 32, "max_answer_length": 12},
    "longformer": {"max_length": 448, "doc_stride": 32, "attention_window": 64, "max_answer_length": 12},
}


def require_gpus(count: int = 1) -> None:
    """Skip the test if this machine has fewer GPUs. Fail it if PyTorch cannot use one that the machine shows."""
    shown = shown_gpus()
    if shown and (reason := unusable_reason(survey_gpus(), shown, os.environ.get(VISIBLE))):
        pytest.fail(reason)
    if shown < count:
        pytest.skip(f"needs {count} GPU{'s' if count > 1 else ''}; this machine shows {shown}")


@contextmanager
def computing_on(device: str) -> Iterator[None]:
    """Let trainings use this device: "cuda", or "cpu" also where there is a GPU."""
    # In accelerate 1.15 a process keeps the device that it used first.
    AcceleratorState._reset_state(reset_partial_state=True)
    with patch.object(torch.cuda, "is_available", torch.cuda.is_available if device == "cuda" else lambda: False):
        yield
    AcceleratorState._reset_state(reset_partial_state=True)


def write_long_questions(folder: Path, train: int = 12, valid: int = 4) -> str:
    """Write a data set with long paragraphs and return its location."""
    sample = sample_files()
    context = [" ".join(sample["context"][at : at + JOINED]) for at in range(0, len(sample["context"]), JOINED)]
    rows = [row for row in sample["train"] if row["relevant"] % JOINED == 0][: train + valid]
    assert len(rows) == train + valid
    for row in rows:
        row["relevant"] //= JOINED  # the paragraph comes first in the joined one, so that the answer stays where it is
        row["paragraphs"] = [(row["relevant"] + others) % len(context) for others in range(4)]
    folder.mkdir(exist_ok=True)
    for name, content in (("context", context), ("train", rows[:train]), ("valid", rows[train:])):
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return str(folder)


def small_params(name: str, **knobs: Any) -> TrainingParams:
    """Return the params of a job whose model drops nothing, so that devices can be compared."""
    small = {"backbone": "scratch:2x32x2", "seed": 7, "learning_rate": 1e-3, "effective_batch_size": 4}
    return get_job(name).params(**{**LENGTHS[name], **small, **knobs})  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Step:
    """Hold the loss and the gradients of an optimizer step, before the step, on the CPU."""

    loss: float
    gradients: dict[str, torch.Tensor]

    def apart(self, other: Step) -> tuple[float, float]:
        """Return the relative distances of the losses and of all gradients together. NaN stays NaN."""
        assert self.gradients.keys() == other.gradients.keys()
        mine, others = (torch.cat([one.gradients[name].flatten() for name in self.gradients]) for one in (self, other))
        far = (mine - others).norm() / others.norm()
        return abs(self.loss - other.loss) / abs(other.loss), float(far)

    def assert_close(self, other: Step, loss: float, gradient: float) -> None:
        """Fail if the distances are not below these limits; NaN is not."""
        losses, gradients = self.apart(other)
        assert losses < loss, f"losses {self.loss} and {other.loss} differ by {losses:.1e}, more than {loss:.1e}"
        assert gradients < gradient, f"gradients differ by {gradients:.1e}, more than {gradient:.1e}"


class GradientKeeper(TrainerCallback):  # type: ignore[misc]
    """Copy the gradients of a step."""

    def __init__(self) -> None:
        self.gradients: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, *_: Any, model: torch.nn.Module, **__: Any) -> None:
        named = model.named_parameters()
        self.gradients = {name: one.grad.double().cpu() for name, one in named if one.grad is not None}


def taken_step(name: str, data: str, folder: Path, device: str, steps: int = 1, **knobs: Any) -> Step:
    """Take the first optimizer steps of a training, as a trial takes them, and return the last one."""
    params = small_params(name, **{"max_grad_norm": 1e9, **knobs})
    folder.mkdir(parents=True, exist_ok=True)
    with computing_on(device):
        keeper = GradientKeeper()
        trainer = limited_trainer(name, params, data, folder, steps)
        trainer.add_callback(keeper)
        loss = trainer.train().training_loss
        assert next(trainer.model.parameters()).device.type == device
    return Step(float(loss), keeper.gradients)


def evaluated(name: str, data: str, folder: Path, device: str, **knobs: Any) -> dict[str, float]:
    """Return the metrics of a model that has not been trained."""
    folder.mkdir(parents=True, exist_ok=True)
    with computing_on(device):
        metrics: dict[str, float] = limited_trainer(name, small_params(name, **knobs), data, folder, 1).evaluate()
    return metrics


def limited_trainer(name: str, params: TrainingParams, data: str, folder: Path, steps: int) -> Any:
    """Return a trial's Trainer that takes so many steps and neither evaluates nor saves."""
    trainer = training.make_trainer(get_job(name).task, params, data, folder, lambda *_: None)  # type: ignore[arg-type]
    MODELS.append(weakref.ref(trainer.model))
    trainer.args.max_steps = steps
    for strategy in ("eval_strategy", "save_strategy", "logging_strategy"):
        setattr(trainer.args, strategy, IntervalStrategy.NO)
    return trainer


def living_models() -> int:
    """Return how many models of `limited_trainer` this process still holds, after freeing what nothing holds."""
    gc.collect()
    return sum(model() is not None for model in MODELS)
