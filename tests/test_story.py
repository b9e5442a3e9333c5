"""From nothing to a submission, as a user goes: real commands, real Ray, a real MLflow server."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
COMMAND = [sys.executable, "-c", "from sweeper.cli import main; main()"]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MLflow server with a store of its own, as a team shares one."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    command = [*COMMAND, "ui", "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "MLflow is at" in process.stderr.readline()
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def sweeper(home: Path, address: str, *arguments: str) -> str:
    """What a command that ends well prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": address}
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=home, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def story(home: Path, address: str) -> dict[str, Any]:
    """All of it: the sample as files, a selector, a reader, champions, answers, their score and the evaluation."""
    sweeper(home, address, "data", "sample", "--output", "hw")
    common = ("search.trials=1", "early_stopping=null", "data=hw")
    for name, epochs in (("mc_quickstart", 3), ("quickstart", 2)):
        file = str(ROOT / f"search_spaces/{name}.yaml")
        sweeper(home, address, "run", file, *common, f"parameters.num_train_epochs={epochs}")
    promoted = [sweeper(home, address, "promote", name) for name in ("mc_quickstart", "quickstart")]
    named = ("--context", "hw/context.json", "--test", "hw/test.json")
    submitted = sweeper(home, address, "submit", *named)
    labels = json.loads((home / "hw/test_labels.json").read_text(encoding="utf-8"))
    with (home / "solution.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "answer"), *((row["id"], row["answer"]["text"]) for row in labels)])
    models = ("--mc", "mc@champion", "--qa", "qa@champion")
    return {
        "promoted": promoted,
        "submitted": submitted,
        "score": json.loads(sweeper(home, address, "score", "submission.csv", "solution.csv", "--json")),
        "evaluated": json.loads(sweeper(home, address, "evaluate", "hw", "--split", "test", *models, "--json")),
        "labels": labels,
    }


def test_the_submission_scores_what_the_evaluation_says(story: dict[str, Any]) -> None:
    rows = {row["system"]: row for row in story["evaluated"]["systems"]}
    soft = rows["soft two stages"]
    assert f"weight {soft['weight']:.2f} fitted on" in story["submitted"]
    questions = len(story["labels"])
    assert abs(story["score"]["exact_match"] - soft["exact_match"]["value"]) * questions <= 1
    assert soft["exact_match"]["value"] > 0.3  # the short training has learnt something
    assert soft["exact_match"]["value"] >= rows["two stages"]["exact_match"]["value"] - 0.02


def test_every_question_is_answered_once_and_in_order(story: dict[str, Any], home: Path) -> None:
    with (home / "submission.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["id", "answer"]
    assert [row[0] for row in rows] == [row["id"] for row in story["labels"]]
    assert all(answer for _, answer in rows)


def test_champions_and_the_submission_are_on_record(story: dict[str, Any], address: str) -> None:
    assert "mc_quickstart/0 is champion of mc (version 1)" in story["promoted"][0]
    client = MlflowClient(tracking_uri=address, registry_uri=address)
    assert client.get_model_version_by_alias("qa", "champion").tags["trial"] == "quickstart/0"
    experiment = client.get_experiment_by_name("submissions")
    (run,) = client.search_runs([experiment.experiment_id])
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["submission.csv"]


def test_an_exported_folder_gives_the_same_answers_by_itself(story: dict[str, Any], home: Path, address: str) -> None:
    sweeper(home, address, "export", "bundle")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "answer.py", *(str(home / "hw" / f"{name}.json") for name in ("context", "test"))]
    subprocess.run([*command, str(home / "again.csv")], cwd=home / "bundle", env=environment, check=True)
    assert (home / "again.csv").read_bytes() == (home / "submission.csv").read_bytes()
    sums = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=home / "bundle", check=False)
    assert sums.returncode == 0


def test_the_same_trial_is_not_promoted_twice(story: dict[str, Any], home: Path, address: str) -> None:
    assert "is the champion of qa (version 1) already" in sweeper(home, address, "promote", "quickstart")


def test_the_best_setting_comes_out_as_a_file_that_runs_it_again(
    story: dict[str, Any], home: Path, address: str
) -> None:
    (home / "again.yaml").write_text(sweeper(home, address, "best", "quickstart"), encoding="utf-8")
    assert "1 trials of qa on" in sweeper(home, address, "plan", "again.yaml")


def test_reports_and_mistakes_are_there(story: dict[str, Any], home: Path, address: str) -> None:
    sweeper(home, address, "report", "quickstart")
    assert "<svg" in (home / "quickstart.html").read_text(encoding="utf-8")
    kinds = json.loads(sweeper(home, address, "errors", "quickstart", "--json"))
    assert kinds["questions"] == 384
    sweeper(home, address, "evaluate", "hw", "--split", "test", "--mc", "mc_quickstart", "--json")
    table = json.loads(sweeper(home, address, "compare", "quickstart", "mc_quickstart", "--json"))
    tests = {row["job"]: row["test"] for row in table}
    paragraph = story["evaluated"]["systems"][1]["paragraph_accuracy"]["value"]
    assert tests == {"qa": None, "mc": pytest.approx(paragraph)}
