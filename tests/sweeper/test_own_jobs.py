"""A user's own job, in a package of the folder in which the command is typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import invoke
from tests.support.hiding import ROOT, hide_libraries
from tests.support.own_job import JOB
from tests.support.spaces import TOY

MODULES = [pytest.param("ownpackage.hill", marks=pytest.mark.long), "ownmodule"]


@pytest.fixture(params=MODULES)
def space(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A search space of a job in a package or in a single module, beside files named like ours."""
    (tmp_path / "ownpackage").mkdir()
    (tmp_path / "ownpackage" / "hill.py").write_text(JOB, encoding="utf-8")
    (tmp_path / "ownmodule.py").write_text(JOB, encoding="utf-8")
    (tmp_path / "toy.yaml").write_text(TOY.replace("tests.toy", request.param), encoding="utf-8")
    return str(request.param)


def sweeper(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command as its console script does: `-P` keeps Python from adding the current folder."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}"}  # its empty entry means the current folder
    command = [sys.executable, "-P", "-c", "from sweeper.cli import main; main()", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, timeout=200, check=False)


def test_a_job_is_found_in_the_current_folder(space: str, tmp_path: Path) -> None:
    done = sweeper("plan", "toy.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = sweeper("params", f"{space}:JOB", "--json", cwd=tmp_path)
    assert [row["name"] for row in json.loads(done.stdout)][:2] == ["backbone", "seed"]


def test_files_of_the_folder_never_hide_our_packages(space: str, tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "__init__.py").write_text("raise RuntimeError('jobs of the folder')", encoding="utf-8")
    (tmp_path / "sweeper.py").write_text("raise RuntimeError('sweeper of the folder')", encoding="utf-8")
    done = sweeper("plan", "toy.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_module_that_is_nowhere_is_told_in_one_line(here: Path) -> None:
    (here / "toy.yaml").write_text(TOY.replace("tests.toy", "ownpackage.nowhere"), encoding="utf-8")
    result = invoke("plan", "toy.yaml")
    assert result.exit_code == 2
    assert "ownpackage.nowhere:JOB cannot be imported (ModuleNotFoundError" in result.stderr


@pytest.mark.parametrize("name", ["random", "jobs", "optuna"])
def test_a_job_hidden_by_a_library_is_refused_in_one_line(here: Path, name: str) -> None:
    (here / name).mkdir()
    (here / name / "hill.py").write_text(JOB, encoding="utf-8")
    (here / "toy.yaml").write_text(TOY.replace("tests.toy", f"{name}.hill"), encoding="utf-8")
    result = invoke("plan", "toy.yaml")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert f"{name}.hill:JOB cannot be imported; {name!r} is also the name of a library (" in line
    assert line.endswith("; rename your module or package")


def test_a_hidden_module_that_holds_the_name_is_refused_in_one_line(here: Path) -> None:
    (here / "json.py").write_text(JOB, encoding="utf-8")
    result = invoke("params", "json:dumps")
    assert result.exit_code == 2
    assert "'json' is also the name of a library (" in result.stderr


def test_a_job_is_found_from_its_packages_own_folder(tmp_path: Path) -> None:
    (tmp_path / "ownpackage").mkdir()
    (tmp_path / "ownpackage" / "__init__.py").touch()
    (tmp_path / "ownpackage" / "hill.py").write_text(JOB, encoding="utf-8")
    done = sweeper("params", "ownpackage.hill:JOB", "--json", cwd=tmp_path / "ownpackage")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_trials_import_the_job_from_the_current_folder(space: str, tmp_path: Path) -> None:
    tmp_path = tmp_path.rename(tmp_path.with_name(f"資料 of {space}"))
    hide_libraries(tmp_path)
    workers = "resources={workers: 2, cpus: 1, gpus: 0}" if space == "ownmodule" else "search.trials=2"
    done = sweeper("run", "toy.yaml", "search.trials=2", workers, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("COMPLETE") == 2
    errors = sweeper("errors", "toy", cwd=tmp_path)
    assert (errors.returncode, errors.stdout) == (2, "")
    assert "name a trial of longformer, mc, qa" in errors.stderr
    for name in ("toy", "own@champion"):
        evaluated = sweeper("evaluate", "sample", "--qa", name, cwd=tmp_path)
        assert (evaluated.returncode, evaluated.stdout) == (2, "")
        assert evaluated.stderr == f"checkpoint {name}: is of the job own; name a model of longformer, mc, qa\n"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_module_that_kills_its_trials_process_is_named(tmp_path: Path) -> None:
    crash = "import os, sys\nif 'default_worker' in sys.argv[0]: os.abort()\n"
    (tmp_path / "ownmodule.py").write_text(crash + JOB, encoding="utf-8")
    (tmp_path / "toy.yaml").write_text(TOY.replace("tests.toy", "ownmodule"), encoding="utf-8")
    done = sweeper("run", "toy.yaml", "search.trials=1", "budget.retries=0", cwd=tmp_path)
    assert done.returncode == 1
    assert "its process died while it imported ownmodule:JOB; " in done.stderr


def test_params_prints_type_bounds_default_and_help() -> None:
    (row,) = [row for row in json.loads(invoke("params", "qa", "--json").stdout) if row["name"] == "learning_rate"]
    assert row["type"] == "number"
    assert row["bounds"] == "> 0, <= 1"
    assert row["default"] == 3e-5
    assert row["help"]
    table = invoke("params", "qa", "--md").stdout
    assert table.splitlines()[0].split() == ["|", "name", "|", "type", "|", "bounds", "|", "default", "|", "help", "|"]
    assert "| 3e-5 |" in table


def test_params_of_an_unknown_job_suggests_the_nearest() -> None:
    result = invoke("params", "longfomer")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(
        "unknown job 'longfomer'; did you mean 'longformer'? known here: longformer, mc, qa"
    )


def test_a_job_may_have_a_chinese_name(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "問答.py").write_text(JOB.replace("JOB = Job", "讀者 = Job"), encoding="utf-8")
    monkeypatch.syspath_prepend(here)
    result = invoke("params", "問答:讀者", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    (here / "toy.yaml").write_text(TOY.replace("tests.toy:JOB", "問答:讀者"), encoding="utf-8")
    assert invoke("plan", "toy.yaml").exit_code == 0
    assert invoke("params", "2問答:讀者").stderr.startswith("unknown job '2問答:讀者'; ")


def test_params_imports_nothing_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from sweeper.cli import main;"
        "assert CliRunner().invoke(main, ['params', 'qa']).exit_code == 0;"
        "print(sorted({'torch', 'transformers', 'ray', 'optuna', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("before", "after", "cause"),
    [
        ("@dataclass(frozen=True, kw_only=True)", "", "are not a dataclass; give Job a frozen dataclass"),
        ("Params, {", "Params(), {", "are not a dataclass; give Job a frozen dataclass"),
        ("seed: int", "seed: Number", "have an annotation that cannot be read (name 'Number' is not defined)"),
        ('    backbone: str = "hill"\n', "", "lack backbone; every job needs them"),
        (
            "learning_rate: float = 1e-3",
            "learning_rate: float",
            "have no default for learning_rate; give each a default",
        ),
        ("JOB = Job", "raise SystemExit(3)\nJOB = Job", "cannot be imported (SystemExit: 3)"),
        ("JOB = Job", "raise GeneratorExit('x')\nJOB = Job", "cannot be imported (GeneratorExit: x)"),
    ],
)
@pytest.mark.parametrize("command", [["plan", "toy.yaml"], ["params", "faultyjob:JOB"]])
def test_a_faulty_job_is_refused_in_one_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], before: str, after: str, cause: str
) -> None:
    assert before in JOB
    text = "from __future__ import annotations\n" + JOB.replace(before, after)
    (here / "faultyjob.py").write_text(text, encoding="utf-8")
    (here / "toy.yaml").write_text(TOY.replace("tests.toy", "faultyjob"), encoding="utf-8")
    monkeypatch.syspath_prepend(here)
    monkeypatch.delitem(sys.modules, "faultyjob", raising=False)
    result = invoke(*command)
    assert result.exit_code == 2, result.output
    assert len(result.stderr.splitlines()) == 1
    assert cause in result.stderr
