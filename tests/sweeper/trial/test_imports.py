"""A trial's process that ends while it imports its job, or because the job ends it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sweeper.trial import process
from sweeper.trial.handover import IMPORTING, TrialConfig, TrialFailure, clear_handover, read_failure
from sweeper.trial.imports import import_failure, import_trial_job
from sweeper.trial.process import EarlyExit, TuneReporter, recorded_failure, run_job
from tests.support.own_job import JOB

RAY = """
The actor with name ImplicitFunc failed to import on the worker. This may be because of missing libraries:

Traceback (most recent call last):
  File "function_manager.py", line 696, in _load_actor_class_from_gcs
    actor_class = pickle.loads(pickled_class)
ModuleNotFoundError: No module named 'psutil'

An unexpected internal error occurred while the worker was executing a task.
"""
Make = Callable[[str], TrialConfig]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return a function that writes a job's module and returns the config of a trial that imports it."""
    monkeypatch.setattr(sys, "path", [*sys.path])

    def make(text: str) -> TrialConfig:
        (tmp_path / "importedjob.py").write_text(text, encoding="utf-8")
        monkeypatch.delitem(sys.modules, "importedjob", raising=False)
        workdir = tmp_path / "trial"
        workdir.mkdir()
        config = TrialConfig(0, "importedjob:JOB", {}, "sample", str(workdir), cpus=1, gpus=0)
        return replace(config, folders=(str(tmp_path),))

    return make


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import nosuchlibrary", "ModuleNotFoundError: No module named 'nosuchlibrary'"),
        ("def train(:", "SyntaxError: invalid syntax (importedjob.py, line 1)"),
        ("raise SystemExit(3)", "ImportError: importedjob:JOB cannot be imported (SystemExit: 3)"),
        ("raise GeneratorExit('x')", "ImportError: importedjob:JOB cannot be imported (GeneratorExit: x)"),
    ],
)
def test_a_module_that_cannot_be_imported_is_the_recorded_reason(make: Make, text: str, reason: str) -> None:
    config = make(text)
    with pytest.raises(process.TrialError), recorded_failure(Path(config.workdir)):
        run_job(config)
    assert read_failure(Path(config.workdir)) == TrialFailure("error", reason)
    assert import_failure(Path(config.workdir), config.job, "") is None


def test_a_process_that_dies_in_an_import_leaves_a_trace(make: Make) -> None:
    config = make(f"import pathlib; SEEN = list(pathlib.Path(__file__).parent.glob('trial/{IMPORTING}')); JOB = SEEN")
    assert import_trial_job(config) == [Path(config.workdir) / IMPORTING]
    workdir = Path(config.workdir)
    assert not (workdir / IMPORTING).exists()
    (workdir / IMPORTING).touch()
    found = import_failure(workdir, config.job, "")
    assert found is not None
    assert found.kind == "crash"
    assert found.reason.startswith("its process died while it imported importedjob:JOB; ")
    clear_handover(workdir)
    assert import_failure(workdir, config.job, "") is None


def test_a_library_that_ray_could_not_import_is_named(tmp_path: Path) -> None:
    reason = "its process cannot import sweeper (ModuleNotFoundError: No module named 'psutil')"
    assert import_failure(tmp_path, "qa", RAY) == TrialFailure("error", reason)
    assert import_failure(tmp_path, "qa", "The actor died unexpectedly.\nValueError: x") is None


def test_a_job_that_calls_sys_exit_has_failed(make: Make) -> None:
    config = make(JOB.replace("    for epoch", "    raise SystemExit(0)\n    for epoch"))
    with pytest.raises(EarlyExit, match=r"the job called sys\.exit\(0\)"):
        run_job(config)


def test_a_trial_that_tune_stops_ends_without_an_error(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(metrics: object) -> None:
        raise SystemExit(0)

    monkeypatch.setattr("ray.tune.report", stop)
    with pytest.raises(SystemExit):
        run_job(make(JOB))


def test_an_exit_outside_of_tune_is_no_stop() -> None:
    assert not TuneReporter({"height": "max"}).stopped
