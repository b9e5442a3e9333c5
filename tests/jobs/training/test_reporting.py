"""Checkpoints are published in a thread while training goes on. No test waits for time to pass: a publication waits for
the step or the evaluation that must come before it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from jobs import checkpoint, fault_injection, get_job
from jobs.dataset.data import Data
from jobs.timing import epochs_told_to
from jobs.training import trainer as training
from sweeper.trial.handover import read_failure
from sweeper.trial.process import TrialError, recorded_failure
from tests.support.spaces import EPOCH, SMALL

STEPS = 5  # of an epoch
PATIENCE = 20.0  # seconds after which a test fails that would wait forever


class Stopped(Exception):
    """Ends a training."""


@dataclass
class Watched:
    """A training of two epochs, what it reports, and at which step.

    gate   publications wait until it is set
    on     called before each step with the number of steps done
    """

    data: str
    workdir: Path
    gate: threading.Event = field(default_factory=threading.Event)
    events: list[Any] = field(default_factory=list)
    on_step: Callable[[int], None] = lambda step: None
    on_report: Callable[[], None] = lambda: None
    step: int = 0

    def report(self, metrics: dict[str, float], saved: Path | None = None) -> None:
        assert saved is not None
        self.events.append((f"report of step {metrics['step']:g}", metrics, checkpoint.damage(saved)))
        self.on_report()

    def train(self) -> list[str]:
        """Return the reports and evaluations in order."""
        job = get_job("qa")
        params = job.params(**{**EPOCH, "num_train_epochs": 2}, **SMALL["qa"])
        self.workdir.mkdir(exist_ok=True)
        job.train(params, self.data, self.workdir, self.report)
        return self.names

    @property
    def names(self) -> list[str]:
        return [event[0] for event in self.events]


@pytest.fixture
def watched(few: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    seen = Watched(few.location, tmp_path / "0000")
    publish, step, evaluate = checkpoint.publish, training.BatchTrainer.training_step, training.BatchTrainer.evaluate

    def patient(folder: Path, workdir: Path, number: int) -> Path:
        assert seen.gate.wait(PATIENCE), "training does not go on before the checkpoint is published"
        return publish(folder, workdir, number)

    def counted(self: training.BatchTrainer, *args: Any, **options: Any) -> Any:
        seen.step = self.state.global_step
        seen.on_step(seen.step)
        return step(self, *args, **options)

    def noted(self: training.BatchTrainer, *args: Any, **options: Any) -> Any:
        seen.events.append((f"evaluation of step {self.state.global_step}",))
        return evaluate(self, *args, **options)

    monkeypatch.setattr(checkpoint, "publish", patient)
    monkeypatch.setattr(training.BatchTrainer, "training_step", counted)
    monkeypatch.setattr(training.BatchTrainer, "evaluate", noted)
    return seen


def exit_trial() -> None:
    """Do what Tune (ray 2.60) does to stop a trial."""
    raise SystemExit


def publishers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "publisher"]


def wait_for_publishers(_: int = 0) -> None:
    for thread in publishers():
        thread.join(PATIENCE)


def test_a_report_comes_after_the_step_in_which_its_checkpoint_became_complete(watched: Watched) -> None:
    reported_at: list[int] = []
    watched.on_report = lambda: reported_at.append(watched.step)

    def on_step(done: int) -> None:
        if done == STEPS + 2:
            assert watched.names == [f"evaluation of step {STEPS}"]
            watched.gate.set()
            wait_for_publishers()

    watched.on_step = on_step
    assert watched.train() == [
        f"evaluation of step {STEPS}",
        f"report of step {STEPS}",
        f"evaluation of step {2 * STEPS}",
        f"report of step {2 * STEPS}",
    ]
    assert reported_at == [STEPS + 2, 2 * STEPS - 1]
    assert [event[2] for event in watched.events if len(event) > 1] == [None, None]
    assert not publishers()


def test_a_report_is_waited_for_before_the_next_one(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    scored = training.BatchTrainer._evaluate_all

    def open_gate(self: training.BatchTrainer) -> dict[str, float]:
        if self.state.global_step == 2 * STEPS:
            assert watched.names == [f"evaluation of step {STEPS}", f"evaluation of step {2 * STEPS}"]
            watched.gate.set()
        return scored(self)

    monkeypatch.setattr(training.BatchTrainer, "_evaluate_all", open_gate)
    assert watched.train()[2:] == [f"report of step {STEPS}", f"report of step {2 * STEPS}"]


def test_an_error_of_training_comes_after_the_report_before_it(watched: Watched) -> None:
    def on_step(done: int) -> None:
        if done == STEPS:
            watched.gate.set()
            raise Stopped

    watched.on_step = on_step
    with pytest.raises(Stopped):
        watched.train()
    assert watched.names == [f"evaluation of step {STEPS}", f"report of step {STEPS}"]


def test_a_report_that_stops_the_trial_is_its_last(watched: Watched) -> None:
    watched.gate.set()
    watched.on_report = exit_trial
    watched.on_step = wait_for_publishers
    with pytest.raises(SystemExit):
        watched.train()
    assert watched.names == [f"evaluation of step {STEPS}", f"report of step {STEPS}"]
    assert not publishers()


@pytest.mark.parametrize("nth", [1, 2])
def test_a_disk_that_is_full_in_the_thread_is_told_as_one_that_is_full_in_training(
    watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    watched.gate.set()
    (tmp_path / "asked").write_text(f"checkpoint.rename:{nth}:full")
    monkeypatch.setenv(fault_injection.VARIABLE, str(tmp_path))
    watched.workdir.mkdir()
    with pytest.raises(TrialError), recorded_failure(watched.workdir):
        watched.train()
    failure = read_failure(watched.workdir)
    assert failure.kind == "disk"
    assert failure.reason.startswith(f"{watched.workdir}/checkpoint-{nth * STEPS:06d}: No space left on device (")
    assert [name for name in watched.names if "report" in name] == [f"report of step {STEPS}"] * (nth - 1)


def test_a_checkpoint_is_stored_in_the_thread(watched: Watched) -> None:
    stored: list[tuple[str, str]] = []

    class Storing:
        def __call__(self, metrics: dict[str, float], saved: Path | None = None) -> None:
            assert saved is not None
            assert stored[-1] == ("publisher", saved.name)

        def store(self, saved: Path) -> None:
            assert checkpoint.damage(saved) is None
            stored.append((threading.current_thread().name, saved.name))

    watched.gate.set()
    watched.report = Storing()  # type: ignore[method-assign]
    watched.train()
    assert [name for _, name in stored] == [f"checkpoint-{step:06d}" for step in (STEPS, 2 * STEPS)]


def test_a_training_tells_after_each_step_how_far_it_is(watched: Watched) -> None:
    told: list[float] = []
    watched.gate.set()
    with epochs_told_to(told.append):
        watched.train()
    assert told == pytest.approx([step / STEPS for step in range(1, 2 * STEPS + 1)])
