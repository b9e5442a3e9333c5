"""A training step keeps all of its tensors on the model's device, which stands for a GPU and is pretended."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from jobs import JOBS, get_job
from jobs.backbone import tokenizers
from jobs.dataset.data import Data, read_data
from jobs.model.recomputation import recompute_activations
from jobs.task import Task
from jobs.training.arguments import training_arguments
from jobs.training.batches import FACTS, keep_batch
from jobs.training.trainer import BatchTrainer, input_dataset
from tests.support import zoo
from tests.support.pretended import DEVICE, pretended_device
from tests.support.spaces import SMALL

UNSUITED = ("mra", "xlm", "flaubert", "canine", "roc_bert", "gpt2", "qwen2", "llama")  # no job takes them
# They ask the device for numbers in each job, so that nothing shows their other operations.
ASKING = ("ibert", "xmod", "xlm-bert-vocabulary", "flaubert-bert-vocabulary", "led")
MIXED = "on the same device|at least two devices"


def step(
    name: str, data: Data, folder: Path, change: Callable[[torch.nn.Module], Any] | None = None,
    task: Task | None = None, **knobs: Any,
) -> set[str]:  # fmt: skip
    """Compute the loss and the gradients of one batch on a pretended device; return where the gradients are.

    change  called with the model before the step
    task    in place of the job's own
    A model that asks the device for numbers raises.
    """
    job = get_job(name)
    params = job.params(**{"backbone": "scratch:1x32x2", **SMALL[name], **knobs})
    task = task or job.task
    assert task is not None
    tokenizer = tokenizers.load_tokenizer(params.backbone, data.paragraphs)
    inputs = task.inputs(params, tokenizer, data, data.train[:3], folder / "cache")
    dataset = input_dataset(task, inputs, range(len(inputs)), params)
    batch, model = dict(dataset.told_batch(range(3))), task.model(params, tokenizer)
    if params.gradient_checkpointing:
        recompute_activations(model, params.backbone)
    trainer = BatchTrainer(
        score=lambda _: {}, model=model, args=training_arguments(params, folder), data_collator=keep_batch,
        train_dataset=dataset, eval_dataset=dataset, compute_loss_func=task.loss,
    )  # fmt: skip
    facts = batch.pop(FACTS)
    with pretended_device() as device:
        device.move(model)
        if change:
            change(model)
        loss = trainer.compute_loss(model.train(), {**device.moved(batch), FACTS: facts})
        assert loss.device.type == DEVICE
        loss.backward()
    return {str(weight.grad.device) for weight in model.parameters() if weight.grad is not None}


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", sorted(JOBS))
def test_forward_loss_and_backward_stay_on_the_models_device(
    name: str, recompute: bool, few: Data, tmp_path: Path
) -> None:
    assert step(name, few, tmp_path, gradient_checkpointing=recompute) == {DEVICE}


def forward_elsewhere(model: torch.nn.Module) -> None:
    def add(module: Any, args: Any, states: torch.Tensor) -> torch.Tensor:
        return states + torch.zeros(states.shape)

    model.get_input_embeddings().register_forward_hook(add)


class ElsewhereInBackward(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, states: torch.Tensor) -> torch.Tensor:
        return states.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * torch.ones(gradient.shape)


def backward_elsewhere(model: torch.nn.Module) -> None:
    model.get_input_embeddings().register_forward_hook(lambda module, args, states: ElsewhereInBackward.apply(states))


@pytest.mark.parametrize("change", [forward_elsewhere, backward_elsewhere])
@pytest.mark.parametrize("name", sorted(JOBS))
def test_a_tensor_made_on_the_cpu_by_a_model_is_found(
    name: str, change: Callable[..., Any], few: Data, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match=MIXED):
        step(name, few, tmp_path, change)


@pytest.mark.parametrize("name", sorted(JOBS))
def test_a_tensor_made_on_the_cpu_by_a_loss_is_found(name: str, few: Data, tmp_path: Path) -> None:
    task = get_job(name).task
    assert task is not None

    def elsewhere(*args: Any, **options: Any) -> Any:
        loss = task.loss(*args, **options) if task.loss else args[0]["loss"]
        return loss * torch.ones(1)

    changed = dataclasses.replace(task, loss=elsewhere)
    mixed = patch("jobs.training.trainer.span_loss", lambda outputs, _: outputs["start_logits"] * torch.ones(1, 1))
    with mixed, pytest.raises(RuntimeError, match=MIXED):
        step(name, few, tmp_path, task=changed)


@pytest.mark.parametrize("name", ["mc", "qa"])
def test_a_step_that_waits_for_the_device_is_found(name: str, few: Data, tmp_path: Path) -> None:
    def wait(model: torch.nn.Module) -> None:
        model.get_input_embeddings().register_forward_hook(lambda module, args, states: states * float(states.sum()))

    with pytest.raises(DataDependentOutputException):
        step(name, few, tmp_path, wait)


@pytest.mark.long
@pytest.mark.parametrize("kind", [kind for kind in zoo.KINDS if kind not in UNSUITED])
def test_no_architecture_mixes_devices(kind: str, tmp_path: Path) -> None:
    from tests.support.matrix import PARAMS, write_questions  # imports Ray

    (tmp_path / "data").mkdir()
    data = read_data(str(write_questions(tmp_path / "data")))
    backbone, shown = zoo.build(kind, tmp_path / kind), 0
    for name in JOBS:
        if name == "mc" and kind in ("splinter", "led"):  # they have no head that scores candidates
            continue
        try:
            shown += step(name, data, tmp_path, backbone=backbone, **PARAMS[name]) == {DEVICE}
        except (DataDependentOutputException, DynamicOutputShapeException):
            shown += kind in ASKING
    assert shown


def test_the_kinds_that_ask_the_device_for_numbers_are_in_the_zoo() -> None:
    assert {*UNSUITED, *ASKING} <= {*zoo.KINDS}
