"""Trials that break down, in every way there is: real Ray, a real ledger, a toy job that fails where it is asked to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from optuna.storages import RDBStorage

from jobs import fault_injection
from jobs.fault_injection import happened
from sweeper.cluster.capacity import Machine
from sweeper.driver import callbacks
from sweeper.driver.sweep import Sweep
from sweeper.driver.tuning import ray_session, run_trials
from sweeper.ledger.ledger import Ledger, create_ledger
from sweeper.process.cgroups import MemoryState, kernel_kills
from sweeper.process.signals import Interrupt
from sweeper.space.search_space import SearchSpace
from tests.support.invariants import outcomes

Make = Callable[..., SearchSpace]
MACHINE = Machine(cpus=2, gpus=0)

# Ray's own clients leave sockets and files for the garbage collector.
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where faults are asked for: known to Ray's processes from their start."""
    folder = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(fault_injection.VARIABLE, str(folder))
        with ray_session(MACHINE):
            yield folder


def ask(folder: Path, *wanted: str) -> None:
    (folder / "happened").unlink(missing_ok=True)
    (folder / "asked").write_text("\n".join(wanted))


@pytest.fixture
def run(faulty: Path, storage: RDBStorage, toy_space: Make, tmp_path: Path) -> Callable[..., Ledger]:
    ask(faulty)

    def run(*overrides: str, name: str = "toy") -> Ledger:
        space = toy_space(*overrides)
        ledger = create_ledger(storage, space, name)
        run_trials(Sweep(ledger, space, tmp_path / name, MACHINE), lambda record: None)
        return ledger

    return run


def test_a_trial_that_does_not_fit_goes_on_with_less_at_once(run: Callable[..., Ledger], tmp_path: Path) -> None:
    (record,) = run("search.trials=1", "parameters.trouble=large").records()
    assert (record.state, record.epochs) == ("COMPLETE", 4)
    assert [one["changed"]["per_device_train_batch_size"] for one in record.incidents] == [4, 2]
    assert record.params["per_device_train_batch_size"] == 8  # what it is known by
    assert (tmp_path / "toy/trials/0000/starts").read_text().split() == ["0", "1", "1"]  # the epochs it began after


@pytest.mark.slow
def test_a_trial_that_cannot_be_made_to_fit_fails_and_says_how_small_it_was(
    run: Callable[..., Ledger], faulty: Path, tmp_path: Path
) -> None:
    ask(faulty, "checkpoint.report:1:memory")
    (record,) = run("search.trials=1", "parameters.per_device_train_batch_size=1").records()
    assert record.state == "FAIL"
    assert "out of memory" in str(record.reason)
    assert "(with per_device_train_batch_size 1)" in str(record.reason)
    assert happened(faulty) == ["checkpoint.report:1:memory"]


@pytest.mark.parametrize("point", [pytest.param("checkpoint.rename", marks=pytest.mark.slow), "checkpoint.report"])
def test_a_trial_whose_process_is_killed_goes_on_from_its_checkpoint(
    run: Callable[..., Ledger], faulty: Path, tmp_path: Path, point: str
) -> None:
    undisturbed = outcomes(run("search.trials=2", name="undisturbed"))
    ask(faulty, f"{point}:2:kill")
    ledger = run("search.trials=2")
    assert happened(faulty) == [f"{point}:2:kill"]
    assert outcomes(ledger) == undisturbed
    records = ledger.records()
    (incident,) = [one for record in records for one in record.incidents]
    assert (incident["kind"], incident["epoch"], incident["changed"]) == ("crash", 1.0, {})
    begun = [(tmp_path / f"toy/trials/{record.number:04d}/starts").read_text().split() for record in records]
    assert sorted(begun) == [["0"], ["0", "1"]]  # the epochs they began after


def test_a_trial_that_the_kernel_killed_goes_on_with_less_beside_fewer_others(
    run: Callable[..., Ledger], faulty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel is said to have killed the process, which was killed in another way."""
    ask(faulty, "checkpoint.report:2:kill")
    before = kernel_kills()
    monkeypatch.setattr(callbacks, "memory_state", lambda: MemoryState(before + len(happened(faulty)), 2**33))
    records = run("search.trials=2").records()
    assert {record.state for record in records} == {"COMPLETE"}
    ((used, incident),) = [(record.used, one) for record in records for one in record.incidents]
    assert (incident["kind"], incident["epoch"], used["per_device_train_batch_size"]) == ("memory", 1.0, 4)
    assert incident.get("at_once", 1) == 1  # absent if the other trial has ended already
    assert "out of memory: the kernel killed its process" in incident["reason"]


@pytest.mark.slow
def test_a_trial_that_dies_too_often_has_failed(run: Callable[..., Ledger]) -> None:
    record, other = run(
        "search={sampler: grid}", "parameters={trouble: {values: [die, none]}}", "budget={retries: 1}"
    ).records()
    assert record.state == "FAIL"
    assert "its process died without an error message" in str(record.reason)
    assert "(2 times)" in str(record.reason)
    assert len(record.incidents) == 1
    assert other.state == "COMPLETE"


@pytest.mark.slow
@pytest.mark.parametrize("action", ["hang", pytest.param("freeze", marks=pytest.mark.long)])
def test_a_trial_that_hangs_is_ended_and_the_others_go_on(
    run: Callable[..., Ledger], faulty: Path, tmp_path: Path, action: str
) -> None:
    ask(faulty, f"checkpoint.report:2:{action}")
    began = time.monotonic()
    records = run("search.trials=3", "budget={trial_time: 12s}").records()
    assert happened(faulty) == [f"checkpoint.report:2:{action}"]
    states = sorted(record.state for record in records)
    assert states == ["COMPLETE", "COMPLETE", "FAIL"]
    (stuck,) = [record for record in records if record.state == "FAIL"]
    assert stuck.reason == "took longer than 12s, its budget.trial_time"
    assert stuck.epochs == 1
    assert time.monotonic() - began < 90


@pytest.mark.slow
def test_a_full_disk_is_no_trials_fault_and_stops_the_sweep(
    run: Callable[..., Ledger],
    storage: RDBStorage,
    faulty: Path,
    tmp_path: Path,
    toy_space: Make,
) -> None:
    ask(faulty, "checkpoint.rename:2:full")
    space, interrupt = toy_space("search.trials=3"), Interrupt()
    ledger = create_ledger(storage, space, "full")
    sweep = Sweep(ledger, space, tmp_path / "full", MACHINE)
    run_trials(sweep, lambda record: None, interrupt)
    assert happened(faulty) == ["checkpoint.rename:2:full"]
    assert "No space left on device" in str(interrupt.cause)
    assert str(tmp_path / "full/trials") in str(interrupt.cause)
    assert "FAIL" not in {record.state for record in ledger.records()}
    run_trials(sweep, lambda record: None)
    assert [record.state for record in ledger.records()] == ["COMPLETE"] * 3
