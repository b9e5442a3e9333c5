"""The README says what is so: commands, files, exit codes; and every shipped search space is right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jobs import JOBS
from sweeper.cli import main
from sweeper.search_space import grid, read_search_space
from sweeper.section import File

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SPACES = sorted((ROOT / "search_spaces").rglob("*.yaml"))


def test_every_command_is_in_the_table() -> None:
    told = set(re.findall(r"^\| `sweeper ([a-z]+)", README, re.MULTILINE))
    assert told == set(main.commands)


def test_every_module_is_in_the_tree_and_nothing_else() -> None:
    tree = README.split("## The house")[1].split("```")[1]
    told = set(re.findall(r"\b(\w+)\.py\b", tree)) - {"conftest", "toy", "test_floors"}
    there = {path.stem for package in ("jobs", "sweeper") for path in (ROOT / package).glob("*.py")} - {"__init__"}
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


def test_two_search_spaces_are_shipped() -> None:
    assert [path.stem for path in SPACES] == ["qa_backbones", "quickstart"]


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_a_shipped_search_space_is_right_and_opens_with_its_command(path: Path) -> None:
    space = read_search_space(path)
    assert space.name == path.stem
    opening = path.read_text(encoding="utf-8").split("name:")[0]
    assert opening.startswith("# yaml-language-server: $schema=./schema.json\n# ")
    assert "?" in opening
    assert re.search(rf"#   sweeper run  {path.name}", opening)
    for command in re.findall(rf"#   sweeper \w+ +{path.name} (\S+=\S+(?: \S+=\S+)*)", opening):
        overrides = [override for override in command.split() if override != "data=path/to/data"]
        assert read_search_space(path, overrides)
    assert space.search.sampler != "grid" or next(grid(space))


def test_the_reports_recipe_is_tried_first() -> None:
    first = read_search_space(ROOT / "search_spaces/qa_backbones.yaml").search.enqueue[0]
    assert first == {
        "backbone": "hfl/chinese-pert-large",
        "learning_rate": 3e-5,
        "warmup_ratio": 0.0,
        "warmup_steps": 1500,
    }
