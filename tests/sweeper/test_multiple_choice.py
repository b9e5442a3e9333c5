"""Multiple-choice questions are read by selectors alone, from the check before a sweep to the submission."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from jobs.answering.submission import read_answers
from jobs.dataset.data import Data, read_data
from sweeper.commands.release import team_of
from sweeper.errors import ConfigError
from sweeper.release.submit import submit_answers
from sweeper.space.reading import read_search_space
from sweeper.storage.settings import read_stores
from tests.support.commands import invoke

SPACE = """name: choice
job: {job}
data: {data}
objective: {objective}
parameters: {{num_train_epochs: 1}}
search: {{trials: 1}}
"""


@pytest.fixture(scope="module")
def choice(few: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set that is said to hold multiple-choice questions."""
    folder = tmp_path_factory.mktemp("choice") / "data"
    shutil.copytree(few.location, folder)
    (folder / "origin.json").write_text('{"kind": "options"}', encoding="utf-8")
    return folder


@pytest.mark.parametrize(("job", "objective"), [("qa", "f1"), ("longformer", "f1")])
def test_jobs_that_read_refuse_it_before_the_sweep(choice: Path, tmp_path: Path, job: str, objective: str) -> None:
    path = tmp_path / "choice.yaml"
    path.write_text(SPACE.format(job=job, data=choice, objective=objective), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_search_space(path)
    (line,) = caught.value.lines
    assert line.startswith(f"{path}:3: data: ")
    assert line.endswith(
        "holds multiple-choice questions, whose answers are whole options;"
        f" job {job} marks answers inside paragraphs; use job mc"
    )


@pytest.mark.parametrize(("job", "objective"), [("mc", "accuracy"), ("tests.support.free_job:JOB", "score")])
def test_selectors_and_jobs_of_ones_own_accept_it(choice: Path, tmp_path: Path, job: str, objective: str) -> None:
    path = tmp_path / "choice.yaml"
    path.write_text(SPACE.format(job=job, data=choice, objective=objective), encoding="utf-8")
    assert read_search_space(path).data == str(choice)


def test_the_commands_end_with_one_line(choice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "choice.yaml"
    path.write_text(SPACE.format(job="qa", data=choice, objective="f1"), encoding="utf-8")
    for command in (["plan", str(path)], ["run", str(path)], ["init", "longformer", "--data", str(choice)]):
        done = invoke(*command)
        assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert "use job mc" in done.stderr
    assert list(tmp_path.iterdir()) == [path]


def test_a_selector_alone_submits_an_option_for_each_question(
    choice: Path, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    stores, output = read_stores(tmp_path, {}), tmp_path / "submission.csv"
    named = {"mc": str(checkpoints["mc"]), "qa": "nowhere@champion", "end_to_end": None, "ensemble": 1}
    team = team_of(stores, options=True, **named)  # type: ignore[arg-type]
    answers = submit_answers(team, choice / "context.json", choice / "test.json", output, stores, None)
    assert (answers.note, answers.corrections) == ("the options that the selector picks", ())
    data, given = read_data(str(choice)), read_answers(output)
    for row in data.test:
        assert given.pop(row.id) in [data.paragraphs[index] for index in row.paragraphs]
    assert not given


def test_an_end_to_end_model_is_no_answer_to_multiple_choice_questions(
    choice: Path, checkpoints: dict[str, Path]
) -> None:
    files = ["--context", str(choice / "context.json"), "--test", str(choice / "test.json")]
    done = invoke("submit", *files, "--end-to-end", str(checkpoints["longformer"]))
    assert done.exit_code == 2
    assert done.stderr == (
        "--end-to-end: marks answers inside paragraphs, but these are multiple-choice questions; use --mc alone\n"
    )


def test_evaluate_shows_the_selector_and_refuses_readers(
    choice: Path, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke("evaluate", str(choice), "--mc", str(checkpoints["mc"]), "--json")
    assert done.exit_code == 0, done.stderr
    systems = json.loads(done.stdout)["systems"]
    assert [system["system"] for system in systems] == ["BM25", "selector"]
    done = invoke("evaluate", str(choice), "--mc", str(checkpoints["mc"]), "--qa", str(checkpoints["qa"]))
    assert (done.exit_code, done.stderr) == (
        2,
        "--qa: marks answers inside paragraphs, but these are multiple-choice questions; use --mc alone\n",
    )
