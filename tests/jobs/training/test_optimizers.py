"""The optimizer and the compiler of a training are parameters; a resumed training goes on as it would have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors import safe_open

from jobs.dataset.data import Data
from jobs.job import ParamError
from jobs.params import Optimizer
from jobs.qa import TASK as QA
from jobs.qa import QaParams
from jobs.training import train
from jobs.training import trainer as training

PARAMS = QaParams(
    backbone="scratch:1x32x2", max_length=64, doc_stride=16, num_train_epochs=2, learning_rate=1e-3, weight_decay=0.1
)  # fmt: skip
Reports = list[tuple[dict[str, float], Path]]
CLASSES = {"adamw_torch_fused": "AdamW", "adamw_torch": "AdamW", "adafactor": "Adafactor"}


def trained(params: QaParams, data: Data, workdir: Path, resume_from: Path | None = None) -> Reports:
    workdir.mkdir()
    reports: Reports = []
    train(QA, params, data.location, workdir, lambda *one: reports.append(one), resume_from)
    return reports


def made(params: QaParams, data: Data, workdir: Path) -> Any:
    """Return the optimizer of a training, with the names of its weights by their weight decay."""
    trainer = training.make_trainer(QA, params, data.location, workdir, lambda *_: None)
    optimizer = trainer.create_optimizer()
    names = {weight: name for name, weight in trainer.model.named_parameters()}
    return optimizer, {
        group["weight_decay"]: [names[one] for one in group["params"]] for group in optimizer.param_groups
    }


@pytest.mark.parametrize("optim", get_args(Optimizer))
def test_each_optimizer_decays_no_bias_and_no_norm(optim: str, few: Data, tmp_path: Path) -> None:
    optimizer, groups = made(replace(PARAMS, optim=optim), few, tmp_path)  # type: ignore[arg-type]
    assert type(optimizer).__name__ == CLASSES[optim]
    assert bool(optimizer.defaults.get("fused")) is (optim == "adamw_torch_fused")
    assert set(groups) == {0.1, 0.0}
    assert all(name.endswith("bias") or "LayerNorm" in name for name in groups[0.0])
    assert not any(name.endswith("bias") or "LayerNorm" in name for name in groups[0.1])


@pytest.mark.slow
def test_a_training_with_adafactor_resumes_to_the_same_weights(few: Data, tmp_path: Path) -> None:
    params = replace(PARAMS, optim="adafactor")
    first, last = trained(params, few, tmp_path / "whole")
    (resumed,) = trained(params, few, tmp_path / "resumed", first[1])
    assert resumed[0] == last[0]
    for name in ("model.safetensors", "predictions.json"):
        assert (resumed[1] / name).read_bytes() == (last[1] / name).read_bytes()
    assert trained(PARAMS, few, tmp_path / "other")[-1][0]["train_loss"] != last[0]["train_loss"]


def names_of(checkpoint: Path) -> list[str]:
    with safe_open(checkpoint / "model.safetensors", "pt") as weights:
        return sorted(weights.keys())


@pytest.mark.parametrize(
    "compiler",
    [pytest.param("eager", marks=pytest.mark.slow), pytest.param("inductor", marks=pytest.mark.long)],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # in torch itself
def test_a_compiled_training_has_the_same_losses_and_resumes(
    compiler: str, few: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows of all lengths share the programs: one for the training and one for the evaluation."""
    from torch._dynamo.utils import counters

    monkeypatch.setattr(training, "COMPILER", compiler)
    torch.compiler.reset()
    counters.clear()
    plain, compiled = (trained(replace(PARAMS, torch_compile=one), few, tmp_path / str(one)) for one in (False, True))
    assert counters["stats"]["unique_graphs"] == 4  # two parts, each with gradients and without
    (resumed,) = trained(replace(PARAMS, torch_compile=True), few, tmp_path / "resumed", compiled[0][1])
    for own, others in ((compiled, plain), ([resumed], compiled[1:])):
        for (metrics, checkpoint), (expected, other) in zip(own, others, strict=True):
            assert metrics == pytest.approx(expected, abs=1e-4)
            assert names_of(checkpoint) == names_of(other)


def test_a_sharded_model_is_not_compiled() -> None:
    with pytest.raises(ParamError, match="keep one of the two"):
        replace(PARAMS, torch_compile=True, fsdp=True)
