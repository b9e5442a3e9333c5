"""`sweeper init`: the file fits the data and the machine, `plan` accepts it, and nothing is overwritten."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import pytest
from annotated_types import Le
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jobs import get_job
from jobs.dataset.data import Data
from jobs.dataset.survey import Lengths, Survey, TokenLengths, survey
from jobs.job import Job
from sweeper.space import starter
from sweeper.space.document import read_document
from sweeper.space.json_schema import json_schema_text
from sweeper.space.reading import read_search_space
from sweeper.space.search_space import SearchSpace
from tests.support.commands import invoke
from tests.support.limits import largest_file
from tests.toy import JOB as TOY_JOB

JOBS = ["qa", "mc", "longformer"]


@pytest.fixture(scope="module")
def found(few: Data) -> Survey:
    return survey(few.location, starter.COUNTER)


@pytest.fixture
def written(found: Survey, here: Path) -> Callable[..., SearchSpace]:
    """Write a search space of a shipped job for measurements of data, and read it again."""

    def write(job: str, gpus: bool = False, data: Survey = found) -> SearchSpace:
        starter.write_starter(
            here, "first", starter.starter_text("first", get_job(job), job, found.location, data, gpus)
        )
        return read_search_space(here / "first.yaml")

    return write


def measured(found: Survey, **lengths: Lengths) -> Survey:
    """Return measurements with other lengths, in which every input is longer than every limit."""
    assert isinstance(found.tokens, TokenLengths)
    longer = dict.fromkeys(found.tokens.relevant_longer, 0.5)
    return replace(found, tokens=replace(found.tokens, relevant_longer=longer, joined_longer=longer, **lengths))


def constant(space: SearchSpace, name: str) -> Any:
    (branch,) = space.parameters[name]
    return branch.domain.value  # type: ignore[union-attr]


LONG = Lengths(100, 900.0, 900.0, 1500.0, 9000)


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("gpus", [False, True])
def test_the_file_of_a_shipped_job_is_right_on_every_machine(
    written: Callable[..., SearchSpace], job: str, gpus: bool
) -> None:
    space = written(job, gpus)
    assert (space.name, space.job) == ("first", job)
    names = [str(name) for branch in space.parameters["backbone"] for name in branch.domain.values]  # type: ignore[union-attr]
    assert {name.startswith("scratch:") for name in names} == {not gpus}


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("gpus", [False, True])
def test_long_texts_get_long_windows_and_small_batches(
    written: Callable[..., SearchSpace], found: Survey, job: str, gpus: bool
) -> None:
    space = written(job, gpus, measured(found, paragraph=LONG, relevant=LONG, joined=LONG))
    length, sizes = constant(space, "max_length"), starter.SIZES[job]
    assert length == (sizes.gpu_length if gpus else sizes.cpu_length)
    rows = 4 if job == "mc" else 1
    assert ("per_device_train_batch_size" in space.parameters) is not gpus  # a trial finds what fits on a GPU
    if not gpus:
        assert constant(space, "per_device_train_batch_size") * rows * length <= starter.BATCH_TOKENS
    text = Path("first.yaml").read_text(encoding="utf-8")
    assert f"50% of the inputs are longer; {'their ends are cut off' if job == 'mc' else 'they are cut'}" in text


def test_short_texts_get_short_windows(written: Callable[..., SearchSpace], found: Survey) -> None:
    assert found.tokens is not None
    length = constant(written("qa", gpus=True), "max_length")
    assert found.tokens.relevant.largest <= length < found.tokens.relevant.largest + starter.LENGTH_STEP


@pytest.mark.parametrize("longest", [1, 46, 150, 5000])
def test_neighbouring_windows_share_the_longest_answer(
    written: Callable[..., SearchSpace], found: Survey, longest: int
) -> None:
    answer = Lengths(1, 5.0, 4.0, min(11.0, longest), longest)
    space = written("qa", True, measured(found, relevant=LONG, answer=answer))
    stride, length = constant(space, "doc_stride"), constant(space, "max_length")
    assert stride >= min(longest, length // 2 - 5)
    assert constant(space, "max_answer_length") >= (longest if longest <= 64 else 22)


# jobs of one's own


@dataclass(frozen=True, kw_only=True)
class Slow:
    backbone: str = field(default="hill: #1", metadata={"help": "a name\nin two lines"})
    seed: int = 42
    num_train_epochs: int = 1
    learning_rate: Annotated[float, Le(0.002)] = 0.001


@dataclass(frozen=True, kw_only=True)
class Rateless:
    backbone: str = "hill"
    seed: int = 42
    num_train_epochs: int = 2


@pytest.mark.parametrize(
    ("params", "searched"), [(Slow, "  learning_rate: {min: 0.0001, max: 0.001,"), (Rateless, "  seed: {values: [42")]
)
def test_a_job_of_ones_own_gets_a_range_that_it_accepts(
    params: type, searched: str, few: Data, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.toy.JOB", Job("山 own/job", params, {"height": "max"}, TOY_JOB.train))
    assert invoke("init", "tests.toy:JOB", "--data", few.location).exit_code == 0
    assert searched in (here / "own-job.yaml").read_text(encoding="utf-8")
    assert read_search_space(here / "own-job.yaml").search.trials == 8


# the command


def test_the_file_has_its_schema_beside_it_and_can_be_planned(few: Data, here: Path) -> None:
    done = invoke("init", "--data", few.location)
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "next: sweeper plan qa.yaml   or   sweeper run qa.yaml\n"
    assert sorted(path.name for path in here.iterdir()) == ["qa.yaml", "schema.json"]
    assert (here / "qa.yaml").read_text(encoding="utf-8").startswith("# yaml-language-server: $schema=./schema.json\n")
    assert (here / "schema.json").read_text(encoding="utf-8") == json_schema_text()
    assert invoke("plan", "qa").stdout.startswith("qa: 8 trials of qa")


@pytest.mark.parametrize("link", [False, True])
def test_nothing_is_overwritten(few: Data, here: Path, link: bool) -> None:
    if link:
        (here / "qa.yaml").symlink_to(here / "absent")
    else:
        (here / "qa.yaml").write_text("mine")
    (here / "schema.json").write_text("{}")
    done = invoke("init")
    assert (done.exit_code, done.stderr) == (
        2,
        "qa.yaml: exists already and is not overwritten; choose another name with --name\n",
    )
    done = invoke("init", "tests.toy:JOB", "--data", few.location, "--name", "other")
    assert (done.exit_code, done.stderr.partition(";")[0]) == (0, "schema.json: this other file stays")
    assert (here / "schema.json").read_text() == "{}"
    assert sorted(path.name for path in here.iterdir()) == ["other.yaml", "qa.yaml", "schema.json"]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["qaa"], 2, "unknown job 'qaa'; did you mean 'qa'? "),
        (["no.such:JOB"], 2, "no.such:JOB cannot be imported"),
        (["--name", "../qa"], 2, '--name: found "../qa"; use 1 to 64 of '),
        (["--name", ""], 2, '--name: found ""; use 1 to 64 of '),
        (["--data", "absent"], 3, "absent: no such folder; "),
        (["tests.toy:JOB", "--data", "absent"], 3, "absent: no such folder; "),
        (["--data", "broken"], 3, "broken/"),
    ],
)
def test_a_mistake_ends_in_one_line_and_leaves_nothing(
    arguments: list[str], code: int, told: str, few: Data, here: Path
) -> None:
    (here / "broken").mkdir()
    (here / "broken" / "context.json").write_text('["text"')
    done = invoke("init", *arguments)
    assert (done.exit_code, done.stderr.startswith(told)) == (code, True), done.stderr
    assert [path.name for path in here.iterdir()] == ["broken"]


def test_a_folder_that_cannot_be_written_ends_in_one_line(few: Data, here: Path) -> None:
    with largest_file(100):
        done = invoke("init", "tests.toy:JOB", "--data", few.location)
    assert (done.exit_code, done.stderr.count("\n")) == (4, 1)
    assert done.stderr.startswith(f"{here}/toy.yaml: File too large; ")
    assert list(here.iterdir()) == []


@settings(max_examples=30)
@example("2024")
@example("1e5")
@example(".5")
@example("9" * 30)
@example("null")
@example("a: b #c")
@example("\xa0\U00010000")
@given(st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=200))
def test_every_folders_name_is_read_again(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    file = tmp_path_factory.mktemp("names") / "a.yaml"
    file.write_text(f"data: {starter.yaml_scalar(name)}  # comment\n", encoding="utf-8")
    assert read_document(file, ()).values == {"data": name}
