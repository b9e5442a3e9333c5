"""The README says what is so: commands, files, keys."""

from __future__ import annotations

import re
import shutil
from importlib import import_module
from pathlib import Path

import pytest

from sweeper.cli import main
from sweeper.space.reading import read_search_space
from sweeper.space.search_space import params_of
from sweeper.space.sections import File
from tests.support.zoo import KINDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_command_is_in_the_table() -> None:
    told = set(re.findall(r"^\| `sweeper ([a-z]+)", README, re.MULTILINE))
    assert told == set(main.commands), f"README.md, Commands: a row is missing or too many: {told ^ set(main.commands)}"


def test_each_folder_of_the_code_has_a_line_in_the_layout() -> None:
    layout = README.split("## Project layout")[1].split("\n## ")[0]
    told = set(re.findall(r"^\| `((?:jobs|sweeper)/\w+)/`", layout, re.MULTILINE))
    there = {
        str(path.parent.relative_to(ROOT)) for name in ("jobs", "sweeper") for path in (ROOT / name).glob("*/*.py")
    }
    assert len(there) >= 15
    assert told == there, f"README.md, Project layout: a line is missing or too many: {sorted(told ^ there)}"


def test_every_section_of_a_search_space_is_in_the_reference() -> None:
    reference = README.split("### Search spaces")[1].split("### Data")[0]
    for key in File.model_fields:
        assert f"| `{key}` |" in reference, f"README.md, Search spaces: tell the key {key}"


def test_every_kind_of_backbone_that_is_tested_is_in_the_table_of_architectures() -> None:
    rows = README.split("| architectures | qa | mc | longformer |")[1].split("\n\n")[0].splitlines()[2:]
    told = [kind for row in rows for kind in re.findall("`([^`]+)`", row.split("|")[1])]
    assert sorted(told) == sorted(KINDS), "README.md: `pytest -m long tests/test_backbone_matrix.py` prints the table"


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)#:]+)\)", README))
def test_links_lead_somewhere(path: str) -> None:
    assert (ROOT / path).is_file(), f"README.md links to {path}, which does not exist"


def test_the_yaml_in_the_readme_is_the_shipped_one() -> None:
    shown = README.split("```yaml\n")[1].split("```")[0]
    assert shown == (ROOT / "search_spaces/quickstart.yaml").read_text(encoding="utf-8")


def test_ci_runs_the_readmes_test_command() -> None:
    command = README.split("<!-- test command -->")[1].split("```")[1]
    assert command.strip().endswith("&& .venv/bin/pytest -n 2 --dist loadfile")
    assert "<!-- test command -->" in (ROOT / ".ci/run").read_text(encoding="utf-8")


def test_the_example_of_a_job_can_be_searched_trained_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = README.split("### A job of your own")[1].split("\n### ")[0]
    for name, language in (("hill.py", "python"), ("hill.yaml", "yaml")):
        (tmp_path / name).write_text(section.split(f"```{language}\n")[1].split("```")[0], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    space, job = read_search_space(tmp_path / "hill.yaml"), import_module("hill").JOB
    reports: list[tuple[dict[str, float], Path]] = []
    job.train(params_of(space, {}), "sample", tmp_path, lambda *report: reports.append(report))
    assert [metrics["epoch"] for metrics, _ in reports] == [1.0, 2.0, 3.0]
    assert reports[-1][0]["loss"] < reports[0][0]["loss"]
    (_, first), (_, second), (_, third) = reports
    for later in (second, third):
        shutil.rmtree(later)
    resumed: list[tuple[dict[str, float], Path]] = []
    job.train(params_of(space, {}), "sample", tmp_path, lambda *report: resumed.append(report), first)
    assert resumed == reports[1:]
