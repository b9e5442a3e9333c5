from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from jobs import checkpoint
from jobs.dataset.convert import write_sample
from jobs.dataset.data import Question, read_data
from jobs.metrics import mean_scores
from sweeper.errors import ConfigError, DataFailure, Failure
from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import create_ledger
from sweeper.ledger.lookup import Trial, find_trial
from sweeper.results import table
from sweeper.results.mistakes import compare_diagnoses, diagnose, kind_name, mistake_tables, percent_of, shorten_text
from sweeper.results.scores import question_scores
from sweeper.space.reading import read_search_space

Predict = Callable[[Question], Mapping[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose first validation question and answer try to be more than text."""
    target = tmp_path_factory.mktemp("data") / "set"
    write_sample(target)
    for split in ("train", "valid", "test"):
        rows = json.loads((target / f"{split}.json").read_text(encoding="utf-8"))[:8]
        (target / f"{split}.json").write_text(json.dumps(rows), encoding="utf-8")
    rows = json.loads((target / "valid.json").read_text(encoding="utf-8"))
    rows[0]["question"] = "[red]哪裡[/red]？<script>alert(1)</script>\x1b[31m\u202e|"
    (target / "valid.json").write_text(json.dumps(rows), encoding="utf-8")
    return target


def true_score(answers: Sequence[Any], objective: str, profile: str, location: str) -> float:
    """The score of these answers, or 0 where they are not as predictions must be."""
    try:
        return float(question_scores(read_data(location), answers, "a", profile)[objective].mean())
    except (Failure, KeyError):
        return 0.0


@pytest.fixture
def ended(tmp_path: Path, folder: Path) -> Callable[..., Trial]:
    """A trial that ended with these answers to the validation questions."""
    storage = open_storage("sqlite:///:memory:")

    def make(
        name: str,
        predict: Predict | Sequence[Any],
        job: str = "qa",
        data: str = "",
        extra: str = "",
        error: float = 0.0,
    ) -> Trial:
        objective = "accuracy" if job == "mc" else "exact_match"
        path = tmp_path / "space.yaml"
        path.write_text(
            f"{{name: {name}, job: {job}, data: {data or folder}, objective: {objective},"
            f" parameters: {{seed: {{values: [1]}} {extra}}}, search: {{trials: 1}}}}",
            encoding="utf-8",
        )
        space = read_search_space(path, ())
        ledger = create_ledger(storage, space, name)
        record = ledger.ask(space)
        assert record is not None
        trial = tmp_path / name / "checkpoint-000001"
        trial.parent.mkdir()
        rows = read_data(data or str(folder)).valid
        answers = [{"id": row.id, **predict(row)} for row in rows] if callable(predict) else predict
        value = true_score(answers, objective, str(record.params.get("metric_profile", "strict")), data or str(folder))
        ledger.report(record.number, {objective: value + error, "epoch": 1.0, "seconds": 1.0}, str(trial))
        ledger.finish(record.number, "COMPLETE")
        checkpoint.write_json(trial.parent / checkpoint.PREDICTIONS, answers)
        return find_trial(name, storage)

    return make


def right(row: Question) -> dict[str, Any]:
    return {"answer": row.answer, "start": row.start, "score": 1.0}


def short_of_one(row: Question) -> dict[str, Any]:
    return {"answer": (row.answer or "")[:-1], "start": row.start, "score": 1.0}


def other_paragraph(row: Question) -> dict[str, Any]:
    return {"paragraph": next(one for one in row.paragraphs if one != row.relevant)}


def only(wanted: Sequence[str]) -> Predict:
    """Right for these ids, one character short for the others."""
    return lambda row: right(row) if row.id in wanted else short_of_one(row)


def printed(tables: Sequence[table.Table]) -> str:
    console = Console(width=300, record=True, file=io.StringIO())
    for one in tables:
        console.print(table.rich_table(one))
    return console.export_text()


def test_mistakes_are_counted_by_kind_type_and_length(ended: Callable[..., Trial], folder: Path) -> None:
    ids = [row.id for row in read_data(str(folder)).valid]
    tables, values = mistake_tables(ended("a", only(ids[:3])))
    assert (values["questions"], values["right"]) == (8, 3)
    assert (values["kinds"]["exact"], values["kinds"]["boundary"]) == (3, 5)
    assert values["boundary_off_by"] == {"-1": 5}
    for groups in (values["types"], values["lengths"]):
        assert sum(sum(group.values()) for group in groups.values()) == 8
        assert sum(group["exact"] for group in groups.values()) == 3
    assert [example["id"] for example in values["examples"]["boundary"]] == ids[3:6]
    assert tables[0].title == "a/0: 3 of 8 answers right (37.5 %), right by exact_match: strict"
    assert tables[0].caption == "boundary by -1: 5 (characters too many +, too few -)"
    assert sum(row[1] for row in tables[0].rows) == sum(row[1] for row in tables[1].rows) == 8


def test_right_answers_are_as_many_as_the_trial_s_exact_match(ended: Callable[..., Trial], folder: Path) -> None:
    rows = read_data(str(folder)).valid
    trial = ended("a", lambda row: {**right(row), "answer": f"{row.answer}。"}, extra=", metric_profile: drcd")
    given = [f"{row.answer}。" for row in rows]
    scores = mean_scores(given, [row.answer or "" for row in rows], "drcd")
    assert diagnose(trial).right == round(scores["exact_match"] * len(rows)) == 8
    assert diagnose(trial, "strict").right == 0


def test_another_trial_is_set_against_it_in_a_table_of_two_by_two(ended: Callable[..., Trial], folder: Path) -> None:
    ids = [row.id for row in read_data(str(folder)).valid]
    this, other = ended("a", only(ids[:3])), ended("b", only(ids[2:4]))
    tables, values = mistake_tables(this, other, examples=5)
    counts = {key: values["vs"][key] for key in ("both", "only_this", "only_other", "neither")}
    assert counts == {"both": 1, "only_this": 2, "only_other": 1, "neither": 4}
    assert [(example["id"], example["kind"]) for example in values["vs"]["examples"]] == [(ids[3], "boundary")]
    assert tables[-2].rows == [["a/0 right", 1, 2], ["a/0 wrong", 1, 4]]
    assert [row[1] for row in tables[-1].rows] == [ids[3]]
    assert len(mistake_tables(this, this)[0]) == len(mistake_tables(this)[0]) + 1


def test_both_are_judged_by_the_first_one_s_profile(ended: Callable[..., Trial]) -> None:
    this = ended("a", right)
    other = ended("b", lambda row: {**right(row), "answer": f"{row.answer}。"}, extra=", metric_profile: drcd")
    assert mistake_tables(this, other)[1]["vs"]["only_this"] == 8
    assert mistake_tables(other, this)[1]["vs"]["both"] == 8


def test_a_selector_s_mistakes_are_wrong_paragraphs(ended: Callable[..., Trial]) -> None:
    trial = ended("a", lambda row: {"paragraph": row.paragraphs[0], "scores": [1.0, 0.0]}, job="mc")
    tables, values = mistake_tables(trial)
    assert set(values["kinds"]) == {"right paragraph", "wrong paragraph"}
    assert sum(values["kinds"].values()) == 8
    assert values["metric_profile"] is None
    assert "exact_match" not in printed(tables)
    with pytest.raises(ConfigError, match="job qa and job mc answer differently"):
        mistake_tables(trial, ended("b", right))


def test_a_longformer_s_wrong_paragraphs_are_told(ended: Callable[..., Trial]) -> None:
    def wrong(row: Question) -> dict[str, Any]:
        return {**other_paragraph(row), "answer": "不", "start": 0, "score": 0.0}

    one = mistake_tables(ended("a", wrong, job="longformer"))[1]
    assert one["kinds"]["wrong paragraph"] == 8
    assert mistake_tables(ended("b", right), ended("c", wrong, job="longformer"))[1]["vs"]["only_this"] == 8


def test_text_of_the_data_is_harmless_wherever_it_is_shown(ended: Callable[..., Trial]) -> None:
    tables, values = mistake_tables(ended("a", short_of_one), ended("b", right))
    terminal = printed(tables)
    assert "[red]哪裡[/red]？<script>alert(1)" in terminal
    markdown = "".join(map(table.table_markdown, tables))
    assert "&lt;script>" in markdown
    assert "<script" not in markdown
    for text in (terminal, markdown, table.json_text(values)):
        assert not {"\x1b", "\u202e"} & set(text)
    assert json.loads(table.json_text(values)) == values
    assert values["examples"]["boundary"][0]["question"].endswith("\x1b[31m\u202e|")


def test_a_trial_without_mistakes_has_no_examples(ended: Callable[..., Trial]) -> None:
    tables, values = mistake_tables(ended("a", right))
    assert len(tables) == 3
    assert not any(values["examples"].values())
    assert tables[0].caption is None


def test_data_that_changed_since_is_refused(ended: Callable[..., Trial], folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    trial = ended("a", right, data=str(copy))
    rows = json.loads((copy / "valid.json").read_text(encoding="utf-8"))
    (copy / "valid.json").write_text(json.dumps(rows[::-1]), encoding="utf-8")
    with pytest.raises(DataFailure, match="has changed since trial a/0 was evaluated on it"):
        mistake_tables(trial)
    shutil.rmtree(copy)
    with pytest.raises(DataFailure, match="no such folder"):
        mistake_tables(trial)


def test_trials_of_different_data_are_not_compared(ended: Callable[..., Trial]) -> None:
    this, other = diagnose(ended("a", right)), diagnose(ended("b", right, data="sample"))
    with pytest.raises(ConfigError, match="b/0: has other data than a/0"):
        compare_diagnoses(this, other)


def test_answers_that_cannot_be_judged_are_refused(ended: Callable[..., Trial]) -> None:
    with pytest.raises(DataFailure, match="neither `answer` nor `paragraph`"):
        mistake_tables(ended("a", lambda row: {"score": 1.0}))
    with pytest.raises(DataFailure, match=r"trial b/0: .*are not for the 8 validation questions"):
        mistake_tables(ended("b", [{"id": "x", "answer": "", "start": 0}]))


def test_a_score_that_is_not_the_reported_one_is_told_and_not_used(ended: Callable[..., Trial]) -> None:
    with pytest.raises(ConfigError) as told:
        mistake_tables(ended("a", right, error=-0.24))
    assert told.value.exit_code == 2
    (line,) = told.value.lines
    assert line.startswith("trial a/0: exact_match recomputed from its predictions is 1.0000, but the trial reported")
    assert "exact_match 0.7600; in a job's predictions `answer` is" in line
    with pytest.raises(ConfigError, match=r"trial b/0: accuracy recomputed .* is 0\.0000"):
        mistake_tables(ended("b", other_paragraph, job="mc", error=0.76))
    assert diagnose(ended("c", right, error=9e-7)).right == 8
    with pytest.raises(ConfigError, match="trial d/0: exact_match recomputed"):
        mistake_tables(ended("e", right), ended("d", right, error=2e-6))


@pytest.mark.parametrize(
    ("prediction", "told"),
    [
        ({"answer": ["a"], "start": 0}, r"has `answer` \['a'\]"),
        ({"answer": None, "start": 0}, "has `answer` None"),
        ({"paragraph": "p7"}, "has `paragraph` 'p7'"),
        ({"paragraph": 10_000}, "has `paragraph` 10000"),
        ({"paragraph": True}, "has `paragraph` True"),
        ({"answer": "a"}, "its predictions lack `start`"),
    ],
)
def test_predictions_of_another_form_are_refused(
    ended: Callable[..., Trial], prediction: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        mistake_tables(ended("a", lambda row: prediction, job="mc" if "paragraph" in prediction else "qa"))


def test_a_key_that_only_some_predictions_have_is_refused(ended: Callable[..., Trial], folder: Path) -> None:
    first = read_data(str(folder)).valid[0].id
    with pytest.raises(ConfigError, match="has `answer` None"):
        mistake_tables(ended("a", lambda row: right(row) if row.id == first else {"start": 0}))


def test_a_boundary_is_named_with_its_characters(ended: Callable[..., Trial]) -> None:
    verdict = diagnose(ended("a", short_of_one)).verdicts[0]
    assert (kind_name(verdict), percent_of(1, 8), percent_of(0, 0)) == ("boundary -1", "12.5 %", "–")


def test_long_texts_are_cut_to_the_same_width_in_any_script() -> None:
    assert shorten_text("字" * 20) == "字" * 20
    assert shorten_text("字" * 21) == "字" * 19 + "…"
    assert shorten_text("a" * 41) == "a" * 39 + "…"
