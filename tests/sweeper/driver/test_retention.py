"""What is deleted, and what never is. The table is every pair of trials in every state, with every number kept."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import RDBStorage

from jobs.checkpoint import damage, has_state
from sweeper.cluster.capacity import Machine
from sweeper.driver.checkpoints import delete_checkpoints, trials_with_checkpoints, unneeded_checkpoints
from sweeper.driver.run import ChangeListener
from sweeper.driver.sweep import Sweep
from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import create_ledger
from sweeper.ledger.ranking import best_first
from sweeper.ledger.record import State, TrialRecord
from sweeper.space.search_space import SearchSpace
from sweeper.storage.places import Home, Places
from tests.support.limits import killed_at
from tests.support.trials import STATE, asked, evaluated, saved_by_trainer

STATES: tuple[State, ...] = get_args(State)
VALUES = ((), (0.2,), (0.5, 0.4))  # no evaluation, one, and one that was better than the last


def record(number: int, state: State, values: tuple[float, ...], repeat_of: int | None = None) -> TrialRecord:
    evaluations = tuple(
        {"epoch": float(epoch), "height": value, "checkpoint": f"{number}/{epoch}"}
        for epoch, value in enumerate(values, 1)
    )
    top = max(evaluations, key=lambda evaluation: evaluation["height"], default=None)
    given: dict[str, Any] = {"key": f"key-{number}", "params": {}, "metrics": {}, "reason": None, "run_id": None}
    return TrialRecord(
        number=number,
        state=state,
        evaluations=evaluations,
        value=top["height"] if top else None,
        checkpoint=top["checkpoint"] if top else None,
        started=None,
        ended=None,
        repeat_of=repeat_of,
        **given,
    )


KINDS = [(state, values) for state, values in product(STATES, VALUES) if values or state != "COMPLETE"]
TABLE = [(first, second, keep) for first, second, keep in product(KINDS, KINDS, (1, 2)) if first <= second]


@pytest.mark.parametrize(("first", "second", "keep"), TABLE)
def test_only_what_nothing_needs_is_deleted(first: Any, second: Any, keep: int) -> None:
    records = [record(0, *first), record(1, *second), record(2, "COMPLETE", (0.9,), repeat_of=0)]
    gone = set(unneeded_checkpoints(records, "max", keep))
    every = {e["checkpoint"] for one in records for e in one.evaluations}
    kept = {one.checkpoint for one in best_first(records[:2], "max")[:keep]}
    for one in records:
        if one.state == "RUNNING" and one.evaluations:
            kept |= {one.checkpoint, one.evaluations[-1]["checkpoint"]}
    assert kept.isdisjoint(gone)  # neither the best, nor what a running trial goes on from
    assert every - kept == gone  # and nothing else stays, so that the disk does not fill up
    assert not {one.checkpoint for one in records if one.state == "FAIL"} & kept


ENDED = st.tuples(st.sampled_from(STATES), st.sampled_from([(), (0.2,), (0.5, 0.4), (0.3, 0.5), (0.9,)]))


@given(st.lists(ENDED, max_size=12), st.integers(1, 3))
def test_looking_at_the_needy_alone_deletes_the_same(trials: list[Any], keep: int) -> None:
    records = [record(number, *trial) for number, trial in enumerate(trials)]
    gone, held = set[str](), list[TrialRecord]()
    for one in records:
        held.append(one)
        gone |= set(unneeded_checkpoints(held, "max", keep))
        held = trials_with_checkpoints(held, "max", keep)
    assert gone == set(unneeded_checkpoints(records, "max", keep))


def test_of_equals_the_checkpoint_of_the_older_trial_stays() -> None:
    records = [record(0, "COMPLETE", (0.5,)), record(1, "COMPLETE", (0.5,))]
    assert unneeded_checkpoints(records, "max", 1) == ["1/1"]
    assert unneeded_checkpoints(records[::-1], "max", 1) == ["1/1"]


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_driver_killed_while_it_deletes_loses_nothing_that_is_needed(
    storage: RDBStorage, toy_space: Callable[..., SearchSpace], tmp_path: Path, nth: int
) -> None:
    """The ledger says that a trial has ended, and its older checkpoints are still there, some or all."""
    space = toy_space()
    ledger = create_ledger(storage, space, "toy")
    evaluated(ledger, asked(ledger, space).number, tmp_path / "0", 4)
    ledger.finish(0, "COMPLETE")
    (needed,) = {ledger.record(0).checkpoint}
    unneeded = unneeded_checkpoints(ledger.records(), "max", keep=1)
    assert len(unneeded) == 3
    killed_at(f"retention.delete:{nth}:kill", tmp_path / "log", lambda: delete_checkpoints(unneeded))
    assert [Path(path).exists() for path in unneeded] == [place >= nth - 1 for place in range(3)]
    assert needed
    assert damage(Path(needed)) is None
    delete_checkpoints(unneeded_checkpoints(ledger.records(), "max", keep=1))
    assert [path.name for path in (tmp_path / "0").iterdir()] == [Path(needed).name]


def listener(sweep: Sweep) -> ChangeListener:
    nothing: Any = None
    return ChangeListener(sweep, nothing, nothing, nothing)


def has_training_state(checkpoint: Path) -> bool:
    return has_state([path.name for path in checkpoint.iterdir()])


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_is_kept_of_an_ended_trial_has_no_training_state(
    storage: RDBStorage, toy_space: Callable[..., SearchSpace], tmp_path: Path, state: State, elsewhere: bool
) -> None:
    """Of a running one it is needed, in the best and in the newest checkpoint."""
    space = toy_space()
    ledger = create_ledger(storage, space, "toy")
    sweep = Sweep(ledger, space, tmp_path / "toy", Machine(1, 0), str(tmp_path / "shared") if elsewhere else None)
    place = Path(sweep.storage(0) or sweep.workdir(0))
    running = evaluated(ledger, asked(ledger, space).number, place, 3, saved_by_trainer)
    listener(sweep).retain(running)
    assert [has_training_state(path) for path in place.glob("checkpoint-*")] == [True]
    if state != "RUNNING":
        listener(sweep).retain(ledger.finish(0, state, "ended"))
    left = list(place.glob("checkpoint-*"))
    assert [damage(path) for path in left] == [None] * len(left)
    expected = {"RUNNING": [True], "COMPLETE": [False], "PRUNED": [False], "FAIL": []}[state]
    assert [has_training_state(path) for path in left] == expected


@pytest.mark.parametrize("state", ["COMPLETE", "PRUNED", "FAIL"])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_nothing_is_left_of_a_checkpoint_that_was_never_reported(
    storage: RDBStorage, toy_space: Callable[..., SearchSpace], tmp_path: Path, state: State, elsewhere: bool
) -> None:
    """One whose metrics are not finite, say, and one that was being written when the process died."""
    space = toy_space()
    ledger = create_ledger(storage, space, "toy")
    sweep = Sweep(ledger, space, tmp_path / "toy", Machine(1, 0), str(tmp_path / "shared") if elsewhere else None)
    place = Path(sweep.storage(0) or sweep.workdir(0))
    listener(sweep).retain(evaluated(ledger, asked(ledger, space).number, place, 2, saved_by_trainer))
    saved_by_trainer(place, 3)
    saved_by_trainer(sweep.workdir(0), 4)
    (sweep.workdir(0) / "unfinished/checkpoint-5").mkdir(parents=True)
    (sweep.workdir(0) / "log.txt").write_text("it said")
    listener(sweep).retain(ledger.finish(0, state, "ended"))
    assert [path.name for path in place.glob("checkpoint-*")] == ([] if state == "FAIL" else ["checkpoint-000002"])
    left = {path.name for path in sweep.workdir(0).iterdir()}
    assert left == {"log.txt"} | {path.name for path in place.glob("checkpoint-*") if not elsewhere}


def test_a_checkpoint_stays_when_later_ones_are_stored_elsewhere(
    storage: RDBStorage, toy_space: Callable[..., SearchSpace], tmp_path: Path
) -> None:
    """`[storage] checkpoints` was set after the trial had ended."""
    space = toy_space()
    ledger = create_ledger(storage, space, "toy")
    sweep = Sweep(ledger, space, tmp_path / "toy", Machine(1, 0), str(tmp_path / "shared"))
    evaluated(ledger, asked(ledger, space).number, sweep.workdir(0), 2, saved_by_trainer)
    ended = ledger.finish(0, "COMPLETE")
    listener(sweep).retain(ended)
    assert damage(Path(str(ended.checkpoint))) is None


def test_the_next_run_removes_the_state_that_a_killed_driver_left(
    storage: RDBStorage, toy_space: Callable[..., SearchSpace], tmp_path: Path
) -> None:
    space = toy_space()
    ledger = create_ledger(storage, space, "toy")
    sweep = Sweep(ledger, space, tmp_path / "toy", Machine(1, 0))
    evaluated(ledger, asked(ledger, space).number, sweep.workdir(0), 4, saved_by_trainer)
    ended = ledger.finish(0, "COMPLETE")
    place = Path(str(ended.checkpoint))
    killed_at("state.delete:2:kill", tmp_path / "log", lambda: listener(sweep).retain(ended))
    assert damage(place) is None
    assert {path.name for path in place.iterdir()} & set(STATE) == set(STATE[1:])
    listener(sweep).retain(ended)
    assert {path.name for path in place.iterdir()} & set(STATE) == set()


def test_a_checkpoint_of_another_root_keeps_its_training_state(
    toy_space: Callable[..., SearchSpace], tmp_path: Path
) -> None:
    space, places = toy_space(), Places(Home(tmp_path / "sweeps", tmp_path / "project"), mark="copy")
    ledger = create_ledger(open_storage(f"sqlite:///{tmp_path}/ledger.db", places), space, "toy")
    sweep = Sweep(ledger, space, tmp_path / "toy", Machine(1, 0))
    evaluated(ledger, asked(ledger, space).number, tmp_path / "original", 4, saved_by_trainer)
    listener(sweep).retain(ledger.finish(0, "COMPLETE"))
    assert [has_training_state(path) for path in (tmp_path / "original").iterdir()] == [True] * 4
