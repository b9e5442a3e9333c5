"""Real Ray, a real ledger and a toy job: what became of each trial is what the ledger says."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from optuna.storages import RDBStorage

from sweeper.cluster.capacity import Machine
from sweeper.driver.callbacks import UNREADY, LedgerCallback
from sweeper.driver.searcher import LedgerSearcher, new_trials_source
from sweeper.driver.sweep import Sweep
from sweeper.driver.tuning import ray_session, run_trials
from sweeper.ledger.ledger import Ledger, create_ledger
from sweeper.ledger.ranking import best_first
from sweeper.ledger.record import TrialRecord
from sweeper.process.signals import Interrupt
from sweeper.results.timing import phase_seconds
from sweeper.space.search_space import SearchSpace
from tests.toy import FLOOD, ToyParams, height

Make = Callable[..., SearchSpace]
MACHINE = Machine(cpus=2, gpus=0)
ASHA = "early_stopping={scheduler: asha, grace_period: 1, reduction_factor: 2}"

# Ray's own clients leave sockets and files for the garbage collector.
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with ray_session(MACHINE):
        yield


@pytest.fixture
def run(storage: RDBStorage, toy_space: Make, tmp_path: Path) -> Callable[..., Ledger]:
    def run(*overrides: str, name: str = "toy") -> Ledger:
        space = toy_space(*overrides)
        ledger = create_ledger(storage, space, name)
        run_trials(Sweep(ledger, space, tmp_path / name, MACHINE), lambda record: None)
        return ledger

    return run


def outcome(record: TrialRecord) -> tuple[object, ...]:
    return (
        record.state,
        dict(record.params),
        [{k: v for k, v in e.items() if k in ("height", "epoch")} for e in record.evaluations],
    )


def test_every_trial_runs_to_its_end_and_is_measured_right(run: Callable[..., Ledger]) -> None:
    records = run("search.trials=6").records()
    assert [record.state for record in records] == ["COMPLETE"] * 6
    for record in records:
        assert record.value == pytest.approx(height(ToyParams(**record.params), 4))
        assert record.epochs == 4
        assert json.loads((Path(record.checkpoint or "") / "state.json").read_text()) == {"epoch": 4}


@pytest.mark.slow
def test_the_same_file_and_seed_give_the_same_trials_and_metrics(run: Callable[..., Ledger]) -> None:
    first, again = run("search.trials=5", name="a"), run("search.trials=5", name="b")
    assert [outcome(r) for r in first.records()] == [outcome(r) for r in again.records()]


def test_asha_stops_the_weak_and_they_are_pruned_not_complete(run: Callable[..., Ledger]) -> None:
    records = run("search.trials=8", ASHA, "search.enqueue=[{backbone: hill, learning_rate: 1e-3}]").records()
    complete = [record for record in records if record.state == "COMPLETE"]
    pruned = [record for record in records if record.state == "PRUNED"]
    assert len(complete) + len(pruned) == 8
    assert len(pruned) >= 3
    assert records[0].state == "COMPLETE"
    assert all(record.epochs == 4 for record in complete)
    assert all(record.epochs < 4 and "stopped early after epoch" in str(record.reason) for record in pruned)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["{scheduler: hyperband, reduction_factor: 2}", "{scheduler: median}"])
def test_every_scheduler_stops_trials_without_pausing_any(run: Callable[..., Ledger], rule: str) -> None:
    records = run(
        f"early_stopping={rule}", "parameters.num_train_epochs=3", "search={sampler: random, trials: 8, seed: 1}"
    ).records()
    assert {record.state for record in records} == {"COMPLETE", "PRUNED"}
    assert all((record.state == "COMPLETE") == (record.epochs == 3) for record in records)


TROUBLES = [
    ("raise", "RuntimeError: the hill is closed"),
    ("nan", "Diverged: height is nan, eval_loss is nan at epoch 1"),
    ("inf", "Diverged: height is inf, eval_loss is -inf at epoch 1"),
    ("silent", "MissingReport: the job ended after epoch 0 of 4"),
    ("die", "its process died without an error message"),
    ("no_metric", "MissingReport: the job did not report height, eval_loss"),
]


@pytest.mark.slow
def test_a_trial_that_fails_is_a_result_and_the_others_go_on(run: Callable[..., Ledger]) -> None:
    names = ", ".join(trouble for trouble, _ in TROUBLES)
    space = (
        "search={sampler: grid, seed: 1}",
        f"parameters={{trouble: {{values: [{names}, none]}}, num_train_epochs: 4}}",
    )
    records = run(*space).records()
    found = {record.params["trouble"]: record for record in records}
    assert found["none"].state == "COMPLETE"
    for trouble, reason in TROUBLES:
        assert found[trouble].state == "FAIL"
        assert found[trouble].value is None
        assert reason in str(found[trouble].reason)


def test_two_trials_run_side_by_side(run: Callable[..., Ledger], tmp_path: Path) -> None:
    """Each waits, with a deadline, until the other has begun."""
    parameters = f"parameters={{folder: '{tmp_path}', seed: {{values: [1, 2]}}}}"
    records = run(
        "search={sampler: grid, seed: 1}", "job=tests.support.meeting:JOB", parameters, "objective=met"
    ).records()
    assert [record.value for record in records] == [1.0, 1.0]


@pytest.mark.slow
def test_a_trial_is_left_the_process_that_is_starting_for_it(run: Callable[..., Ledger], tmp_path: Path) -> None:
    """Eight start on two CPUs, and whoever is there first is done long before the last one is."""
    run("search.trials=16", "resources={cpus: 0.25}", "parameters.pace=0.05")
    ran_in = sorted(tmp_path.glob("toy/trials/*/ran_in"), key=lambda path: path.stat().st_mtime_ns)
    assert len(ran_in) == 16
    _, *second = [int(path.parent.name) for path in ran_in if path.read_text() == ran_in[0].read_text()]
    assert second, "the first process to be ready has run one trial only"
    assert second[0] >= 8  # in the end, when nothing new is left, it may be any


@pytest.mark.slow
def test_a_trial_has_as_many_threads_as_it_reserved(run: Callable[..., Ledger], tmp_path: Path) -> None:
    for cpus in (1, 2):
        overrides = (
            "search.trials=1",
            "job=tests.support.meeting:JOB",
            "parameters={alone: true}",
            "objective=met",
            f"resources={{cpus: {cpus}}}",
        )
        record = run(*overrides, name=f"threads-{cpus}").records()[0]
        assert record.metrics["threads"] == cpus


def test_unfinished_trials_go_on_from_their_checkpoint_and_finished_ones_are_left(
    storage: RDBStorage, toy_space: Make, tmp_path: Path
) -> None:
    space = toy_space("search.trials=3")
    ledger = create_ledger(storage, space, "toy")
    sweep = Sweep(ledger, space, tmp_path / "toy", MACHINE)
    done, begun = ledger.ask(space), ledger.ask(space)
    assert done is not None
    assert begun is not None
    ledger.report(done.number, {"height": 0.5, "eval_loss": 0.5, "epoch": 4.0, "seconds": 1.0}, None)
    ledger.finish(done.number, "COMPLETE")
    saved = sweep.workdir(begun.number) / "checkpoint-000002"
    saved.mkdir(parents=True)
    (saved / "state.json").write_text(json.dumps({"epoch": 2}))
    from jobs.checkpoint import write_json

    write_json(saved / "manifest.json", {})
    for epoch in (1.0, 2.0):
        ledger.report(begun.number, {"height": 0.1, "eval_loss": 0.9, "epoch": epoch, "seconds": 1.0}, str(saved))
    run_trials(sweep, lambda record: None)
    records = ledger.records()
    assert [record.state for record in records] == ["COMPLETE"] * 3
    assert records[0].value == 0.5
    went_on = records[1]
    assert [e["epoch"] for e in went_on.evaluations] == [1, 2, 3, 4]
    assert went_on.evaluations[1]["height"] == 0.1  # not trained again
    assert went_on.evaluations[2]["height"] == pytest.approx(height(ToyParams(**went_on.params), 3))


@pytest.mark.slow
def test_a_trial_whose_process_dies_when_all_is_reported_is_complete(run: Callable[..., Ledger]) -> None:
    (record,) = run("search.trials=1", "parameters.trouble=die_done").records()
    assert (record.state, record.incidents, record.epochs) == ("COMPLETE", (), 4)


def test_a_trial_that_tune_drops_without_a_word_is_taken_up_again(
    storage: RDBStorage, toy_space: Make, tmp_path: Path
) -> None:
    """As it drops the successor of one whose process does not end in time, see Tune's `_on_trial_reset`."""
    space = toy_space("search.trials=1")
    sweep = Sweep(create_ledger(storage, space, "toy"), space, tmp_path / "toy", MACHINE)
    searcher = LedgerSearcher(sweep, new_trials_source(sweep), lambda record: None, Interrupt())
    given = searcher.suggest("dropped")
    assert searcher.suggest("next") is None  # it may come back
    LedgerCallback(searcher).find_unreported_errors([SimpleNamespace(status="ERROR", trial_id="dropped")])
    assert [one["reason"] for one in sweep.ledger.record(0).incidents] == [UNREADY]
    assert searcher.suggest("again") == given


@pytest.mark.slow
def test_too_many_failures_end_the_sweep(run: Callable[..., Ledger]) -> None:
    records = run("search.trials=50", "parameters.trouble=raise", "budget={failed_trials: 2}").records()
    assert 2 <= len(records) <= 4  # those already begun may end too
    assert {record.state for record in records} == {"FAIL"}


@pytest.mark.slow
def test_a_spent_time_budget_ends_the_sweep_and_says_so(run: Callable[..., Ledger], tmp_path: Path) -> None:
    record = run(
        "search.trials=1",
        "job=tests.support.meeting:JOB",
        f"parameters={{folder: '{tmp_path}'}}",
        "objective=met",
        "budget={time: 3s}",
    ).records()[0]
    assert (record.state, record.reason) == ("FAIL", "the time budget of 3 s was spent")


@pytest.mark.slow
def test_every_second_of_a_trial_is_told_by_phase(run: Callable[..., Ledger], tmp_path: Path) -> None:
    """Of the toy, which names no phase, all but its start and what it waits for is training."""
    records = run("search.trials=3", "parameters.pace=0.2").records()
    for record in records:
        told = phase_seconds(record)
        assert 0.8 < told["training"] < 3
        assert told["start"] > 0
        assert told["features"] == told["evaluation"] == 0
        assert record.started is not None
        assert record.ended is not None
        assert sum(told.values()) == pytest.approx((record.ended - record.started).total_seconds(), abs=1.5)


@pytest.mark.slow
def test_trials_leave_their_output_in_their_own_log(run: Callable[..., Ledger], tmp_path: Path) -> None:
    run("search.trials=1", "parameters.trouble=raise")
    assert "the hill is closed" in (tmp_path / "toy/trials/0000/log.txt").read_text()
    assert not (tmp_path / "toy/ray").exists()


@pytest.mark.slow
def test_a_flood_of_output_drowns_nobody(run: Callable[..., Ledger], tmp_path: Path) -> None:
    (record,) = run("search.trials=1", "parameters.trouble=flood").records()
    assert record.state == "COMPLETE"
    log = tmp_path / "toy/trials/0000/log.txt"
    assert log.stat().st_size > FLOOD * 6_000  # every byte of it


def test_changes_are_told_after_the_ledger_has_them(storage: RDBStorage, toy_space: Make, tmp_path: Path) -> None:
    space = toy_space("search.trials=2")
    ledger = create_ledger(storage, space, "toy")
    told: list[TrialRecord] = []

    def listen(record: TrialRecord) -> None:
        assert ledger.record(record.number) == record
        told.append(record)

    run_trials(Sweep(ledger, space, tmp_path / "toy", MACHINE), listen)
    states = [record.state for record in told if record.number == 0]
    assert states == ["RUNNING"] * 5 + ["COMPLETE"]
    assert os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.mark.slow
def test_finalists_are_trained_again_with_other_seeds(run: Callable[..., Ledger]) -> None:
    records = run("search.trials=4", "repeats={top: 2, seeds: [1, 42, 3]}", ASHA).records()
    search, repeats = records[:4], records[4:]
    first, second = (record.number for record in best_first(search, "max")[:2])
    assert [(record.repeat_of, record.params["seed"]) for record in repeats] == [
        (first, 1),
        (first, 3),
        (second, 1),
        (second, 3),
    ]  # 42 is the seed they had
    assert all(record.state == "COMPLETE" and record.epochs == 4 for record in repeats)  # never stopped early
    for record in repeats:
        assert {**search[record.repeat_of or 0].params, "seed": record.params["seed"]} == record.params


@pytest.mark.slow
def test_repeats_go_on_where_they_were_left(
    run: Callable[..., Ledger], toy_space: Make, tmp_path: Path, storage: RDBStorage
) -> None:
    overrides = ("search.trials=2", "repeats={top: 1, seeds: [1, 2]}")
    space = toy_space(*overrides)
    ledger = create_ledger(storage, space, "left")
    sweep = Sweep(ledger, space, tmp_path / "left", MACHINE)
    run_trials(Sweep(ledger, toy_space("search.trials=2"), tmp_path / "left", MACHINE), lambda record: None)
    (winner, *_) = best_first(ledger.records(), "max")
    ledger.repeat(winner.number, 1)  # as a driver that was killed leaves it
    run_trials(sweep, lambda record: None)
    run_trials(sweep, lambda record: None)
    repeats = ledger.records()[2:]
    assert [(record.params["seed"], record.state) for record in repeats] == [(1, "COMPLETE"), (2, "COMPLETE")]
