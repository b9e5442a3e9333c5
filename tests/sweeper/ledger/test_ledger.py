from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from optuna.storages import RDBStorage

from sweeper.errors import ConfigError, EnvironmentFailure
from sweeper.ledger.database import database_errors, existing_storage, open_storage
from sweeper.ledger.history import write_values
from sweeper.ledger.ledger import Ledger, create_ledger, load_ledger, sweep_exists, sweep_names
from sweeper.ledger.record import STOPPED, TrialRecord, trial_key
from sweeper.space.reading import read_search_space
from sweeper.space.search_space import SearchSpace
from tests.support.spaces import TOY

Make = Callable[..., SearchSpace]


def evaluation(epoch: float, height: float) -> dict[str, float]:
    return {"height": height, "eval_loss": 1 - height, "epoch": epoch, "seconds": 2 * epoch}


def asked(ledger: Ledger, space: SearchSpace) -> TrialRecord:
    record = ledger.ask(space)
    assert record is not None
    return record


def test_a_trial_from_asking_to_its_end(storage: RDBStorage, toy_space: Make) -> None:
    space = toy_space()
    ledger = create_ledger(storage, space, "toy")
    number = asked(ledger, space).number
    ledger.report(number, evaluation(1, 0.2), "a")
    ledger.report(number, evaluation(2, 0.7), "b")
    ledger.report(number, evaluation(3, 0.5), "c")
    record = ledger.finish(number, "COMPLETE")
    assert (record.state, record.value, record.checkpoint) == ("COMPLETE", 0.7, "b")
    assert record.metrics == {"height": 0.7, "eval_loss": pytest.approx(0.3)}
    assert (record.epochs, record.seconds, len(record.evaluations)) == (3, 6, 3)
    assert set(record.params) == {
        "backbone",
        "seed",
        "learning_rate",
        "warmup_ratio",
        "num_train_epochs",
        "per_device_train_batch_size",
        "trouble",
        "folder",
        "pace",
    }


def test_any_optuna_tool_sees_the_best_value_and_the_epochs(storage: RDBStorage, toy_space: Make) -> None:
    space = toy_space()
    ledger = create_ledger(storage, space, "toy")
    number = asked(ledger, space).number
    for epoch, height in [(1, 0.7), (2, 0.5)]:
        ledger.report(number, evaluation(epoch, height), None)
    ledger.finish(number, "COMPLETE")
    trial = optuna.load_study(study_name="toy", storage=storage).trials[0]
    assert (trial.value, trial.intermediate_values) == (0.7, {1: 0.7, 2: 0.5})
    assert set(trial.params) == {"backbone", "learning_rate"}


def test_an_early_value_never_counts_as_complete(storage: RDBStorage, toy_space: Make) -> None:
    space = toy_space()
    ledger = create_ledger(storage, space, "toy")
    number = asked(ledger, space).number
    ledger.report(number, evaluation(1, 0.9), None)
    assert ledger.finish(number, "PRUNED", "stopped early").state == "PRUNED"
    failed = asked(ledger, space).number
    record = ledger.finish(failed, "FAIL", "the hill is closed")
    assert (record.state, record.value, record.reason) == ("FAIL", None, "the hill is closed")
    with pytest.raises(ValueError, match="Record does not exist"):
        _ = ledger.study.best_trial


def test_minimised_objectives_keep_their_smallest_value(storage: RDBStorage, toy_space: Make) -> None:
    space = toy_space("objective=eval_loss")
    ledger = create_ledger(storage, space, "toy")
    number = asked(ledger, space).number
    for epoch, height in [(1, 0.2), (2, 0.7), (3, 0.5)]:
        ledger.report(number, evaluation(epoch, height), None)
    assert ledger.direction == "min"
    assert ledger.finish(number, "COMPLETE").value == pytest.approx(0.3)


def test_the_same_epoch_reported_again_replaces_the_first(storage: RDBStorage, toy_space: Make) -> None:
    space = toy_space()
    ledger = create_ledger(storage, space, "toy")
    number = asked(ledger, space).number
    for epoch, height in [(1, 0.2), (2, 0.9), (2, 0.4), (10, 0.3)]:
        ledger.report(number, evaluation(epoch, height), None)
    record = ledger.record(number)
    assert [e["epoch"] for e in record.evaluations] == [1, 2, 10]
    assert record.value == 0.4


def stored_values(ledger: Ledger, number: int) -> dict[int, float]:
    """Return the intermediate values that any tool of Optuna reads."""
    return optuna.load_study(study_name=ledger.name, storage=ledger.storage).trials[number].intermediate_values


def test_epochs_that_are_trained_again_replace_the_earlier_ones(storage: RDBStorage, toy_space: Make) -> None:
    space = toy_space()
    ledger = create_ledger(storage, space, "toy")
    number = asked(ledger, space).number
    for epoch, height in [(1, 0.2), (2, 0.3), (3, 0.9)]:
        ledger.report(number, evaluation(epoch, height), f"checkpoint-{epoch}")
    record = ledger.report(number, evaluation(2, 0.4), "checkpoint-2")  # no notice of the way back
    assert (record.value, record.checkpoint, record.epochs) == (0.4, "checkpoint-2", 2)
    assert stored_values(ledger, number) == {1: 0.2, 2: 0.4}
    ledger.finish(number, "PRUNED", "stopped early")
    assert stored_values(ledger, number) == {1: 0.2, 2: 0.4}


def test_a_trial_that_goes_back_forgets_what_came_after(storage: RDBStorage, toy_space: Make) -> None:
    space = toy_space()
    ledger = create_ledger(storage, space, "toy")
    number = asked(ledger, space).number
    for epoch, height in [(0.996, 0.2), (1.992, 0.9)]:  # a batch of another size has other fractions of an epoch
        ledger.report(number, evaluation(epoch, height), f"checkpoint-{epoch}")
    assert ledger.rewind(number, 0.996).value == 0.2
    assert stored_values(ledger, number) == {1: 0.2}
    assert [e["epoch"] for e in ledger.report(number, evaluation(2, 0.3), None).evaluations] == [0.996, 2]
    assert ledger.rewind(number, 0).value is None
    assert stored_values(ledger, number) == {}


@pytest.mark.parametrize("state", ["RUNNING", "PRUNED"])
def test_values_of_an_earlier_version_are_corrected_when_a_sweep_goes_on(
    storage: RDBStorage, toy_space: Make, state: Any
) -> None:
    space = toy_space()
    ledger = create_ledger(storage, space, "toy")
    number = asked(ledger, space).number
    for epoch, height in [(1, 0.2), (2, 0.4)]:
        ledger.report(number, evaluation(epoch, height), None)
    write_values(storage, ledger._id(number), {1: 0.2, 2: 0.3, 3: 0.9})
    if state != "RUNNING":
        ledger.finish(number, state, "stopped early")
    ledger = load_ledger(storage, "toy")
    ledger.repair(space)
    assert stored_values(ledger, number) == {1: 0.2, 2: 0.4}
    assert ledger.correct_values() == []


def draws(ledger: Ledger, space: SearchSpace, count: int) -> list[dict[str, Any]]:
    return [dict(asked(ledger, space).params) for _ in range(count)]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_same_seed_draws_the_same_trials(storage: RDBStorage, toy_space: Make, sampler: str) -> None:
    space = toy_space(f"search.sampler={sampler}")
    first = draws(create_ledger(storage, space, "a"), space, 6)
    assert draws(create_ledger(storage, space, "b"), space, 6) == first
    other = toy_space(f"search.sampler={sampler}", "search.seed=2")
    assert draws(create_ledger(storage, other, "c"), other, 6) != first


def test_a_sweep_that_goes_on_draws_what_it_would_have_drawn(storage: RDBStorage, toy_space: Make) -> None:
    space = toy_space()
    whole = draws(create_ledger(storage, space, "a"), space, 6)
    begun = draws(create_ledger(storage, space, "b"), space, 2)
    assert begun + draws(load_ledger(storage, "b"), space, 4) == whole


def test_tpe_learns_from_what_was_told(storage: RDBStorage, toy_space: Make) -> None:
    space = toy_space("parameters.backbone=hill")
    ledger = create_ledger(storage, space, "toy")
    for _ in range(40):
        record = asked(ledger, space)
        height = math.exp(-abs(math.log10(record.params["learning_rate"]) + 3))
        ledger.report(record.number, evaluation(4, height), None)
        ledger.finish(record.number, "COMPLETE")
    distances = [abs(math.log10(r.params["learning_rate"]) + 3) for r in ledger.records()]
    assert sum(distances[20:]) < 0.7 * sum(distances[:20])


def test_enqueued_settings_go_first_in_the_space_or_not(storage: RDBStorage, toy_space: Make) -> None:
    space = toy_space(
        "search.enqueue=[{backbone: valley, learning_rate: 0.5, num_train_epochs: 9}, {learning_rate: 1e-3}]"
    )
    first, second = draws(create_ledger(storage, space, "toy"), space, 2)
    assert (first["backbone"], first["learning_rate"], first["num_train_epochs"]) == ("valley", 0.5, 9)
    assert (second["learning_rate"], second["num_train_epochs"]) == (1e-3, 4)


def test_the_same_trial_is_never_asked_for_twice_and_a_small_space_ends(storage: RDBStorage, toy_space: Make) -> None:
    space = toy_space("parameters.learning_rate={values: [1e-3, 1e-2]}", "search.trials=50")
    ledger = create_ledger(storage, space, "toy")
    records = list(iter(lambda: ledger.ask(space), None))
    assert len(records) == 4
    assert len({record.key for record in records}) == 4
    assert [record.number for record in ledger.records()] == [record.number for record in records]


def test_a_grid_is_tried_in_order(storage: RDBStorage, toy_space: Make) -> None:
    space = toy_space("search={sampler: grid, seed: 1}", "parameters.learning_rate={values: [1e-3, 1e-2]}")
    tried = [(p["backbone"], p["learning_rate"]) for p in draws(create_ledger(storage, space, "toy"), space, 4)]
    assert tried == [("hill", 1e-3), ("hill", 1e-2), ("valley", 1e-3), ("valley", 1e-2)]


def test_a_conditional_parameter_is_drawn_from_its_branch(storage: RDBStorage, toy_space: Make) -> None:
    rates = "[{when: {backbone: hill}, min: 1e-5, max: 1e-4, log: true}, {min: 1e-2, max: 1e-1, log: true}]"
    space = toy_space(f"parameters.learning_rate={rates}")
    for params in draws(create_ledger(storage, space, "toy"), space, 20):
        assert (params["learning_rate"] < 1e-3) == (params["backbone"] == "hill")


def test_the_trial_key_does_not_depend_on_the_order_of_parameters() -> None:
    assert trial_key("qa", {"a": 1, "b": 2}, "f") == trial_key("qa", {"b": 2, "a": 1}, "f")
    keys = {
        trial_key("qa", {"a": 1}, "f"),
        trial_key("mc", {"a": 1}, "f"),
        trial_key("qa", {"a": 2}, "f"),
        trial_key("qa", {"a": 1}, "g"),
    }
    assert len(keys) == 4


def test_a_run_can_be_noted_after_the_trial_has_ended(storage: RDBStorage, toy_space: Make) -> None:
    space = toy_space()
    ledger = create_ledger(storage, space, "toy")
    number = asked(ledger, space).number
    ledger.finish(number, "FAIL", "why")
    ledger.set_run(number, "run-1")
    assert load_ledger(storage, "toy").record(number).run_id == "run-1"


def test_sweeps_are_found_by_name_and_a_slip_is_answered(storage: RDBStorage, toy_space: Make) -> None:
    create_ledger(storage, toy_space(), "qa_backbones")
    assert sweep_names(storage) == ["qa_backbones"]
    with pytest.raises(ConfigError, match="did you mean 'qa_backbones'"):
        load_ledger(storage, "qa_backbone")
    with pytest.raises(ConfigError, match="the name is taken"):
        create_ledger(storage, toy_space(), "qa_backbones")


def test_the_ledger_is_private_and_reading_creates_nothing(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/deep/ledger.db"
    with pytest.raises(ConfigError, match="run a sweep first"):
        existing_storage(address)
    assert not list(tmp_path.iterdir())
    open_storage(address)
    assert stat.S_IMODE((tmp_path / "deep/ledger.db").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "deep").stat().st_mode) == 0o700


def test_a_database_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("this is no database, and long enough not to be taken for a header at all")
    address = f"sqlite:///{tmp_path}/ledger.db"
    with pytest.raises(EnvironmentFailure, match="file is not a database") as caught:
        open_storage(address)
    assert len(caught.value.lines) == 1
    if os.geteuid():  # root writes everywhere
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(EnvironmentFailure, match="Permission denied"):
            open_storage(f"sqlite:///{tmp_path}/closed/ledger.db")


def test_a_password_in_the_address_is_not_shown() -> None:
    with pytest.raises(EnvironmentFailure) as caught, database_errors("postgresql://ada:hunter2@127.0.0.1/x"):
        raise optuna.exceptions.StorageInternalError("gone")
    assert "hunter2" not in caught.value.lines[0]


class Trials(RuleBasedStateMachine):
    """Whatever is asked, reported and finished in whatever order: the ledger says the same as a dict."""

    @initialize()
    def begin(self) -> None:
        import tempfile

        folder = Path(tempfile.mkdtemp())
        (folder / "toy.yaml").write_text(TOY, encoding="utf-8")
        self.space = read_search_space(folder / "toy.yaml", [])
        self.storage = open_storage(f"sqlite:///{folder}/ledger.db")
        self.ledger = create_ledger(self.storage, self.space, "toy")
        self.model: dict[int, dict[str, Any]] = {}
        self.params: dict[int, Any] = {}

    @rule()
    def ask(self) -> None:
        record = asked(self.ledger, self.space)
        self.params[record.number] = record.params
        self.model[record.number] = {"state": "RUNNING", "heights": {}}

    def running(self) -> list[int]:
        return [number for number, trial in self.model.items() if trial["state"] == "RUNNING"]

    @precondition(lambda self: self.running())
    @rule(data=st.data(), epoch=st.integers(1, 4), height=st.floats(0, 1))
    def report(self, data: st.DataObject, epoch: int, height: float) -> None:
        number = data.draw(st.sampled_from(self.running()))
        self.ledger.report(number, evaluation(epoch, height), f"checkpoint-{epoch}")
        self.model[number]["heights"] = {e: h for e, h in self.model[number]["heights"].items() if e < epoch}
        self.model[number]["heights"][epoch] = height

    @precondition(lambda self: self.running())
    @rule(data=st.data(), epoch=st.integers(0, 4))
    def go_back(self, data: st.DataObject, epoch: int) -> None:
        number = data.draw(st.sampled_from(self.running()))
        record = self.ledger.rewind(number, float(epoch))
        self.model[number]["heights"] = {e: h for e, h in self.model[number]["heights"].items() if e <= epoch}
        assert record.epochs == max(self.model[number]["heights"], default=0)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), values=st.dictionaries(st.integers(1, 5), st.floats(0, 1)))
    def crash_between_an_evaluation_and_its_value(self, data: st.DataObject, values: dict[int, float]) -> None:
        number = data.draw(st.sampled_from(sorted(self.model)))
        write_values(self.storage, self.ledger._id(number), values)
        self.crash()
        self.ledger.correct_values()

    @precondition(lambda self: self.running())
    @rule(data=st.data(), state=st.sampled_from(["COMPLETE", "PRUNED", "FAIL"]))
    def finish(self, data: st.DataObject, state: Any) -> None:
        number = data.draw(st.sampled_from(self.running()))
        if not self.model[number]["heights"]:
            state = "FAIL"
        self.ledger.finish(number, state)
        self.model[number]["state"] = state

    @rule()
    def crash(self) -> None:
        self.ledger = load_ledger(open_storage(self.storage.url), "toy")

    @rule()
    def crash_between_a_draw_and_its_parameters(self) -> None:
        self.ledger.study.ask()
        self.crash()

    @rule()
    def mend(self) -> None:
        self.ledger.repair(self.space)
        for number in self.running():
            if 4 in self.model[number]["heights"]:
                self.model[number]["state"] = "COMPLETE"

    @precondition(lambda self: self.model)
    @rule(data=st.data(), seed=st.integers(2, 99))
    def repeat(self, data: st.DataObject, seed: int) -> None:
        number = data.draw(st.sampled_from(sorted(self.model)))
        params = {**self.params[number], "seed": seed}
        if params not in self.params.values():  # a driver asks for no repeat twice
            record = self.ledger.repeat(number, seed)
            assert record.repeat_of == number
            self.params[record.number] = params
            self.model[record.number] = {"state": "RUNNING", "heights": {}}

    @invariant()
    def agrees(self) -> None:
        records = {record.number: record for record in self.ledger.records()}
        assert set(records) == set(self.model)
        assert len({record.key for record in records.values()}) == len(records)
        for number, trial in self.model.items():
            record, heights = records[number], trial["heights"]
            assert (record.state, record.params) == (trial["state"], self.params[number])
            assert record.value == max(heights.values(), default=None)
            assert [e["height"] for e in record.evaluations] == [heights[epoch] for epoch in sorted(heights)]
            values = self.storage.get_trial(self.ledger._id(number)).intermediate_values
            assert values == {step: heights[epoch] for step, epoch in enumerate(sorted(heights), 1)}
            if heights:
                best = min(epoch for epoch, height in heights.items() if height == record.value)
                assert record.checkpoint == f"checkpoint-{best}"


TestTrials = Trials.TestCase
TestTrials.settings = settings(max_examples=3, stateful_step_count=8, deadline=None)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_ledger_says_the_same_as_a_dict_whatever_happens_for_long() -> None:
    run_state_machine_as_test(
        Trials,
        settings=settings(
            max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_the_sampler_learns_from_settings_that_go_first(storage: RDBStorage, toy_space: Make) -> None:
    space = toy_space("search.enqueue=[{backbone: hill, learning_rate: 1e-3}, {backbone: hill, learning_rate: 0.5}]")
    ledger = create_ledger(storage, space, "toy")
    inside, outside = asked(ledger, space), asked(ledger, space)
    trials = ledger.study.get_trials()
    assert trials[inside.number].params == {"backbone": "hill", "learning_rate": 1e-3}
    assert trials[outside.number].params == {"backbone": "hill"}  # 0.5 lies outside the space
    assert outside.params["learning_rate"] == 0.5


def test_a_draw_that_was_cut_short_is_made_again(storage: RDBStorage, toy_space: Make) -> None:
    space = toy_space("search.enqueue=[{backbone: hill, learning_rate: 1e-3}]")
    undisturbed, killed = create_ledger(storage, space, "undisturbed"), create_ledger(storage, space, "killed")
    for _ in range(4):
        asked(undisturbed, space)
        killed.study.ask()  # as far as a driver came that was killed before it noted the parameters
        killed.repair(space)
        asked(killed, space)
    assert [record.params for record in killed.records()] == [record.params for record in undisturbed.records()]
    assert len(killed.study.get_trials()) == 8


def test_a_trial_whose_last_epoch_is_on_record_is_finished(storage: RDBStorage, toy_space: Make) -> None:
    space = toy_space()
    ledger = create_ledger(storage, space, "toy")
    for epochs in (4, 3):
        number = asked(ledger, space).number
        for epoch in range(1, epochs + 1):
            ledger.report(number, evaluation(epoch, 0.2), None)
    ledger.repair(space)
    assert [record.state for record in ledger.records()] == ["COMPLETE", "RUNNING"]


def test_a_trial_that_was_stopped_at_its_last_report_is_pruned(storage: RDBStorage, toy_space: Make) -> None:
    space = toy_space()
    ledger = create_ledger(storage, space, "toy")
    stopped, other = (asked(ledger, space).number for _ in range(2))
    ledger.report(stopped, {**evaluation(1, 0.2), STOPPED: True}, None)
    ledger.report(other, {**evaluation(1, 0.2), STOPPED: True}, None)
    ledger.report(other, evaluation(1, 0.3), None)  # trained again, and not stopped then
    ledger.repair(space)
    assert [record.state for record in ledger.records()] == ["PRUNED", "RUNNING"]
    assert ledger.record(stopped).reason == "stopped early after epoch 1"


def test_a_sweep_that_was_cut_short_while_it_was_noted_is_created_again(storage: RDBStorage, toy_space: Make) -> None:
    optuna.create_study(storage=storage, study_name="toy").set_user_attr("job", "tests.toy:JOB")
    assert not sweep_exists(storage, "toy")
    assert not sweep_exists(storage, "toy")
    ledger = create_ledger(storage, toy_space(), "toy")
    assert sweep_exists(storage, "toy")
    assert ledger.records() == []
