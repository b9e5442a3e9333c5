"""Sweeps in a real control group whose limits the kernel enforces: root only, version 1 or 2."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from optuna.storages import RDBStorage

from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import load_ledger
from sweeper.ledger.record import TrialRecord

ROOT = Path(__file__).parents[2]
GROUPS = Path("/sys/fs/cgroup")
MIB = 2**20
HUNGRY = """
name: hungry
job: tests.support.hungry:JOB
data: sample
objective: height
parameters: {seed: {values: [1, 2, 3]}}
search: {sampler: grid, trials: 1}
"""

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@contextmanager
def group(controller: str, v1: Mapping[str, object], v2: Mapping[str, object]) -> Iterator[Path]:
    """Create a control group with these settings, by the names of files in each version."""
    old = GROUPS / controller
    folder = (old if old.is_dir() else GROUPS) / f"sweeper-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("only root may create control groups")
    try:
        for name, value in (v1 if old.is_dir() else v2).items():
            (folder / name).write_text(str(value))
        yield folder
    finally:
        folder.rmdir()


def sweeper(folder: Path, place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a control group."""
    code = f"import os; open('{place}/cgroup.procs', 'w').write(str(os.getpid())); from sweeper.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def trials_in(limit: int, here: Path, *overrides: str) -> tuple[list[TrialRecord], subprocess.CompletedProcess[str]]:
    """Run a sweep with this many bytes."""
    (here / "hungry.yaml").write_text(HUNGRY)
    with group("memory", v1={"memory.limit_in_bytes": limit}, v2={"memory.max": limit}) as place:
        done = sweeper(here, place, "run", "hungry.yaml", *overrides)
    storage: RDBStorage = open_storage(f"sqlite:///{here}/sweeps/ledger.db")
    return load_ledger(storage, "hungry").records(), done


def test_a_trial_that_the_kernel_kills_goes_on_with_half_its_batch(here: Path) -> None:
    (record,), done = trials_in(2200 * MIB, here, "parameters.megabytes=300")
    assert (done.returncode, record.state) == (0, "COMPLETE"), done.stderr
    assert [(one["kind"], one["epoch"], one["changed"]) for one in record.incidents] == [
        ("memory", 1.0, {"per_device_train_batch_size": 4})
    ]
    assert "out of memory: the kernel killed its process; the cgroup limit is 2.15 GiB" in record.incidents[0]["reason"]


def test_a_trial_that_never_fits_fails_with_the_reason(here: Path) -> None:
    (record,), done = trials_in(
        2000 * MIB, here, "parameters.megabytes=2000", "parameters.per_device_train_batch_size=2"
    )
    assert (done.returncode, record.state, len(record.incidents)) == (1, "FAIL", 1), done.stderr
    assert "the cgroup limit is 1.95 GiB, used were 1.95 GiB (with per_device_train_batch_size 1)" in str(record.reason)


def test_trials_that_do_not_fit_side_by_side_run_one_after_the_other(here: Path) -> None:
    records, done = trials_in(2600 * MIB, here, "parameters.megabytes=130", "search.trials=3", "resources.cpus=0.5")
    assert (done.returncode, {record.state for record in records}) == (0, {"COMPLETE"}), done.stderr
    assert {one["kind"] for record in records for one in record.incidents} == {"memory"}
    assert "; from now on at most " in done.stderr


def test_a_cpu_quota_of_the_kernel_counts(here: Path) -> None:
    with group("cpu", v1={"cpu.cfs_quota_us": 150_000}, v2={"cpu.max": "150000 100000"}) as place:
        found = sweeper(here, place, "doctor").stdout
    expected = " 1 CPU (cgroup quota 1.5)" if len(os.sched_getaffinity(0)) > 1 else " 1 CPU,"
    assert expected in found
