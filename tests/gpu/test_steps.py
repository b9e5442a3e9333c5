"""A training step on a GPU has the loss and the gradients of one on the CPU, in each precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from jobs import JOBS
from jobs.job import ParamError
from jobs.training.conditions import conditions_in
from jobs.training.precision import this_device
from tests.support.gpus import BOTH, JOBS_ON_BOTH, STEADY, computing_on, evaluated, taken_step

# Relative distances from a step in fp32: of the loss and of all gradients.
MANNERS: dict[str, dict[str, Any]] = {  # each computes the same in another way
    "micro-batches": {"per_device_train_batch_size": 2},
    "computed again": {"gradient_checkpointing": True},
    "another optimizer": {"optim": "adamw_torch"},
    "compiled": {"torch_compile": True},
}
LIMITS = {"tf32": (1e-3, 5e-3), "fp16": (2e-3, 2e-2), "bf16": (2e-2, 8e-2)}


@pytest.mark.parametrize("device", BOTH)
@pytest.mark.parametrize("name", sorted(JOBS))
def test_a_step_has_the_loss_and_the_gradients_of_one_on_the_cpu(
    name: str, device: str, data: str, tmp_path: Path
) -> None:
    """On the CPU one row at a time, so that its twin does not compare a step with itself."""
    there = taken_step(name, data, tmp_path / "cpu", "cpu", precision="fp32", per_device_train_batch_size=1)
    here = taken_step(name, data, tmp_path / device, device, precision="fp32", per_device_train_batch_size=4)
    here.assert_close(there, loss=1e-5, gradient=1e-4)
    assert len(here.gradients) > 10


@pytest.mark.parametrize("device", BOTH)
@pytest.mark.parametrize("manner", [*MANNERS][:-1])
def test_a_third_step_in_another_manner_is_as_on_the_cpu(manner: str, device: str, data: str, tmp_path: Path) -> None:
    """The third step shows what the optimizer made of the first two."""
    there = taken_step("qa", data, tmp_path / "cpu", "cpu", steps=3, precision="fp32")
    here = taken_step("qa", data, tmp_path / device, device, steps=3, precision="fp32", **MANNERS[manner])
    here.assert_close(there, loss=1e-4, gradient=1e-2)


@pytest.mark.gpu
@pytest.mark.timeout(600)
def test_a_compiled_step_is_as_on_the_cpu(data: str, tmp_path: Path) -> None:
    """No twin: compiling for a CPU needs a compiler and takes minutes."""
    there = taken_step("qa", data, tmp_path / "cpu", "cpu", steps=3, precision="fp32")
    here = taken_step("qa", data, tmp_path / "cuda", "cuda", steps=3, precision="fp32", **MANNERS["compiled"])
    here.assert_close(there, loss=1e-4, gradient=1e-2)


def tf32_is_on() -> bool:
    return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")


@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize(("name", "device"), JOBS_ON_BOTH)
def test_a_step_in_another_precision_is_near_one_in_fp32_or_is_refused(
    name: str, precision: str, device: str, data: str, tmp_path: Path
) -> None:
    with computing_on(device):
        offered = precision in this_device().offered
    before, found = tf32_is_on(), {}
    if not offered:
        with pytest.raises(ParamError, match=f"has no {precision}"):
            taken_step(name, data, tmp_path / device, device, precision=precision, **STEADY)
        return
    with conditions_in(found):
        here = taken_step(name, data, tmp_path / device, device, precision=precision, **STEADY)
    assert (found["precision"], tf32_is_on()) == (precision, before)
    there = taken_step(name, data, tmp_path / "cpu", "cpu", precision="fp32", **STEADY)
    here.assert_close(there, *LIMITS[precision])
    assert here.apart(there)[1] > 1e-5, "the products were computed in fp32"


@pytest.mark.parametrize(("name", "device"), JOBS_ON_BOTH)
def test_an_evaluation_has_the_metrics_of_one_on_the_cpu(name: str, device: str, data: str, tmp_path: Path) -> None:
    there = evaluated(name, data, tmp_path / "cpu", "cpu", precision="fp32", per_device_eval_batch_size=1)
    here = evaluated(name, data, tmp_path / device, device, precision="fp32", per_device_eval_batch_size=4)
    assert here == pytest.approx(there, abs=1e-4)
    other = evaluated(name, data, tmp_path / "other", "cpu", precision="fp32", seed=8)
    assert here["eval_loss"] != pytest.approx(other["eval_loss"], abs=1e-4)


def test_a_step_with_other_numbers_is_found(data: str, tmp_path: Path) -> None:
    one, other = (taken_step("qa", data, tmp_path / str(seed), "cpu", seed=seed) for seed in (1, 2))
    with pytest.raises(AssertionError, match="losses"):
        one.assert_close(other, loss=1e-5, gradient=1e-4)
    with pytest.raises(AssertionError, match="gradients"):
        one.assert_close(other, loss=1.0, gradient=1e-1)
