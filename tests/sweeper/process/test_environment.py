"""Variables that other tools leave, and users without a home folder."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sweeper.process.environment import (
    FOREIGN_RAY,
    foreign_variables,
    prepare_environment,
    remove_foreign,
    replace_home,
    told_variables,
    without_proxy,
)
from sweeper.trial import workers
from sweeper.trial.handover import TrialConfig
from tests.support.commands import invoke
from tests.support.hiding import ROOT

NOWHERE = "/dev/null/home"  # cannot be created, whoever asks
TORCHRUN = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "2",
    "GROUP_RANK": "0",
    "ROLE_WORLD_SIZE": "2",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
}
LAUNCHERS = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "OMPI_COMM_WORLD_SIZE": "4",
    "PMI_SIZE": "4",
    "MLFLOW_RUN_ID": "1",
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
}
OURS = {
    "PATH": "/bin",
    "MLFLOW_TRACKING_URI": "http://a",
    "SLURM_JOB_ID": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "RANKING": "",
}


def nowhere() -> Path:
    raise AssertionError("the home folder can be written")


def test_variables_of_launchers_are_removed_and_others_stay(tmp_path: Path) -> None:
    environ = {**TORCHRUN, **LAUNCHERS, **OURS, "HOME": str(tmp_path), "USER": "me"}
    removed = prepare_environment(environ, nowhere)
    assert set(removed) == {*TORCHRUN, *LAUNCHERS}
    assert environ.items() >= OURS.items()
    assert not environ.keys() & removed.keys()
    assert environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == "0"


def test_ray_uploads_the_folder_only_if_the_user_asks(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "USER": "me", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "1"}
    prepare_environment(environ, nowhere)
    remove_foreign(environ, FOREIGN_RAY)
    assert environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == "1"


def test_a_line_tells_the_variables_of_each_tool() -> None:
    (line,) = told_variables(foreign_variables({"WORLD_SIZE": "2", "RANK": "0", "HOME": "/"}))
    assert line == "RANK, WORLD_SIZE: set by torchrun or Kubeflow; removed, since trials form groups of their own"


def test_another_rays_variables_are_removed_but_for_its_address_and_its_tuning() -> None:
    kept = {"RAY_ADDRESS": "10.0.0.1:6379", "RAY_worker_niceness": "0", "HOME": "/"}
    environ = {
        **kept,
        "RAY_RUNTIME_ENV_HOOK": "mine.hook",
        "RAY_JOB_CONFIG_JSON_ENV_VAR": "{}",
        "RAY_TRAIN_V2_ENABLED": "0",
        "RAY_USE_TLS": "1",
        "RAY_PORT": "tcp://10.0.0.1:6379",
        "TUNE_RESULT_DIR": "/gone",
    }
    remove_foreign(environ, FOREIGN_RAY)
    assert environ == kept


@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
def test_a_proxy_is_kept_away_from_this_machine(name: str) -> None:
    found = without_proxy({name: "http://proxy:8080", "NO_PROXY": "intranet, 127.0.0.1"})
    assert found == dict.fromkeys(("no_proxy", "NO_PROXY"), "intranet,127.0.0.1,localhost,::1")


def test_without_a_proxy_nothing_is_set() -> None:
    assert without_proxy({"no_proxy": "intranet"}) == {}


@pytest.mark.parametrize("size", ["0", "-1", "wide", ""])
def test_a_size_of_a_terminal_that_is_none_is_removed(size: str, tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "USER": "me", "COLUMNS": size, "LINES": "40"}
    assert list(prepare_environment(environ, nowhere)) == ["COLUMNS"]
    assert environ["LINES"] == "40"


def test_a_home_that_cannot_be_written_is_replaced(tmp_path: Path) -> None:
    environ = {"HOME": NOWHERE, "USER": "me"}
    (told,) = replace_home(environ, lambda: tmp_path).values()
    assert environ["HOME"] == f"{tmp_path}/.home"
    assert f"home folder {NOWHERE} cannot be written" in told
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("home", [{}, {"HOME": ""}, {"HOME": "~"}])
def test_a_user_without_a_home_gets_one_and_a_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Mapping[str, str]
) -> None:
    def unknown(uid: int) -> Any:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    environ = dict(home)
    replace_home(environ, lambda: tmp_path)
    assert environ == {"HOME": f"{tmp_path}/.home", "USER": f"uid{os.getuid()}"}


def test_what_can_be_read_in_a_home_without_write_permission_stays_in_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    (home / ".cache" / "huggingface").mkdir(parents=True)
    (home / ".pgpass").touch()
    monkeypatch.setattr("sweeper.process.environment.can_write", lambda folder: False)
    environ = {"HOME": str(home), "USER": "me", "PGPASSFILE": "/mine"}
    replace_home(environ, lambda: tmp_path / "root")
    assert environ == {
        "HOME": f"{tmp_path}/root/.home",
        "USER": "me",
        "HF_HOME": f"{home}/.cache/huggingface",
        "PGPASSFILE": "/mine",
    }


def test_a_trials_process_joins_no_group_of_its_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    seen: list[str] = []
    monkeypatch.setattr(workers, "train_in_process", lambda trial: seen.extend(TORCHRUN.keys() & os.environ.keys()))
    config = TrialConfig(number=0, job="qa", params={}, data="sample", workdir=str(tmp_path), cpus=1, gpus=0)
    workers.run_trial(vars(config))
    assert seen == []


@pytest.mark.parametrize(
    "locale", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_chinese_is_printed_whatever_the_locale(tmp_path: Path, locale: Mapping[str, str]) -> None:
    environment = {**os.environ, **locale, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "sweeper", "plan", "資料"],
        cwd=tmp_path,
        capture_output=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 2
    text = done.stderr.decode()
    assert "no such file" in text
    assert ("資料" in text) == ("PYTHONIOENCODING" in locale)


def test_doctor_tells_what_was_removed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:8080")
    monkeypatch.setenv("HOME", NOWHERE)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    output = invoke("doctor").stdout
    assert "WORLD_SIZE: set by torchrun" in output
    assert f"HOME: home folder {NOWHERE} cannot be written" in output
    assert "HTTP_PROXY" in output


def test_doctor_names_files_that_libraries_hide(here: Path) -> None:
    (here / "random.py").touch()
    (here / "jobs").mkdir()
    (here / "mine.py").touch()
    assert "folder             jobs, random.py: named like a library; not imported" in invoke("doctor").stdout


def test_doctor_tells_that_a_cluster_is_gone(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    result = invoke("doctor")
    assert result.exit_code == 4
    assert f"BAD  cluster            --address {address}: no Ray cluster answers; " in result.stdout


def test_a_working_directory_that_was_deleted_is_told(here: Path) -> None:
    gone = here / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    result = invoke("doctor")
    assert result.exit_code == 4
    assert result.stderr == "working directory: No such file or directory; change to a folder that exists\n"
