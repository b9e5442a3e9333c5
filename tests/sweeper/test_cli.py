"""The command line from outside: exit codes, what is printed where, and what is left behind."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.cli import main
from sweeper.cluster import capacity
from sweeper.commands.base import show
from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import create_ledger
from sweeper.results.table import Table
from sweeper.space.search_space import SearchSpace
from tests.support.commands import invoke
from tests.support.spaces import TOY

ROOT = Path(__file__).parents[2]
Make = Callable[..., SearchSpace]


SUBCOMMANDS = [["data", name] for name in main.commands["data"].commands]  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", [[], *([name] for name in main.commands), *SUBCOMMANDS])
def test_every_command_has_help(command: list[str]) -> None:
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 4


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_missing_data_folder_ends_in_exit_3_and_nothing_is_created(here: Path, command: str) -> None:
    (here / "toy.yaml").write_text(TOY.replace("data: sample", "data: nowhere"), encoding="utf-8")
    result = invoke(command, "toy.yaml")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith(f"toy.yaml:3: data: there is no folder '{here / 'nowhere'}'")
    assert [path.name for path in here.iterdir()] == ["toy.yaml"]


def test_an_answer_that_is_not_at_its_offset_ends_in_exit_3(here: Path) -> None:
    row = {
        "id": "q0",
        "question": "在哪？",
        "paragraphs": [0, 1],
        "relevant": 0,
        "answer": {"text": "南投", "start": 5},
    }
    (here / "data").mkdir()
    for name, content in {
        "context": ["日月潭在南投。", "旁邊"],
        "train": [row],
        "valid": [{**row, "id": "q1"}],
    }.items():
        (here / "data" / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    (here / "toy.yaml").write_text(TOY.replace("data: sample", "data: data"), encoding="utf-8")
    result = invoke("run", "toy.yaml")
    assert result.exit_code == 3
    assert (
        "train.json: row 0 (id 'q0'): answer: '南投' is not at start 5 of paragraph 0; it starts at 4" in result.stderr
    )
    assert not (here / "sweeps").exists()


def test_a_missing_backbone_is_refused_before_anything_is_created(here: Path) -> None:
    result = invoke("run", str(ROOT / "search_spaces/quickstart.yaml"), "parameters.backbone=hfl/chinese-no-such-model")
    assert result.exit_code == 4
    lines = result.stderr.splitlines()
    assert lines[-1].startswith(
        "backbone hfl/chinese-no-such-model: is not in the local model cache and the hub cannot be reached"
    )
    assert not list(here.iterdir())


def test_compare_and_ls_read_the_ledger(here: Path, toy_space: Make) -> None:
    space = toy_space()
    ledger = create_ledger(open_storage(f"sqlite:///{here}/sweeps/ledger.db"), space, "toy")
    for value in (0.25, 0.75):
        record = ledger.ask(space)
        assert record is not None
        ledger.report(record.number, {"height": value, "eval_loss": 0.5, "epoch": 4.0, "seconds": 3.0}, None)
        ledger.finish(record.number, "COMPLETE")
    rows = json.loads(invoke("compare", "toy", "--json").stdout)
    assert [(row["trial"], row["value"], row["state"]) for row in rows] == [
        (1, 0.75, "COMPLETE"),
        (0, 0.25, "COMPLETE"),
    ]
    assert invoke("compare", "toy", "--md").stdout.startswith("| trial | state | height |")
    assert invoke("compare", "toy", "--csv").stdout.startswith("trial,state,height,")
    assert "0.75" in invoke("compare", "toy").stdout
    assert "toy" in invoke("ls").stdout
    wrong = invoke("compare", "toi")
    assert (wrong.exit_code, wrong.stderr.strip()) == (2, "unknown sweep 'toi'; did you mean 'toy'? known here: toy")


@pytest.mark.parametrize("command", [["ls"], ["compare", "toy"]])
def test_reading_where_nothing_was_run_creates_nothing(here: Path, command: list[str]) -> None:
    result = invoke(*command)
    assert result.exit_code == 2
    assert "run a sweep first" in result.stderr
    assert not list(here.iterdir())


def test_the_schema_in_the_folder_is_the_one_that_is_printed() -> None:
    assert invoke("schema").stdout == (ROOT / "search_spaces/schema.json").read_text(encoding="utf-8")


def test_doctor_finds_this_installation_whole(here: Path) -> None:
    result = invoke("doctor")
    assert result.exit_code == 0, result.output
    assert {"python", "torch", "ray", "mlflow", "devices", "disk", "ledger"} <= {
        line.split()[1] for line in result.stdout.splitlines()
    }
    assert not list(here.iterdir())


def test_doctor_and_plan_show_the_cpus_and_the_memory_that_count(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capacity, "cpu_quota", lambda: 0.5)
    monkeypatch.setattr(capacity, "memory_limit", lambda: 2**30)
    monkeypatch.setattr(capacity, "machine_memory", lambda: 2**33)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "1 CPU (cgroup quota 0.5), 0 GPU, memory 1.0 GiB (cgroup limit" in invoke("doctor").stdout
    plan = invoke("plan", "toy.yaml").stdout
    assert "trials: 1 at once: each reserves 1 CPU, of 1 CPU (cgroup quota 0.5)\n" in plan
    assert "memory: 1.0 GiB (cgroup limit; the machine has 8.0 GiB) for all trials that run at once\n" in plan


def test_the_command_after_a_plan_can_be_pasted_into_a_shell(toy_folder: Path) -> None:
    override = "search.enqueue=[{learning_rate: 0.001}]"
    (line,) = invoke("plan", "toy.yaml", override).stderr.splitlines()
    assert shlex.split(line.removeprefix("next: ")) == ["sweeper", "run", "toy.yaml", override]


def test_the_sample_can_be_written_checked_and_is_not_overwritten(here: Path) -> None:
    assert invoke("data", "sample", "--output", "mine").exit_code == 0
    described = json.loads(invoke("data", "check", "mine", "--json").stdout)
    built_in = json.loads(invoke("data", "check", "sample", "--json").stdout)
    assert described["questions"] == built_in["questions"] == {"train": 2560, "valid": 384, "test": 384}
    assert "answer" not in json.loads((here / "mine/test.json").read_text(encoding="utf-8"))[0]
    again = invoke("data", "sample", "--output", "mine")
    assert (again.exit_code, again.stderr.strip()) == (3, "mine: already exists and is not empty; name a new folder")


def test_a_corpus_is_converted_and_its_mistakes_are_told(here: Path) -> None:
    def article(n: int) -> dict[str, object]:
        asked = {"id": f"q{n}", "question": "在哪？", "answers": [{"id": "1", "text": "台灣", "answer_start": 2}]}
        return {"title": f"t{n}", "paragraphs": [{"context": f"湖在台灣{n}號。", "qas": [asked]}]}

    (here / "corpus.json").write_text(json.dumps({"data": [article(n) for n in range(12)]}), encoding="utf-8")
    done = invoke("data", "convert", "out", "--train", "corpus.json", "--valid-share", "0.4")
    assert done.exit_code == 0, done.output
    assert invoke("data", "check", "out").exit_code == 0
    wrong = invoke("data", "convert", "other", "--train", "nowhere.json", "--valid-share", "0.4")
    assert wrong.exit_code == 3
    assert "nowhere.json" in wrong.stderr
    assert not (here / "other").exists()


def sweeper(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "from sweeper.cli import main; main()", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, timeout=200, check=False)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_sweep_from_empty_to_its_table_and_not_twice(here: Path) -> None:
    (here / "toy.yaml").write_text(TOY, encoding="utf-8")
    done = sweeper("run", "toy.yaml", "search.trials=3", "parameters.warmup_ratio=0.0", cwd=here)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("COMPLETE") == 3
    lines = done.stderr.splitlines()
    assert lines[0] == "toy: 3 trials of tests.toy:JOB on sample, by height"
    assert sorted(line[:9] for line in lines[1:4]) == ["trial   0", "trial   1", "trial   2"]
    assert lines[4].startswith(
        "next: sweeper compare toy --md   or   sweeper ui, then open http://127.0.0.1:5000/#/exp"
    )
    assert len(lines) == 5, "third-party chatter on the terminal"
    rows = json.loads(sweeper("compare", "toy", "--json", cwd=here).stdout)
    assert all(row["run_id"] for row in rows)
    assert len(list((here / "sweeps/toy/trials").glob("*/checkpoint-*"))) == 3

    again = sweeper("run", "toy.yaml", "search.trials=3", "parameters.warmup_ratio=0.0", cwd=here)
    assert (again.returncode, json.loads(sweeper("compare", "toy", "--json", cwd=here).stdout)) == (0, rows)

    other = sweeper("run", "toy.yaml", "search.trials=3", "search.seed=9", "parameters.warmup_ratio=0.0", cwd=here)
    assert other.returncode == 2
    assert other.stderr.splitlines()[-1].strip() == "search.seed: was 1, is 9"

    failed = sweeper("run", "toy.yaml", "search.trials=1", "parameters.trouble=raise", "name=bad", cwd=here)
    assert failed.returncode == 1
    cause = "bad: no trial ended well; trial 0 was the first to fail: RuntimeError: the hill is closed"
    assert failed.stderr.splitlines()[-2] == cause


def test_a_table_wider_than_any_terminal_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"a_parameter_with_a_long_name_{number}" for number in range(20)]
    show(Table(names, [[f"value {number}" for number in range(20)]], frozenset()))
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)
    assert all(f"value {number}" in printed for number in range(20))
