"""A trial that runs out of a GPU's memory is retried with less than what it used, which it may have chosen itself."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from jobs.dataset.data import Data
from jobs.qa import QaParams
from jobs.training.memory.notes import BATCH_SIZES
from sweeper.cluster.capacity import Machine
from sweeper.driver.retries import failure_line, retry_incident
from sweeper.driver.searcher import trial_config
from sweeper.driver.sweep import Sweep
from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import create_ledger
from sweeper.ledger.record import TrialRecord
from sweeper.space.reading import read_search_space
from sweeper.space.search_space import SearchSpace
from sweeper.trial.handover import TrialFailure, read_failure
from sweeper.trial.process import TrialError, recorded_failure, run_job
from tests.support.gpu_memory import pretended_memory
from tests.support.trials import asked, record

SIZES = ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_checkpointing")
TEXT = """\
name: qa
job: qa
data: {data}
objective: f1
parameters: {{backbone: "scratch:1x32x2", learning_rate: {{values: [1e-3, 2e-3]}}, max_length: 64, doc_stride: 16}}
search: {{sampler: grid}}
"""


@pytest.fixture
def space(here: Path, few: Data) -> SearchSpace:
    (here / "qa.yaml").write_text(TEXT.format(data=few.location), encoding="utf-8")
    return read_search_space(here / "qa.yaml")


def trial(used: dict[str, Any] | None = None, reported: dict[str, Any] | None = None) -> TrialRecord:
    """Return a trial with other params than the defaults, whose last report had these conditions."""
    params = asdict(QaParams(**{"backbone": "scratch:1x32x2", **(used or {})}))
    evaluations = ({"epoch": 1.0, "conditions": reported},) if reported else ()
    return record(0, None, "RUNNING", params=params, evaluations=evaluations)


def sizes(train: int, evaluation: int, again: bool = False) -> dict[str, Any]:
    return dict(zip(SIZES, (train, evaluation, again), strict=True))


SMALLER: list[tuple[TrialRecord, dict[str, Any], dict[str, Any] | None]] = [
    (trial(), sizes(2, 64), {SIZES[0]: 1, SIZES[1]: 32}),
    (trial(), sizes(4, 8, True), {SIZES[0]: 2, SIZES[1]: 4, SIZES[2]: True}),
    (trial(), sizes(1, 1), {SIZES[0]: 1, SIZES[1]: 1, SIZES[2]: True}),
    (trial(), sizes(1, 1, True), None),
    (trial(), {}, {SIZES[0]: 4, SIZES[1]: 16}),  # killed before it told anything: the numbers of earlier versions
    (trial(reported=sizes(2, 64)), {}, {SIZES[0]: 1, SIZES[1]: 32}),
    (trial({SIZES[0]: 4}, sizes(8, 64)), {}, {SIZES[0]: 2, SIZES[1]: 32}),  # the report was of an attempt before
    (trial({SIZES[0]: 4, SIZES[1]: 4}), sizes(4, 4), {SIZES[0]: 2, SIZES[1]: 2}),
]


@pytest.mark.parametrize(("one", "conditions", "changed"), SMALLER)
def test_what_was_used_is_halved(
    one: TrialRecord, conditions: dict[str, Any], changed: dict[str, Any] | None, space: SearchSpace
) -> None:
    failure = TrialFailure("memory", "out of memory", conditions={**conditions, "precision": "fp16"})
    incident = retry_incident(one, failure, space)
    assert (incident["changed"] if incident else None) == changed


@pytest.mark.parametrize("conditions", [{}, sizes(8, 32)])
def test_a_trial_of_an_earlier_version_is_retried_with_less(conditions: dict[str, Any], space: SearchSpace) -> None:
    """It lacks the parameters that are new since."""
    new = ("precision", "optim", "torch_compile", "gradient_checkpointing")
    params = {k: v for k, v in asdict(QaParams(bf16=False)).items() if k not in new} | {SIZES[0]: 8, SIZES[1]: 32}
    one = record(0, None, "RUNNING", params=params)
    failure = TrialFailure("memory", "out of memory", conditions=conditions)
    incident = retry_incident(one, failure, space)
    assert incident
    assert incident["changed"] == {SIZES[0]: 4, SIZES[1]: 16}
    assert failure_line("qa", one, failure) == "out of memory (with per_device_train_batch_size 8)"


def test_the_batch_that_was_used_is_told() -> None:
    failure = TrialFailure("memory", "out of memory", conditions=sizes(2, 64))
    assert failure_line("qa", trial(), failure) == "out of memory (with per_device_train_batch_size 2)"
    assert failure_line("qa", trial(), failure._replace(conditions={})) == "out of memory"
    explicit = trial({SIZES[0]: 4})
    assert failure_line("qa", explicit, failure._replace(conditions={})).endswith("batch_size 4)")


def test_a_trial_that_runs_out_tells_the_driver_and_the_next_trial_what_it_used(space: SearchSpace, here: Path) -> None:
    """Two trials in this process; a search finds 8, and then 6 fit."""
    ledger = create_ledger(open_storage(f"sqlite:///{here}/ledger.db"), space, "qa")
    sweep = Sweep(ledger, space, here / "root" / "qa", Machine(cpus=1, gpus=1))
    used = []
    for _ in range(2):
        one = asked(ledger, space)
        config = trial_config(sweep, one, ())
        workdir = Path(config.workdir)
        workdir.mkdir(parents=True)
        memory = pretended_memory(train=8, evaluate=16, later={"train": 0 if used else 6})
        with memory, pytest.raises(TrialError), recorded_failure(workdir):
            run_job(config)
        failure = read_failure(workdir)
        used.append(failure.conditions[SIZES[0]])
        incident = retry_incident(one, failure, space)
        assert failure.kind == "memory"
        assert incident
        assert incident["changed"] == {name: failure.conditions[name] // 2 for name in SIZES[:2]}
    assert used == [8, 4]
    assert (here / "root" / BATCH_SIZES).is_file()


def test_a_trial_for_which_the_gpu_is_too_small_fails_at_once(space: SearchSpace, here: Path) -> None:
    ledger = create_ledger(open_storage(f"sqlite:///{here}/ledger.db"), space, "qa")
    one = asked(ledger, space)
    config = trial_config(Sweep(ledger, space, here / "root" / "qa", Machine(cpus=1, gpus=1)), one, ())
    Path(config.workdir).mkdir(parents=True)
    with pretended_memory(train=0), pytest.raises(TrialError), recorded_failure(Path(config.workdir)):
        run_job(config)
    failure = read_failure(Path(config.workdir))
    assert retry_incident(one, failure, space) is None
    line = failure_line("qa", one, failure)
    assert line.startswith(
        "TooLittleMemory: out of memory: not even one input of 64 tokens fits into 16.0 GiB of Tesla"
    )
