from __future__ import annotations

import pytest

from sweeper.cluster.ray_session import runtime_env


def test_no_secret_travels_to_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "/shared/models")
    monkeypatch.setenv("HF_TOKEN", "short")
    monkeypatch.setenv("SWEEPER_LEDGER", "postgresql://me:hunter2@db/sweeper")
    monkeypatch.setenv("SWEEPER_ROOT", "/shared/sweeps")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    travels = runtime_env()["env_vars"]
    assert {name: travels[name] for name in ("HF_HOME", "SWEEPER_ROOT")} == {
        "HF_HOME": "/shared/models",
        "SWEEPER_ROOT": "/shared/sweeps",
    }
    assert not {"HF_TOKEN", "SWEEPER_LEDGER", "AWS_SECRET_ACCESS_KEY"} & travels.keys()


def test_trials_on_a_cluster_see_only_the_gpus_that_they_reserve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    assert runtime_env()["env_vars"]["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] == "1"
