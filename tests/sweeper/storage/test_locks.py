"""File systems without locks, as some network file systems are."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from sweeper.errors import EnvironmentFailure
from sweeper.ledger.lock import sweep_lock
from sweeper.release.promotion import promotion_lock
from sweeper.storage.locks import file_lock
from sweeper.storage.settings import read_stores
from sweeper.tracking.client import mlflow_errors
from tests.support.commands import invoke

ERRORS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP]


@pytest.fixture(params=ERRORS, ids=lambda number: errno.errorcode[number])
def cause(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let every lock fail with this error, and return the system's text."""

    def refuse(*_: Any) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)
    return os.strerror(request.param)


def test_a_file_system_without_locks_is_named_with_a_cure(cause: str, tmp_path: Path) -> None:
    line = f"{tmp_path}: its file system cannot lock files ({cause}); set SWEEPER_ROOT to a folder on a local disk, "
    for lock in (file_lock(tmp_path / "a.lock"), sweep_lock(tmp_path), promotion_lock(tmp_path, "qa")):
        with pytest.raises(EnvironmentFailure) as caught, lock:
            pass
        assert caught.value.lines[0].startswith(line)


def test_a_sweep_without_locks_ends_in_one_line(cause: str, toy_folder: Path) -> None:
    result = invoke("run", "toy.yaml")
    assert result.exit_code == 4
    assert f"{toy_folder}/sweeps: its file system cannot lock files ({cause})" in result.stderr.splitlines()[-1]
    assert len(result.stderr.splitlines()) <= 2


def test_mlflows_own_lock_is_named_with_its_folder(cause: str, tmp_path: Path) -> None:
    with (
        pytest.raises(EnvironmentFailure, match=r"MLflow: .*cannot lock files .*set TMPDIR"),
        mlflow_errors(read_stores(tmp_path, {})),
    ):
        fcntl.flock(0, fcntl.LOCK_EX)


def test_doctor_tells_that_there_are_no_locks(cause: str, here: Path) -> None:
    result = invoke("doctor")
    assert result.exit_code == 4
    assert f"BAD  locks              {here}: its file system cannot lock files ({cause}); set " in result.stdout


def test_a_lock_that_is_free_is_held_within_the_block(tmp_path: Path) -> None:
    with file_lock(tmp_path / "a.lock"), pytest.raises(TimeoutError), file_lock(tmp_path / "a.lock", 0):
        pass
    with file_lock(tmp_path / "a.lock", 0):
        pass
