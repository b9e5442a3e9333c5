"""The promise of the README's first command, kept by a real run of it."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def sweeper(*arguments: str, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "from sweeper.cli import main; main()", *arguments]
    return subprocess.run(command, cwd=cwd, text=True, env=environment, check=False, **options)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """The quickstart on a terminal of its own: its folder, its exit code, and all the terminal showed."""
    folder = tmp_path_factory.mktemp("quickstart")
    ours, its = pty.openpty()
    seen = folder / "terminal"
    with seen.open("wb") as file:
        reader = subprocess.Popen(["cat"], stdin=ours, stdout=file, stderr=subprocess.DEVNULL)
    result = sweeper("run", str(ROOT / "search_spaces/quickstart.yaml"), cwd=folder, stdout=its, stderr=its)
    os.close(its)
    reader.wait(timeout=30)
    os.close(ours)
    return folder, result.returncode, seen.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rows(done: tuple[Path, int, str]) -> list[dict[str, Any]]:
    return list(json.loads(sweeper("compare", "quickstart", "--json", cwd=done[0], capture_output=True).stdout))


def plain(terminal: str) -> str:
    """What was shown, without the escape sequences that colour and move it."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal)


def test_it_ends_well_and_says_what_comes_next(done: tuple[Path, int, str]) -> None:
    _, code, terminal = done
    assert code == 0, terminal
    last = plain(terminal).rstrip().splitlines()[-1]
    assert last.startswith("next: sweeper compare quickstart --md   or   sweeper ui, then open http://127.0.0.1:5000")


def test_the_best_trial_reads_well_and_a_bad_setting_visibly_loses(rows: list[dict[str, Any]]) -> None:
    values = [row["value"] for row in rows if row["state"] in ("COMPLETE", "PRUNED")]
    assert len(values) >= 8
    assert max(values) >= 0.80
    assert min(values) <= max(values) - 0.20


def test_every_trial_has_its_run_and_the_best_their_checkpoints(rows: list[dict[str, Any]]) -> None:
    assert all(row["run_id"] for row in rows)
    assert rows[0]["checkpoint"]
    assert (Path(rows[0]["checkpoint"]) / "model.safetensors").is_file()


def test_the_terminal_shows_nothing_but_sweepers_own_words(done: tuple[Path, int, str]) -> None:
    shown = plain(done[2])
    for chatter in (
        "Traceback",
        "Warning",
        "WARNING",
        "INFO",
        "transformers",
        "Ray",
        "it/s",
        "DeprecationWarning",
    ):
        assert chatter not in shown


@pytest.mark.long
def test_the_same_file_and_seed_give_the_same_trials_and_metrics(
    done: tuple[Path, int, str], rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    assert done[1] == 0
    again = sweeper("run", str(ROOT / "search_spaces/quickstart.yaml"), cwd=tmp_path, capture_output=True)
    assert again.returncode == 0, again.stderr
    others = json.loads(sweeper("compare", "quickstart", "--json", cwd=tmp_path, capture_output=True).stdout)
    assert [params for _, params in by_trial(others, "params")] == [params for _, params in by_trial(rows, "params")]
    # When a trial is stopped depends on who came first, but what it measured until then does not.
    both = {row["trial"] for row in rows if row["state"] == "COMPLETE"} & {
        row["trial"] for row in others if row["state"] == "COMPLETE"
    }
    assert both
    assert [row for row in by_trial(others, "metrics") if row[0] in both] == [
        row for row in by_trial(rows, "metrics") if row[0] in both
    ]


def by_trial(rows: list[dict[str, Any]], key: str) -> list[tuple[int, Any]]:
    return sorted(((row["trial"], row[key]) for row in rows), key=lambda pair: pair[0])


@pytest.mark.parametrize(
    ("name", "least"),
    [
        pytest.param("mc_quickstart", 0.70, marks=pytest.mark.long),
        pytest.param("longformer_quickstart", 0.40, marks=pytest.mark.long),
    ],
)
def test_the_other_jobs_learn_from_their_small_search_spaces(name: str, least: float, tmp_path: Path) -> None:
    """Chance is 0.25 for `mc`, and next to nothing for `longformer`."""
    file = str(ROOT / "search_spaces" / f"{name}.yaml")
    assert sweeper("run", file, cwd=tmp_path, capture_output=True).returncode == 0
    first, *others = json.loads(sweeper("compare", name, "--json", cwd=tmp_path, capture_output=True).stdout)
    assert first["value"] >= least
    assert len(others) == 3
