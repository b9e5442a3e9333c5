"""Files in the working directory that are named like our packages or like libraries."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray.job_config  # noqa: F401  (the tests below hide all libraries)

from sweeper.cluster.ray_session import job_config
from sweeper.process import import_path
from tests.support.hiding import ROOT, hide_libraries

MAIN = "from sweeper.cli import main; main()"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return `sys.path` of one library, which the test may change, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/library"])
    return sys.path


@pytest.mark.parametrize("entry", ["", ".", "HERE", "HERE/"])
def test_the_working_directory_comes_last(path: list[str], tmp_path: Path, entry: str) -> None:
    entry = entry.replace("HERE", str(tmp_path))
    path.insert(0, entry)
    environment = {"PYTHONPATH": os.pathsep.join([entry, "/mine", "lib"])}
    import_path.order_import_path(environment)
    assert path == ["/library", str(tmp_path)]
    assert environment == {"PYTHONPATH": f"/mine{os.pathsep}{tmp_path}/lib"}


def test_an_import_path_of_the_working_directory_alone_is_removed(path: list[str]) -> None:
    environment = {"PYTHONPATH": ":."}
    import_path.order_import_path(environment)
    assert environment == {}


def test_a_source_tree_in_pythonpath_keeps_its_place(path: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    path.insert(0, str(ROOT))
    environment = {"PYTHONPATH": str(ROOT)}
    import_path.order_import_path(environment)
    assert path[:2] == [str(ROOT), "/library"]
    assert environment == {"PYTHONPATH": str(ROOT)}


def test_a_package_in_which_the_command_is_typed_can_be_imported(path: list[str], tmp_path: Path) -> None:
    inner = tmp_path / "mine" / "inner"
    inner.mkdir(parents=True)
    for folder in (inner, inner.parent):
        (folder / "__init__.py").touch()
    os.chdir(inner)
    assert import_path.user_folders() == (str(inner), str(tmp_path))


def test_a_deleted_working_directory_is_no_error(path: list[str], tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    path.insert(0, "")
    import_path.order_import_path({})
    assert path == ["/library"]


def test_ray_is_given_the_drivers_path_without_the_working_directory(path: list[str], tmp_path: Path) -> None:
    path += [str(tmp_path), "/other"]
    sent = job_config()._py_driver_sys_path
    sent.extend([str(tmp_path)])  # as Ray does
    worker = ["/worker"]
    for entry in sent:  # as a process of Ray's does
        worker.insert(0, entry)
    assert worker == ["/library", "/other", "/worker"]


@pytest.mark.parametrize("how", [["-m", "sweeper"], ["-c", MAIN], ["-P", "-c", MAIN]], ids=["module", "code", "script"])
def test_the_command_imports_libraries_and_our_own_packages(tmp_path: Path, how: list[str]) -> None:
    hide_libraries(tmp_path)
    # an empty entry means the working directory
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}"}
    done = subprocess.run(
        [sys.executable, *how, "params", "qa"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


def test_a_folder_of_pythonpath_never_hides_our_jobs(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "__init__.py").write_text("raise RuntimeError('jobs of the folder')", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    code = "import sweeper.errors, jobs.qa; print(jobs.__file__)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == str(ROOT / "jobs" / "__init__.py")
