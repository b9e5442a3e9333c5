"""The README says what is so: commands, files, keys."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jobs import JOBS
from sweeper.cli import main
from sweeper.space.sections import File

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SPACES = {path.name for path in (ROOT / "search_spaces").glob("*.yaml")}


def test_every_command_is_in_the_table() -> None:
    told = set(re.findall(r"^\| `sweeper ([a-z]+)", README, re.MULTILINE))
    assert told == set(main.commands)


def test_every_module_is_in_the_tree_and_nothing_else() -> None:
    tree = README.split("## The house")[1].split("```")[1]
    told = set(re.findall(r"\b(\w+)\.py\b", tree)) - {"conftest", "toy", "test_floors"}
    assert set(re.findall(r"\b\w+\.yaml", tree)) == SPACES
    there = {path.stem for package in ("jobs", "sweeper") for path in (ROOT / package).rglob("*.py")} - {"__init__"}
    assert told == there


def test_every_section_of_a_search_space_and_every_job_is_told() -> None:
    reference = README.split("### Search spaces")[1].split("### Data")[0]
    for key in File.model_fields:
        assert f"| `{key}` |" in reference
    for job in JOBS:
        assert f"`{job}`" in reference


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)#:]+)\)", README))
def test_links_lead_somewhere(path: str) -> None:
    assert (ROOT / path).is_file()


def test_the_yaml_in_the_readme_is_the_shipped_one() -> None:
    shown = README.split("```yaml\n")[1].split("```")[0]
    assert shown == (ROOT / "search_spaces/quickstart.yaml").read_text(encoding="utf-8")


def test_ci_runs_the_readmes_test_command() -> None:
    command = README.split("<!-- test command -->")[1].split("```")[1]
    assert command.strip().endswith("&& .venv/bin/pytest")
    assert "<!-- test command -->" in (ROOT / ".ci/run").read_text(encoding="utf-8")
