"""Trials on a GPU in processes of their own: killed and resumed, several at once, and without a GPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.support.gpu_child import ROOT, Child
from tests.support.gpus import CUDA_AND_LONG_CPU, small_params

pytestmark = pytest.mark.timeout(400)  # each starts processes that import PyTorch, or Ray too
METRICS = ("eval_loss", "train_loss", "exact_match")


def options(data: str, workdir: Path, **knobs: Any) -> dict[str, Any]:
    params = small_params("qa", num_train_epochs=2, **knobs)
    return {"job": "qa", "params": asdict(params), "data": data, "workdir": str(workdir)}


@pytest.fixture
def on_device(device: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The device that processes use which begin in this test."""
    if device == "cpu":
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return device


@pytest.mark.parametrize("device", CUDA_AND_LONG_CPU)
def test_a_training_that_was_killed_ends_where_one_at_a_stretch_ends(on_device: str, data: str, tmp_path: Path) -> None:
    """In fp32, where kernels that do not add in one order make the only difference."""
    alone, cut = (options(data, tmp_path / name / "trial", precision="fp32") for name in ("alone", "cut"))
    with Child(tmp_path / "alone.log", **alone) as whole, Child(tmp_path / "cut.log", **cut, pause=True) as killed:
        first = killed.first_report()
        killed.process.send_signal(signal.SIGKILL)
        expected = whole.finished()[-1]
    assert first["epoch"] == 1.0
    with Child(tmp_path / "again.log", **cut, resume=first["checkpoint"]) as again:
        got = again.finished()
    assert [one["epoch"] for one in got] == [2.0]
    limit = 1e-5 if on_device == "cpu" else 1e-3
    assert {name: got[-1][name] for name in METRICS} == pytest.approx({n: expected[n] for n in METRICS}, abs=limit)


@pytest.mark.parametrize("device", CUDA_AND_LONG_CPU)
def test_two_trials_train_on_one_gpu_at_the_same_time(on_device: str, data: str, tmp_path: Path) -> None:
    """Each waits after its first epoch for the other's, so that both are there at once."""
    own = [options(data, tmp_path / str(number) / "trial", seed=number) for number in (1, 2)]
    with (
        Child(tmp_path / "1.log", **own[0], gpus=0.5, together=2) as one,
        Child(tmp_path / "2.log", **own[1], gpus=0.5, together=2) as other,
    ):
        ends = [child.finished()[-1] for child in (one, other)]
    assert [end["epoch"] for end in ends] == [2.0, 2.0]
    assert ends[0]["train_loss"] != ends[1]["train_loss"]


SHARE = """\
from sweeper.trial.gpu import share_gpu
share_gpu(0.25)
import torch
total = torch.cuda.get_device_properties(0).total_memory
small = torch.empty(total // 10, dtype=torch.uint8, device="cuda")
try:
    torch.empty(total // 4, dtype=torch.uint8, device="cuda")
except torch.OutOfMemoryError as error:
    from sweeper.trial.process import failure_kind
    print(failure_kind(error))
"""


@pytest.mark.gpu
def test_a_trial_with_a_quarter_of_a_gpu_gets_no_more_of_its_memory(tmp_path: Path) -> None:
    """sweeper/trial/test_gpus.py has what leads to it, without a GPU."""
    done = subprocess.run([sys.executable, "-c", SHARE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["memory"]


def sweep(folder: Path, data: str, *overrides: str, **environment: str) -> tuple[int, str]:
    """Run a sweep of two small trials; return its exit code and what it said. Skips without Ray, Optuna or MLflow."""
    for name in ("ray", "optuna", "mlflow"):
        pytest.importorskip(name)
    backbone = "{backbone: 'scratch:1x32x2', max_length: 96, doc_stride: 16, num_train_epochs: 1}"
    space = f"name: small\njob: qa\ndata: {data}\nobjective: exact_match\nparameters: {backbone}\n"
    (folder / "small.yaml").write_text(f"{space}search: {{sampler: grid}}\n")
    code = "from sweeper.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "small.yaml", "parameters.seed={values: [1, 2]}", *overrides],
        cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("device", CUDA_AND_LONG_CPU)
def test_two_trials_of_a_sweep_share_one_gpu(on_device: str, data: str, tmp_path: Path) -> None:
    share = "resources.gpus=0.5" if on_device == "cuda" else "resources.cpus=0.5"
    code, said = sweep(tmp_path, data, share)
    assert code == 0, said
    assert said.count("complete") >= 2


@pytest.mark.gpu
def test_a_trial_that_reserves_no_gpu_sees_none(data: str, tmp_path: Path) -> None:
    """tests/sweeper/trial/test_workers.py has the same with GPUs that only Ray knows."""
    code, said = sweep(
        tmp_path, data, "job=tests.support.seeing:JOB", "objective=seen", "resources.gpus=0",
        f"parameters={{folder: '{tmp_path}', seed: {{values: [1, 2]}}}}",
    )  # fmt: skip
    assert code == 0, said
    assert [(tmp_path / f"seed-{seed}").read_text() for seed in (1, 2)] == ["", ""]


@pytest.mark.gpu
def test_a_gpu_that_is_not_there_is_refused_before_the_first_trial(data: str, tmp_path: Path) -> None:
    code, said = sweep(tmp_path, data, CUDA_VISIBLE_DEVICES="99")
    assert code == 4, said
    assert not (tmp_path / "sweeps").exists()
