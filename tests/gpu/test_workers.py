"""Two workers on two GPUs, which talk through NCCL, train as one does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.gpus import CUDA_AND_LONG_CPU, computing_on, require_gpus, small_params
from tests.support.ranks import Reports, on_ranks, watched, whole_and_resumed


def metrics(reports: Reports) -> list[dict[str, float]]:
    return [pytest.approx(one, abs=1e-3) for one, _ in reports]


@pytest.mark.parametrize("device", CUDA_AND_LONG_CPU)
@pytest.mark.parametrize("fsdp", [False, True])
def test_two_workers_report_the_metrics_of_one_and_go_on_from_a_checkpoint(
    fsdp: bool, device: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device == "cuda":
        require_gpus(2)
    elif fsdp:
        pytest.skip("CPUs do not shard; tests/jobs/training/test_workers.py lets them")
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    params = small_params("qa", num_train_epochs=2, per_device_train_batch_size=2, precision="fp32", fsdp=fsdp)
    ranks = on_ranks(whole_and_resumed, tmp_path, "qa", params, data)
    with computing_on(device):
        alone = watched(tmp_path / "alone", "qa", replace(params, fsdp=False), data, "whole")
    for whole, resumed in ranks:
        assert [one for one, _ in whole.reports] == metrics(alone.reports)
        assert [one for one, _ in resumed.reports] == metrics(alone.reports[1:])
