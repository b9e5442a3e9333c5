from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.answering.evaluation import Estimate, SystemScore
from jobs.dataset.data import Data
from sweeper.results import evaluation, table
from tests.support.commands import invoke

BM25 = SystemScore("BM25", 8, Estimate(0.875, 0.5, 1.0), None, None, None, None, None, 1234.5)
SOFT = SystemScore(
    "soft|two stages",
    8,
    Estimate(0.75, 0.5, 1.0),
    Estimate(0.5, 0.25, 0.75),
    Estimate(0.375, 0.1, 0.6),
    Estimate(0.4, 0.2, 0.6),
    0.4,
    0.6,
    2.0,
    0.31,
)


def test_what_a_system_does_not_have_is_a_dash() -> None:
    assert evaluation.system_cells(BM25) == ["BM25", "0.875 [0.50, 1.00]", "–", "–", "–", "–", "–", "1,234"]
    assert evaluation.system_cells(SOFT)[0] == "soft|two stages (weight 0.31)"
    assert evaluation.system_cells(SOFT)[5:7] == ["40%", "60%"]


def test_markdown_keeps_its_columns() -> None:
    lines = table.table_markdown(evaluation.systems_table([BM25, SOFT], "test", "drcd")).splitlines()
    assert {line.replace("\\|", "").count("|") for line in lines[:4]} == {len(evaluation.HEADER) + 1}
    assert lines[-1] == "8 test questions, EM and F1: drcd, 95 % bootstrap intervals"


def test_json_has_full_precision() -> None:
    content = json.loads(evaluation.systems_json([BM25, SOFT], "test", "drcd"))
    assert (content["split"], content["profile"]) == ("test", "drcd")
    assert content["systems"][1]["exact_match"] == {"value": 0.375, "low": 0.1, "high": 0.6}
    assert content["systems"][0]["f1"] is None


def test_the_command_compares_what_it_is_given(
    few: Data, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = [part for job, folder in checkpoints.items() for part in (f"--{job}", str(folder))]
    result = invoke("evaluate", few.location, *named, "--split", "test", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["systems"]
    assert [row["system"] for row in found] == ["BM25, then read", "two stages", "soft two stages", "end to end"]


def test_a_checkpoint_of_another_job_is_one_line(
    few: Data, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("evaluate", few.location, "--qa", str(checkpoints["mc"]))
    assert result.exit_code == 2
    assert result.stderr == f"checkpoint {checkpoints['mc']}: was made by job mc; name a checkpoint of qa\n"
    result = invoke("evaluate", str(tmp_path / "nowhere"))
    assert result.exit_code == 3
