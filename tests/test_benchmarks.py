"""Every benchmark runs, small, and says what it promises. How fast is for the benchmarks to tell, not for tests."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean, variance
from types import SimpleNamespace
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]


def result_of(script: str, *options: object) -> Any:
    command = [sys.executable, f"benchmarks/{script}.py", *map(str, options), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout)


def test_spans_agree_with_the_loop_or_beat_it() -> None:
    result = result_of("spans", "--windows", "30", "--lengths", "64,80", "--pairs", "1")
    for length in (64, 80):
        assert 0 < result[f"{length} same"] <= result[f"{length} answered by loop"] <= 30
        assert result[f"{length} dataset ratio"] > 0
        assert result[f"{length} list ratio"] > 0


@pytest.mark.long
def test_a_longformer_in_blocks_agrees_with_the_padded_one() -> None:
    sizes = ["--max-length", "1024", "--window", "64", "--backbone", "scratch:1x32x2"]
    result = result_of("longformer", "--inputs", "2", "--steps", "1", "--pairs", "1", *sizes)
    assert result["logits differ by"] < 1e-4
    assert result["losses differ by"] < 1e-5
    assert result["evaluation fp32 ratio"] > 0
    assert result["training bf16 ratio"] > 0


@pytest.mark.slow
def test_features_are_those_of_the_reference_window_by_window() -> None:
    result = result_of("features", "--data", "sample", "--questions", 12, "--max-length", 300, "--pairs", 1)
    assert result["questions"] == 24
    assert result["equal"] is True
    assert min(result[f"{name}_ratio"] for name in ("first", "later", "process", "repeated")) > 0


@pytest.mark.slow
def test_every_job_is_timed_against_the_example_scripts_on_any_machine() -> None:
    result = result_of("gpu", "--tiny", "--precision", "fp32")
    assert [(one["job"], one["size"]) for one in result["cases"]] == [
        ("qa", "tiny"), ("mc", "tiny"), ("longformer", "tiny")
    ]  # fmt: skip
    for one in result["cases"]:
        assert (one["precision"], one["micro_batch"]) == ("fp32", one["batch"])
        for figures in (one["ours"], one["reference"]):
            assert min(figures[name] for name in ("steps_per_s", "inputs_per_s", "answered_per_s")) > 0
            inputs = 4 * one["batch"] if one["job"] == "mc" else one["batch"]
            assert figures["inputs_per_s"] == pytest.approx(inputs * figures["steps_per_s"])
            if not torch.cuda.is_available():
                assert figures["mfu"] is figures["peak_gib"] is None
        assert one["ratio"] == pytest.approx(one["ours"]["steps_per_s"] / one["reference"]["steps_per_s"])


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module benchmarks/gpu.py."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("gpu")


def test_what_would_begin_after_the_deadline_is_left_out_and_said(gpu: Any, tmp_path: Path) -> None:
    rows = gpu.all_cases(SimpleNamespace(tiny=True, minutes=0.0, pairs=1, seconds=1.0), "fp32", 1e11, tmp_path)
    assert [row["left_out"] for row in rows] == ["it would end after 0 minutes"] * 3
    assert gpu.table(rows)[2].startswith("| qa | tiny |  | left out: it would end after 0 minutes |")


@pytest.mark.slow
def test_both_ways_halve_a_batch_that_does_not_fit(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def full(case: Any) -> Any:
        tried.append(case.micro)
        if case.micro > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return gpu.Turn(1.0, 1.0, 2**30)

    for way in ("ours", "theirs"):
        monkeypatch.setattr(gpu.Case, way, full)
    data = gpu.made_data(tmp_path / "data", 12, 60, 300)
    case = gpu.Case("qa", "tiny", data, tmp_path, "fp32", 96, 8)
    row = gpu.compared(case, 1, 1.0, 1e11)
    assert (tried, row["micro_batch"], row["ratio"]) == ([8, 4, 2, 2, 2, 2], 2, 1.0)
    assert "| 2 of 8 |" in gpu.table([row])[3]


def test_mfu_is_what_the_inputs_need_by_the_published_speed(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = gpu.Case("qa", "tiny", gpu.made_data(tmp_path / "data", 12, 60, 300), tmp_path, "fp16", 96, 8, steps=1)
    monkeypatch.setattr(gpu, "GPU", True)
    turns = [gpu.Turn(seconds, 1.0, peak * 2**30) for seconds, peak in ((1.0, 3), (2.0, 5), (9.0, 4))]
    shares = {}
    for name in ("Tesla T4", "NVIDIA H200", "a GPU of another maker"):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda name=name: name)
        shares[name] = gpu.figures(case, turns)["mfu"]
    tokens = case.inputs[0].lengths()[:8].tolist()
    layer = [2 * n * (4 * 32**2 + 2 * 32 * 128) + 4 * 32 * n * n for n in tokens]
    needed = 3 * 2 * sum(layer)  # forward and backward, two layers
    assert shares["Tesla T4"] == pytest.approx(needed / 2.0 / 65e12)
    assert shares["NVIDIA H200"] == pytest.approx(needed / 2.0 / 989.5e12)
    assert shares["a GPU of another maker"] is None
    assert gpu.figures(case, turns)["peak_gib"] == 5


def test_the_reference_trains_on_our_inputs_padded(gpu: Any, tmp_path: Path) -> None:
    data = gpu.made_data(tmp_path / "data", 12, 60, 300)
    for job in ("qa", "mc"):
        case = gpu.Case(job, "tiny", data, tmp_path, "fp32", 96, 8)
        batch = case.task.collate(case.inputs[0], range(3), case.params)
        padded = gpu.default_data_collator(case.padded[0][:3])
        assert padded["input_ids"].shape[-1] == 96
        model = case.model.eval()
        own, theirs = (model(**{**one, "labels": None} if job == "mc" else one) for one in (batch, padded))
        for name in own:
            if name.endswith("logits"):
                short = theirs[name][..., : own[name].shape[-1]]
                torch.testing.assert_close(short, own[name], rtol=0, atol=1e-5)
        if job == "mc":
            assert padded["labels"].tolist() == (batch["labels"] > 0).int().argmax(1).tolist()
        else:
            assert padded["start_positions"].tolist() == batch["start_positions"].tolist()


SMALL = ("--data", "sample", "--backbone", "1x32x2", "--max-length", 160, "--pairs", 1)


@pytest.mark.slow
@pytest.mark.parametrize("job", ["qa", pytest.param("mc", marks=pytest.mark.long)])
def test_training_is_timed_both_ways(job: str) -> None:
    result = result_of("training", "--job", job, "--train", 12, "--valid", 6, *SMALL)
    assert (result["job"], result["bf16"]) == (job, False)
    assert min(result["training_ratio"], result["evaluation_ratio"], result["gemm_peak"]) > 0
    assert all(0 < result[f"training_{way}_gemm_share"] < 1 for way in ("ours", "reference"))


@pytest.mark.long
@pytest.mark.parametrize("job", ["qa", "mc"])
def test_training_both_ways_ends_at_finite_losses_for_three_seeds(job: str) -> None:
    result = result_of("training", "--job", job, "--train", 12, "--valid", 6, "--epochs", 1, *SMALL)
    assert len(result["ours_loss"]) == len(result["reference_score"]) == 3
    assert all(0 < loss < 20 for name in ("ours", "reference") for loss in result[f"{name}_loss"])
    assert all(0 < loss < 20 for name in ("ours", "reference") for loss in result[f"{name}_eval_loss"])
    for key in ("loss", "eval_loss", "score"):
        mine, others = result[f"ours_{key}"], result[f"reference_{key}"]
        difference = mean(mine) - mean(others)
        error = math.sqrt((variance(mine) + variance(others)) / 3)
        assert result[f"{key}_difference"] == pytest.approx(difference)
        assert result[f"{key}_errors"] == pytest.approx(abs(difference) / max(error, 1e-12))
    assert all(0 <= score <= 1 for score in result["ours_score"] + result["reference_score"])


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_sweep_is_timed_against_one_process_a_setting() -> None:
    sizes = ("--settings", 2, "--train", 24, "--valid", 12, "--epochs", 1, "--backbone", "1x32x2", "--max-length", 128)
    result = result_of("sweep", *sizes)
    assert len(result["settings"]) == 2
    assert all(len(result[f"{name}_scores"]) == 2 for name in ("reference", "equal", "early"))
    assert result["equal_gap"] == result["equal_best"] - result["reference_best"]
    assert result["early_ratio"] == result["reference_seconds"] / result["early_seconds"]


@pytest.mark.long
@pytest.mark.timeout(300)
def test_scaling_counts_every_trial_and_never_exceeds_the_ideal() -> None:
    result = result_of("scaling", "--gpus", "1,2", "--seconds", 0.5, "--rounds", 2)
    for gpus in (1, 2):
        assert result[f"{gpus} trials"] == 2 * gpus
        assert 0 < result[f"{gpus} whole"] < result[f"{gpus} share"] <= 1


@pytest.mark.slow
def test_a_trial_beside_its_job_is_timed_on_a_warm_process() -> None:
    result = result_of("trials", "--trials", 4, "--reports", 2)
    assert (result["trials"], result["reports"]) == (4, 2)
    assert 0 < result["fixed seconds"] <= result["fixed seconds, slowest"]
    assert 0 < result["driver CPU seconds"] < 60


@pytest.mark.long
def test_growth_is_measured_between_sizes() -> None:
    result = result_of(
        "growth", "--trials", "4,8", "--tpe", "3,6", "--mirror", "2,4", "--gpus", "1,2", "--questions", "40,80"
    )
    costs: dict[str, list[dict[str, Any]]] = {}
    for row in result:
        costs.setdefault(row["part"], []).append(row)
    assert {"ledger ask", "ledger report", "ledger tell", "ledger open", "compare", "tpe ask", "mirror", "ray"} <= {
        *costs
    }
    assert {"features", "spans", "metrics"} <= {*costs}
    assert all(len(rows) == 2 and rows[0]["exponent"] is None for rows in costs.values())
    assert all(row["seconds"] > 0 for row in result)
