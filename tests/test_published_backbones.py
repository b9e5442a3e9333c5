"""Test that the search spaces of the report's six backbones run to the table, the champions and a submission.

Real commands on local folders with the backbones' real configs and vocabulary sizes, but one layer and random weights.
"""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.dataset.data import Data
from sweeper.space.reading import find_file, read_search_space
from tests.support import six_backbones

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-c", "from sweeper.cli import main; main()"]
NAMES = ("mc_backbones", "qa_backbones")
TRIALS = 7  # the six known settings and one that the sampler chooses
pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project folder with the six backbones."""
    folder = tmp_path_factory.mktemp("home")
    for name in six_backbones.BACKBONES:
        six_backbones.build(name, folder / "models")
    return folder


def sweeper(home: Path, *arguments: str) -> str:
    """Return what a command that ends well prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=home, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def local_copy(name: str, home: Path) -> Path:
    """Write a shipped search space with the folders instead of the backbones; the published scores stay as they are."""
    text, mark, scores = find_file(name).read_text(encoding="utf-8").partition("\nreference:")
    for backbone in sorted(six_backbones.BACKBONES, key=len, reverse=True):
        text = text.replace(backbone, str(home / "models" / backbone.rpartition("/")[2]))
    file = home / f"{name}.yaml"
    file.write_text(text + mark + scores, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def swept(home: Path, few: Data) -> list[dict[str, Any]]:
    """Run both search spaces, an epoch a trial, and return the rows of `compare --json`."""
    for name in NAMES:
        changes = (f"data={few.location}", f"search.trials={TRIALS}", "parameters.num_train_epochs=1")
        sweeper(home, "run", str(local_copy(name, home)), *changes)
    return [row for name in NAMES for row in json.loads(sweeper(home, "compare", name, "--json"))]


def test_every_backbone_is_trained_with_its_known_setting(swept: list[dict[str, Any]]) -> None:
    assert [row["reason"] for row in swept if row["state"] == "FAIL"] == []
    assert len(swept) == len(NAMES) * TRIALS
    assert {Path(row["params"]["backbone"]).name for row in swept} == {
        name.rpartition("/")[2] for name in six_backbones.BACKBONES
    }


def test_one_command_prints_the_backbones_beside_the_reports_figures(swept: list[dict[str, Any]], home: Path) -> None:
    for name in NAMES:
        figures = read_search_space(find_file(name)).reference
        lines = list(csv.DictReader(io.StringIO(sweeper(home, "compare", name, "--reference", "--csv"))))
        assert len(lines) == len(six_backbones.BACKBONES)
        told = {Path(line["backbone"]).name: line["reference"] for line in lines if line["reference"]}
        assert told == {backbone.rpartition("/")[2]: str(score) for backbone, score in figures.items()}
        assert all(line["difference"] for line in lines if line["reference"])
        assert sweeper(home, "compare", name, "--reference", "--md").count("\n| ") == len(six_backbones.BACKBONES) + 1


def test_the_best_become_champions_and_answer_a_contest(swept: list[dict[str, Any]], home: Path, few: Data) -> None:
    for name in NAMES:
        assert f"is champion of {name.partition('_')[0]} (version 1)" in sweeper(home, "promote", name)
    files = ("--context", f"{few.location}/context.json", "--test", f"{few.location}/test.json")
    sweeper(home, "submit", *files, "--output", "answers.csv")
    with (home / "answers.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [row.id for row in few.test]
    assert all(row["answer"].strip() for row in rows)
