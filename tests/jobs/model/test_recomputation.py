"""Activations computed again in the backward pass give the same gradients, also with dropout and among workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from jobs import JOBS, get_job
from jobs.backbone.source import BackboneError
from jobs.backbone.tokenizers import load_tokenizer
from jobs.dataset.data import Data
from jobs.model import dropout
from jobs.model.recomputation import recompute_activations
from tests.support import matrix
from tests.support.spaces import SMALL
from tests.support.zoo import build

Gradients = dict[str, torch.Tensor]


def built(name: str, backbone: str, data: Data, folder: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    """Return a job's model with quick dropout, in training, and a batch of two inputs."""
    job = get_job(name)
    assert job.task is not None
    params = job.params(backbone=backbone, **SMALL[name])
    tokenizer = load_tokenizer(backbone, ())
    inputs = job.task.inputs(params, tokenizer, data, data.train[:2], folder / "cache")
    torch.manual_seed(0)
    return dropout.quicken(job.task.model(params, tokenizer)).train(), dict(job.task.collate(inputs, [0, 1], params))


def gradients(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> Gradients:
    """Return the gradients of a sum of all logits, and what chance gives afterwards."""
    model.zero_grad()
    torch.manual_seed(5)
    outputs = model(**{key: value for key, value in batch.items() if key != "labels"})
    sum(value.square().mean() for key, value in outputs.items() if key.endswith("logits")).backward()
    found = {key: value.grad.clone() for key, value in model.named_parameters() if value.grad is not None}
    return {**found, "chance": torch.rand(1)}


@pytest.mark.parametrize("name", JOBS)
def test_gradients_and_dropout_stay(name: str, few: Data, tmp_path: Path) -> None:
    backbone = build("bert", tmp_path / "bert")
    model, batch = built(name, backbone, few, tmp_path)
    before, other = gradients(model, batch), gradients(model.eval(), batch)
    assert not all(torch.equal(before[key], other[key]) for key in before)  # there is dropout
    counted = []
    layer = next(module for module in model.modules() if "Layer" in type(module).__name__ and list(module.children()))
    layer.register_forward_hook(lambda *_: counted.append(1))
    recompute_activations(model.train(), backbone)
    again = gradients(model, batch)
    assert before.keys() == again.keys()
    assert len(counted) == 1  # the hooks of a layer do not run again
    for key, value in before.items():
        torch.testing.assert_close(again[key], value, rtol=1e-5, atol=1e-6)


def test_a_layer_is_computed_twice_in_training_and_once_in_evaluation(few: Data, tmp_path: Path) -> None:
    backbone = build("bert", tmp_path / "bert")
    model, batch = built("qa", backbone, few, tmp_path)
    counted: list[int] = []
    model.bert.encoder.layer[0].intermediate.register_forward_hook(lambda *_: counted.append(1))
    gradients(model, batch)
    assert len(counted) == 1
    recompute_activations(model, backbone)
    gradients(model, batch)
    assert len(counted) == 3
    with torch.no_grad():
        model.eval()(**batch)
    assert len(counted) == 4


def test_workers_that_look_for_parameters_without_gradients_compute_activations_again(
    few: Data, tmp_path: Path
) -> None:
    """As they do for most architectures. DDP forbids this with PyTorch's other way, with re-entrant calls."""
    backbone = build("deberta-v2", tmp_path / "deberta")
    model, batch = built("qa", backbone, few, tmp_path)
    before = gradients(model, batch)
    recompute_activations(model, backbone)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        again = gradients(torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True), batch)
    finally:
        dist.destroy_process_group()
    for key, value in before.items():
        torch.testing.assert_close(again[key if key == "chance" else f"module.{key}"], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", JOBS)
def test_an_architecture_that_cannot_is_told_before_the_sweep_and_in_a_trial(name: str, tmp_path: Path) -> None:
    job, backbone = get_job(name), build("xlnet", tmp_path / "xlnet")
    data = str(matrix.write_questions(tmp_path / "data"))
    params = job.params(backbone=backbone, gradient_checkpointing=True, **matrix.PARAMS[name])
    told = "xlnet: its architecture, xlnet, cannot compute activations again; set gradient_checkpointing to false"
    with pytest.raises(BackboneError, match=f"{told}$"):
        job.suits(params, data)
    with pytest.raises(BackboneError, match=f"{told}$"):
        job.train(params, data, tmp_path / "trial", lambda *_: None)
