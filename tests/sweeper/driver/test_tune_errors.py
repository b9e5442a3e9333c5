"""Errors that Ray Tune itself raises, without Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ray.tune.schedulers import FIFOScheduler

from sweeper.cluster.capacity import Machine
from sweeper.driver import tuning
from sweeper.driver.searcher import LedgerSearcher, new_trials_source
from sweeper.driver.sweep import Sweep
from sweeper.errors import EnvironmentFailure
from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import create_ledger
from sweeper.process.signals import Interrupt
from sweeper.space.search_space import SearchSpace
from tests.support.limits import fill, mounted

Make = Callable[..., SearchSpace]


class BrokenTuner:
    """Ends as Tune does when it cannot read a file that it has written on a full disk."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def fit(self) -> None:
        raise EOFError("Ran out of input")


def tuned(space: SearchSpace, folder: Path, interrupt: Interrupt) -> None:
    """Run one sweep's Tune with a searcher that always has trials."""
    folder.mkdir(exist_ok=True)
    sweep = Sweep(
        create_ledger(open_storage("sqlite:///:memory:"), space, "toy"), space, folder, Machine(cpus=2, gpus=0)
    )
    searcher = LedgerSearcher(sweep, new_trials_source(sweep), lambda record: None, interrupt)
    searcher.has_trials = lambda: True
    tuning._tune(searcher, FIFOScheduler())


def test_an_error_of_tune_on_a_full_disk_is_one_line(
    toy_space: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune may fail before any trial has told its own trouble."""
    monkeypatch.setattr(tuning.tune, "Tuner", BrokenTuner)
    with pytest.raises(EOFError):
        tuned(toy_space(), tmp_path / "large", Interrupt())
    with mounted(tmp_path / "disk", "1m") as disk:
        fill(disk)
        told = r"sweep toy: .*0 bytes free\); fix that, then run `sweeper resume toy`"
        with pytest.raises(EnvironmentFailure, match=told):
            tuned(toy_space(), disk, Interrupt())


def test_an_error_of_tune_after_a_cause_to_stop_is_its_consequence(
    toy_space: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning.tune, "Tuner", BrokenTuner)
    interrupt = Interrupt()
    interrupt.probes.append(lambda: "Ray is lost")
    tuned(toy_space(), tmp_path, interrupt)
    assert interrupt.cause == "Ray is lost"
