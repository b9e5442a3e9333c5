"""Backbones are tried before anything of a sweep is created."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from jobs.job import Job, ParamError
from sweeper.cluster.capacity import Machine
from sweeper.driver.repeats import is_finished
from sweeper.driver.searcher import trial_config
from sweeper.driver.sweep import Sweep
from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import create_ledger
from sweeper.space.cases import largest_params
from sweeper.space.reading import read_search_space
from sweeper.space.search_space import SearchSpace
from sweeper.storage.settings import read_stores
from tests.support import free_job, matrix
from tests.support.commands import invoke
from tests.support.network import refuse_connections
from tests.support.spaces import TOY
from tests.support.trials import asked, evaluated
from tests.support.zoo import build

Make = Callable[..., SearchSpace]
TRIED: list[Any] = []


@dataclass(frozen=True, kw_only=True)
class Params(free_job.Params):
    batch: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch == 64 and self.max_length > 256 and self.warmup_steps:
            raise ParamError("batch", "too large")


def suits(params: Params, data: str) -> tuple[str, ...]:
    TRIED.append(params)
    if params.backbone.startswith("bad"):
        raise RuntimeError(f"{params.backbone}: cannot be used; choose another")
    return (f"{params.backbone}: is fine on {data}",)


def fetch(name: str) -> None:
    if name == "gone":
        raise RuntimeError("gone: is nowhere; choose another")


JOB = Job("own", Params, {"score": "max", "loss": "min"}, lambda: None, fetch, suits=suits)
OWN = f"{__name__}:JOB"


@pytest.fixture
def project(here: Path) -> Path:
    """Return the current folder, which holds questions and no record of any sweep."""
    TRIED.clear()
    matrix.write_questions(here / "questions")
    return here


def space_file(project: Path, job: str, **parameters: Any) -> str:
    objective = "score" if ":" in job else "accuracy" if job == "mc" else "exact_match"
    lines = "".join(f"  {name}: {value}\n" for name, value in parameters.items())
    (project / "space.yaml").write_text(
        f"name: space\njob: {job}\ndata: questions\nobjective: {objective}\nsearch: {{trials: 2}}\nparameters:\n{lines}"
    )
    return "space.yaml"


@pytest.mark.parametrize("command", ["run", "plan"])
def test_all_mistakes_of_all_backbones_are_told_and_nothing_is_created(project: Path, command: str) -> None:
    file = space_file(project, OWN, backbone="{values: [bad1, good, bad2, gone]}")
    before = sorted(project.iterdir())
    done = invoke(command, file)
    refusals = [f"backbone {name}: cannot be used; choose another" for name in ("bad1", "bad2")]
    gone = ["backbone gone: is nowhere; choose another"]
    if command == "plan":  # these names are no folders, and the network is not asked
        assert done.exit_code == 0
        assert not TRIED
        return
    assert done.exit_code == 4
    assert done.stderr.splitlines() == [*gone, *refusals]
    assert [one.backbone for one in TRIED] == ["bad1", "good", "bad2"]
    assert sorted(project.iterdir()) == before


@pytest.mark.parametrize(
    ("command", "kind", "job", "cause"),
    [
        ("run", "gpt2", "qa", "cannot be used by qa: it reads from left to right only (its architecture is gpt2); "),
        ("plan", "splinter", "mc", "its architecture, splinter, has no head that scores candidates; "),
    ],
)
def test_a_backbone_is_refused_in_one_line_before_anything_is_created(
    project: Path, command: str, kind: str, job: str, cause: str
) -> None:
    build(kind, project / kind)
    file = space_file(project, job, backbone=f"./{kind}", **matrix.PARAMS[job])
    before = sorted(project.iterdir())
    done = invoke(command, file)
    assert done.exit_code == 4, done.output
    assert done.stderr.splitlines()[-1].startswith(f"backbone ./{kind}: {cause}")
    assert sorted(project.iterdir()) == before


@pytest.mark.parametrize("make", [os.mkfifo, lambda file: file.symlink_to("/dev/zero")])
def test_a_config_that_never_ends_is_refused_at_once(project: Path, make: Callable[[Path], object]) -> None:
    folder = project / "bert"
    build("bert", folder)
    (folder / "config.json").unlink()
    make(folder / "config.json")
    done = invoke("run", space_file(project, "qa", backbone="./bert", **matrix.PARAMS["qa"]))
    assert done.exit_code == 4, done.output
    assert "config.json is a" in done.stderr.splitlines()[-1]
    assert not (project / "sweeps").exists()


def test_plan_tries_the_backbones_that_are_here(project: Path) -> None:
    build("bert", project / "bert")
    done = invoke("plan", space_file(project, "mc", backbone="{values: [./bert, owner/name]}", max_length=64))
    assert (done.exit_code, done.stderr.splitlines()[0]) == (0, f"trying ./bert with mc on {project}/questions")
    (project / "bad").mkdir()
    (project / "bad/config.json").write_text("{}")
    done = invoke("plan", space_file(project, OWN, backbone="bad"))
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (4, "backbone bad: cannot be used; choose another")


def test_a_job_that_tries_nothing_is_planned_in_silence(project: Path) -> None:
    done = invoke("plan", space_file(project, "tests.support.free_job:JOB", backbone="questions"))
    assert done.exit_code == 0
    assert "trying" not in done.stderr


@pytest.mark.usefixtures("project")
def test_a_backbone_is_tried_with_the_largest_numbers_that_go_together() -> None:
    text = free_job.document(
        job=OWN,
        parameters="""
  backbone: {values: [base, x-large]}
  max_length: [{when: {backbone: base}, values: [128, 512, 256]}, {min: 128, max: 4096}]
  warmup_steps: {min: 0, max: 10}
  batch: [{when: {shape: cosine}, values: [2, 64, 8]}, {value: 1}]
  shape: {values: [linear, cosine]}
  learning_rate: {min: 1e-5, max: 1e-3}""",
    )
    found = largest_params(free_job.read_text(text))
    assert {name: (one.warmup_steps, one.max_length, one.batch, one.learning_rate) for name, one in found.items()} == {
        "base": (10, 512, 1, 1e-3),
        "x-large": (10, 4096, 1, 1e-3),
    }


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_backbone_is_tried_with_activations_computed_again_if_any_trial_does_so(epochs: int, here: Path) -> None:
    text = TOY.replace("tests.toy:JOB", "qa").replace("height", "f1").replace("[hill, valley]", '["scratch:1x32x2"]')
    again = f"[{{when: {{num_train_epochs: {epochs}}}, value: false}}, {{value: true}}]"
    text = text.replace("epochs: 4", f"epochs: {{values: [1, 2]}}\n  gradient_checkpointing: {again}")
    (here / "qa.yaml").write_text(text, encoding="utf-8")
    (found,) = largest_params(read_search_space(here / "qa.yaml")).values()
    assert found.gradient_checkpointing


def test_enqueued_backbones_are_tried_too(project: Path) -> None:
    text = free_job.document(job=OWN, parameters="{backbone: base}", search="{trials: 2, enqueue: [{backbone: b}]}")
    assert list(largest_params(free_job.read_text(text))) == ["base", "b"]


def test_a_sweep_is_finished_once_nothing_is_left_to_train(here: Path, toy_space: Make) -> None:
    stores, space = read_stores(), toy_space("search.trials=1")
    assert not is_finished(stores, "toy", space)
    assert not stores.root.exists()
    stores.root.mkdir()
    ledger = create_ledger(open_storage(stores.ledger), space, "toy")
    assert not is_finished(stores, "toy", space)
    evaluated(ledger, asked(ledger, space).number, here / "work", 4)
    assert not is_finished(stores, "toy", space)
    ledger.finish(0, "COMPLETE")
    assert is_finished(stores, "toy", space)
    assert not is_finished(stores, "toy", toy_space("search.trials=2"))
    assert not is_finished(stores, "other", space)


@pytest.mark.parametrize("written", ["./bert", "bert", "{project}/bert"])
def test_a_trial_gets_the_place_of_a_backbone_and_the_ledger_its_name(project: Path, written: str) -> None:
    build("bert", project / "bert")
    name = written.format(project=project)
    space = read_search_space(Path(space_file(project, "qa", backbone=name, **matrix.PARAMS["qa"])))
    ledger = create_ledger(open_storage("sqlite:///:memory:"), space, "space")
    sweep = Sweep(ledger, space, project / "sweep", Machine(cpus=2, gpus=0), None)
    record = asked(ledger, space)
    sweep.workdir(record.number).mkdir(parents=True)
    assert trial_config(sweep, record, ()).params["backbone"] == str(project / "bert")
    assert record.params["backbone"] == name


def test_plan_tries_a_backbone_of_the_hub_that_is_here_without_the_network(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(project / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    hub = project / "cache/models--owner--splinter"
    build("splinter", hub / "snapshots/0")
    (hub / "refs").mkdir()
    (hub / "refs/main").write_text("0")
    tried = refuse_connections(monkeypatch)
    done = invoke("plan", space_file(project, "mc", backbone="owner/splinter", max_length=64))
    assert (done.exit_code, tried) == (4, [])
    assert done.stderr.splitlines()[-1].startswith("backbone owner/splinter: its architecture, splinter, has no head")
    (hub / "snapshots/0/model.safetensors").unlink()
    done = invoke("plan", "space.yaml")
    assert (done.exit_code, tried) == (0, [])
    assert not huggingface_hub.constants.HF_HUB_OFFLINE
