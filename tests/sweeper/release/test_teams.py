from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.storages import RDBStorage

from jobs.answering import offline
from jobs.answering.answers import Answer
from jobs.dataset.data import Data
from sweeper.errors import ConfigError, EnvironmentFailure
from sweeper.ledger.ledger import create_ledger
from sweeper.release import submit
from sweeper.release.export import export_team
from sweeper.release.submit import submit_answers
from sweeper.release.teams import Answers, Team, best_readers, load_two_stages, weight_and_note
from sweeper.space.search_space import SearchSpace
from sweeper.storage.settings import Stores, read_stores
from tests.support.commands import invoke
from tests.support.limits import fill, killed_at, largest_file, mounted
from tests.support.sources import ROOT


@pytest.fixture
def place(tmp_path: Path) -> Stores:
    return read_stores(tmp_path, {})


def files(few: Data) -> tuple[Path, Path]:
    folder = Path(few.location)
    return folder / "context.json", folder / "test.json"


def team(checkpoints: dict[str, Path], readers: int = 1) -> Team:
    return Team(checkpoints["mc"], (checkpoints["qa"],) * readers)


def test_the_weight_is_fitted_where_the_reader_was_validated(
    few: Data, checkpoints: dict[str, Path], place: Stores, tmp_path: Path
) -> None:
    weight, note = weight_and_note(team(checkpoints), *load_two_stages(team(checkpoints), tmp_path))
    assert 0 <= weight <= 1
    assert note.endswith(f"weight {weight:.2f} fitted on {len(few.valid)} validation questions")


def test_without_these_questions_the_plain_pipeline_answers(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    moved = tmp_path / "reader"
    shutil.copytree(checkpoints["qa"], moved)
    made = json.loads((moved / "job.json").read_text(encoding="utf-8"))
    (moved / "job.json").write_text(json.dumps({**made, "data": str(tmp_path / "gone")}), encoding="utf-8")
    moved_team = Team(checkpoints["mc"], (moved,))
    weight, note = weight_and_note(moved_team, *load_two_stages(moved_team, tmp_path))
    assert (weight, note.split(",")[0]) == (0.0, "plain pipeline")
    assert "has no validation questions to fit" in note
    (moved / "job.json").write_text(json.dumps({**made, "data_fingerprint": "another"}), encoding="utf-8")
    assert "has changed since" in weight_and_note(moved_team, *load_two_stages(moved_team, tmp_path))[1]


@pytest.mark.parametrize("kind", ["two stages", "two readers", "end to end"])
def test_a_submission_has_an_answer_for_each_question(
    kind: str, few: Data, checkpoints: dict[str, Path], place: Stores, tmp_path: Path
) -> None:
    teams = {
        "two stages": team(checkpoints),
        "two readers": team(checkpoints, 2),
        "end to end": Team(end_to_end=checkpoints["longformer"]),
    }
    output = tmp_path / "submission.csv"
    answers = submit_answers(teams[kind], *files(few), output, place, weight=0.0)
    lines = output.read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[0] for line in lines] == ["id", *(row.id for row in few.test)]
    assert [answer.id for answer in answers.rows] == [row.id for row in few.test]


def test_answers_a_contest_would_refuse_are_corrected_and_counted(
    few: Data, place: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [Answer(row.id, row.paragraphs[0], 0, " ", 1.0) for row in few.test[2:]]
    monkeypatch.setattr(submit, "team_answers", lambda *_: Answers(given, 0.0, ""))
    output = tmp_path / "submission.csv"
    answers = submit_answers(Team(), *files(few), output, place, None)
    assert [line.split(",")[0] for line in output.read_text(encoding="utf-8").splitlines()[1:]] == [
        row.id for row in few.test
    ]
    assert all(len(answer.text) > 1 for answer in answers.rows)
    assert answers.corrections == (
        f"corrected: no answer, given text of a paragraph: 2 ('{few.test[0].id}', '{few.test[1].id}')",
        "corrected: empty answer, given text of a paragraph: 6 "
        f"('{few.test[2].id}', '{few.test[3].id}', '{few.test[4].id}', …)",
    )


CORRECTED = "submission.csv: corrected: empty answer, given text of a paragraph: 8 ("


def test_a_corrected_submission_is_told_and_is_no_failure(
    few: Data, checkpoints: dict[str, Path], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [Answer(row.id, row.paragraphs[0], 0, "\r\n", 1.0) for row in few.test]
    monkeypatch.setattr(submit, "team_answers", lambda *_: Answers(given, 0.0, "end to end"))
    monkeypatch.setattr(submit, "record_submission", lambda *_: None)
    context, test = map(str, files(few))
    done = invoke("submit", "--context", context, "--test", test, "--end-to-end", str(checkpoints["longformer"]))
    assert done.exit_code == 0, done.stderr
    assert done.stderr.startswith(CORRECTED)
    assert len((here / "submission.csv").read_text(encoding="utf-8").splitlines()) == 9


def test_the_exported_program_writes_and_tells_what_it_corrected(
    few: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [Answer(row.id, row.paragraphs[0], 0, "\u3000", 1.0) for row in few.test]
    monkeypatch.setattr(offline, "exported_answers", lambda *_: given)
    output = tmp_path / "submission.csv"
    assert offline.main([*map(str, files(few)), str(output)], tmp_path) == 0
    assert f"{tmp_path}/{CORRECTED}" in capsys.readouterr().err
    assert len(output.read_text(encoding="utf-8").splitlines()) == 9


def test_a_folder_that_cannot_be_written_is_one_line(
    few: Data, checkpoints: dict[str, Path], place: Stores, tmp_path: Path
) -> None:
    with pytest.raises(EnvironmentFailure, match="does not exist; create it, or name another place"):
        submit_answers(team(checkpoints), *files(few), tmp_path / "nowhere" / "submission.csv", place, 0.0)


def modules_of(folder: Path) -> dict[str, bytes]:
    """Return the content of each Python file below a folder, by its path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.py")}


def test_an_exported_folder_answers_by_itself(
    few: Data, checkpoints: dict[str, Path], place: Stores, tmp_path: Path
) -> None:
    mine, its = tmp_path / "mine.csv", tmp_path / "its.csv"
    submit_answers(team(checkpoints), *files(few), mine, place, 0.3)
    folder = tmp_path / "bundle"
    assert export_team(team(checkpoints), folder, place, 0.3) == "weight 0.3 as given"
    command = [sys.executable, "answer.py", *map(str, files(few)), str(its)]
    subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": ""}, check=True)
    assert its.read_bytes() == mine.read_bytes()
    check = subprocess.run(["sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS"], cwd=folder, check=False)
    assert check.returncode == 0
    assert not [path for path in folder.rglob("*") if path.suffix in (".pt", ".bin", ".pth")]
    assert modules_of(folder / "jobs") == modules_of(ROOT / "jobs")
    assert len(modules_of(folder / "jobs")) >= 30
    with pytest.raises(ConfigError, match="exists and is not empty; name a new folder"):
        export_team(team(checkpoints), folder, place, 0.3)


def test_the_exported_program_tells_what_is_wrong(
    few: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert offline.main([], tmp_path) == 2
    assert offline.main([str(tmp_path / name) for name in "abc"], tmp_path) == 3
    assert capsys.readouterr().err.startswith(offline.USAGE)
    assert offline.main([*map(str, files(few)), str(tmp_path / "a.csv")], tmp_path) == 4
    assert "team.json" in capsys.readouterr().err


def test_the_exported_jobs_need_nothing_of_sweeper(tmp_path: Path, checkpoints: dict[str, Path], place: Stores) -> None:
    folder = tmp_path / "bundle"
    export_team(Team(end_to_end=checkpoints["longformer"]), folder, place)
    absent = "('sweeper', 'ray', 'mlflow')"
    code = f"import sys, jobs.answering.offline; print([m for m in sys.modules if m.split('.')[0] in {absent}])"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_ensemble_is_the_best_readers_that_were_kept(
    storage: RDBStorage, toy_space: Callable[..., SearchSpace], checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    ledger = create_ledger(storage, toy_space(), "readers")
    for value, kept in ((0.2, True), (0.9, True), (0.5, False)):
        record = ledger.ask(toy_space())
        assert record is not None
        folder = tmp_path / str(record.number)
        if kept:
            shutil.copytree(checkpoints["qa"], folder)
        ledger.report(record.number, {"height": value, "eval_loss": 0.0, "epoch": 1.0, "seconds": 1.0}, str(folder))
        ledger.finish(record.number, "COMPLETE")
    stores = read_stores(tmp_path, {"SWEEPER_LEDGER": f"sqlite:///{tmp_path}/ledger.db"})
    assert [folder.name for folder in best_readers("readers", 2, stores)] == ["1", "0"]
    with pytest.raises(ConfigError, match="has kept 2 checkpoints; ask for fewer"):
        best_readers("readers", 3, stores)
    with pytest.raises(ConfigError, match="name one with --qa SWEEP"):
        best_readers("qa@champion", 2, stores)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["submit", "--context", "c", "--test", "t", "--weight", "nan"], "nan is not a number"),
        (["submit", "--context", "c", "--test", "t", "--ensemble", "0"], "x>=1"),
        (["export", "bundle", "--ensemble", "-1"], "x>=1"),
        (["promote", "toy", "--force", "--significant"], "--force: cannot be combined"),
        (["errors", "toy", "--examples", "-1"], "x>=0"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert told in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_place_that_is_not_there_is_told_before_the_work(
    few: Data, place: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "team_answers", lambda *_: pytest.fail("worked before it looked"))
    with pytest.raises(EnvironmentFailure, match=r"folder .*nowhere does not exist"):
        submit_answers(Team(), *files(few), tmp_path / "nowhere" / "a.csv", place, None)
    with pytest.raises(EnvironmentFailure, match=r"folder .*nowhere does not exist"):
        export_team(Team(), tmp_path / "nowhere" / "bundle", place, None)


def test_an_export_that_is_killed_leaves_nothing_and_the_next_one_is_whole(
    few: Data, checkpoints: dict[str, Path], place: Stores, tmp_path: Path
) -> None:
    folder, ours = tmp_path / "out/bundle", Team(end_to_end=checkpoints["longformer"])
    folder.parent.mkdir()
    killed_at("export.rename:1:kill", tmp_path / "log", lambda: export_team(ours, folder, place))
    assert not folder.exists()
    export_team(ours, folder, place)
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]
    check = subprocess.run(["sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS"], cwd=folder, check=False)
    assert check.returncode == 0


def test_a_disk_that_is_full_at_any_size_gets_no_export(
    few: Data, checkpoints: dict[str, Path], place: Stores, tmp_path: Path
) -> None:
    folder, ours = tmp_path / "out/bundle", Team(end_to_end=checkpoints["longformer"])
    folder.parent.mkdir()
    largest = max(path.stat().st_size for path in checkpoints["longformer"].glob("*.safetensors"))
    for room in (*range(0, largest, largest // 20), largest - 1):
        with (
            largest_file(room),
            pytest.raises(EnvironmentFailure, match=r"out/bundle: .*nothing was written") as caught,
        ):
            export_team(ours, folder, place)
        assert len(caught.value.lines) == 1
        assert not list(folder.parent.iterdir())
    export_team(ours, folder, place)
    assert folder.is_dir()


def test_a_full_disk_leaves_the_old_submission_and_says_how_much_is_free(
    few: Data, place: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Answer(row.id, 0, 0, "山" * 2000, 1.0) for row in few.test]
    monkeypatch.setattr(submit, "team_answers", lambda *_: Answers(rows, 0.0, ""))
    monkeypatch.setattr(submit.submission, "corrected_answers", lambda data, rows, answers: (answers, ()))
    with mounted(tmp_path / "disk", "128k") as disk:
        output = disk / "submission.csv"
        submit_answers(Team(), *files(few), output, place, None)
        old, filler = output.read_bytes(), fill(disk)
        with pytest.raises(EnvironmentFailure) as caught:
            submit_answers(Team(), *files(few), output, place, None)
        told = f"{output}: No space left on device (0 bytes free); {submit.NOT_WRITTEN}"
        assert caught.value.lines == (told,)
        assert sorted(path.name for path in disk.iterdir()) == ["filler", "submission.csv"]
        assert output.read_bytes() == old
        filler.unlink()
        submit_answers(Team(), *files(few), output, place, None)


def test_a_place_that_is_read_only_is_told_before_anything_is_written(
    few: Data, place: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Answer(row.id, 0, 0, "山", 1.0) for row in few.test]
    monkeypatch.setattr(submit, "team_answers", lambda *_: Answers(rows, 0.0, ""))
    monkeypatch.setattr(submit.submission, "corrected_answers", lambda data, rows, answers: (answers, ()))
    with mounted(tmp_path / "disk", "128k") as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(EnvironmentFailure, match="Read-only file system; nothing was written"):
            submit_answers(Team(), *files(few), disk / "submission.csv", place, None)
