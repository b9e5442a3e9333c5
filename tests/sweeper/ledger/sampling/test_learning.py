"""`search.learn_from`: the sampler learns from trials of other sweeps, which stay theirs and are not run again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from sweeper.driver.opening import open_ledger
from sweeper.errors import ConfigError
from sweeper.ledger.database import LedgerStorage, open_storage
from sweeper.ledger.ledger import Ledger, create_ledger, load_ledger, sweep_names
from sweeper.ledger.ranking import best_first
from sweeper.ledger.record import trial_key
from sweeper.results.overview import sweep_results
from sweeper.space import reading
from sweeper.space.reading import restored
from sweeper.space.search_space import SearchSpace, resolved
from sweeper.storage.settings import Stores
from tests.support.commands import invoke
from tests.support.free_job import no_data
from tests.support.spaces import TOY
from tests.support.trials import asked
from tests.toy import ToyParams, height

Make = Callable[..., SearchSpace]
LEARNING = "search={sampler: tpe, trials: 8, seed: 1, learn_from: [before]}"


@pytest.fixture
def memory() -> LedgerStorage:
    return open_storage("sqlite:///:memory:")


@pytest.fixture(autouse=True)
def without_data(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample is read where commands are called only."""
    if "stores" not in request.fixturenames:
        monkeypatch.setattr(reading, "read_data", no_data)


def trained(ledger: Ledger, space: SearchSpace, count: int) -> list[Mapping[str, Any]]:
    """Run trials one after the other; every fourth fails, and every third is stopped after its first epoch."""
    drawn = []
    for _ in range(count):
        record = asked(ledger, space)
        drawn.append(record.params)
        if record.number % 4 == 3:
            ledger.finish(record.number, "FAIL", "the hill is closed")
            continue
        params = ToyParams(**record.params)
        for epoch in range(1, 2 if record.number % 3 == 2 else params.num_train_epochs + 1):
            score = height(params, epoch)
            metrics = {"height": score, "eval_loss": 1 - score, "epoch": float(epoch), "seconds": 1.0}
            ledger.report(record.number, metrics, None)
        ledger.finish(record.number, "PRUNED" if record.number % 3 == 2 else "COMPLETE")
    return drawn


def before(storage: LedgerStorage, toy_space: Make, *overrides: str, name: str = "before") -> Ledger:
    space = toy_space("search={sampler: random, trials: 20, seed: 7}", *overrides)
    ledger = create_ledger(storage, space, name)
    trained(ledger, space, 12)
    return ledger


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", pytest.param("gp", marks=pytest.mark.slow)])
def test_a_sweep_draws_the_same_when_it_is_resumed_and_the_other_has_grown(
    sampler: str, memory: LedgerStorage, toy_space: Make
) -> None:
    source = before(memory, toy_space)
    space = toy_space(LEARNING.replace("tpe", sampler))
    whole = trained(create_ledger(memory, space, "whole"), space, 6)
    first = trained(create_ledger(memory, space, "parts"), space, 2)
    trained(source, toy_space("search={sampler: random, trials: 20, seed: 7}"), 4)
    assert first + trained(load_ledger(memory, "parts"), space, 4) == whole
    alone = toy_space(LEARNING.replace("tpe", sampler).replace("[before]", "[]"))
    assert trained(create_ledger(memory, alone, "alone"), alone, 6) != whole


def test_trials_of_others_are_in_no_table_and_do_not_count(memory: LedgerStorage, toy_space: Make) -> None:
    before(memory, toy_space)
    space = toy_space(LEARNING)
    ledger = create_ledger(memory, space, "after")
    assert ledger.records() == []
    assert ledger.tally.searched == 0
    trained(ledger, space, 3)
    assert [record.number for record in ledger.records()] == [0, 1, 2]
    assert {one.number for one in best_first(ledger.records(), "max")} == {0, 1, 2}
    assert len(sweep_results(ledger).search) == 3


@pytest.mark.slow
def test_the_sampler_knows_at_once_where_the_other_sweep_was_good(memory: LedgerStorage, toy_space: Make) -> None:
    wide = ("parameters.backbone=hill", "search={sampler: random, trials: 40, seed: 7}")
    source_space = toy_space(*wide)
    trained(create_ledger(memory, source_space, "before"), source_space, 32)
    texts = (LEARNING, LEARNING.replace("[before]", "[]"))
    learning, alone = (toy_space("parameters.backbone=hill", text) for text in texts)
    distances = [
        [abs(math.log10(one["learning_rate"]) + 3) for one in trained(create_ledger(memory, space, name), space, 8)]
        for space, name in ((learning, "a"), (alone, "b"))
    ]
    assert sum(distances[0]) < 0.6 * sum(distances[1])


def test_a_trial_of_another_sweep_is_not_run_again(memory: LedgerStorage, toy_space: Make) -> None:
    choices = ("parameters.backbone=hill", "parameters.learning_rate={values: [1e-4, 1e-3, 1e-2, 1e-1]}")
    space = toy_space(choices[0], "parameters.learning_rate={values: [1e-4, 1e-3, 1e-2]}", "search={sampler: grid}")
    ended = {params["learning_rate"] for params in trained(create_ledger(memory, space, "before"), space, 3)}
    space = toy_space(*choices, LEARNING)
    ledger = create_ledger(memory, space, "after")
    assert {asked(ledger, space).params["learning_rate"]} == {1e-4, 1e-3, 1e-2, 1e-1} - ended
    assert ledger.ask(space) is None
    again = toy_space(*choices, LEARNING.replace("seed: 1", f"seed: 1, enqueue: [{{learning_rate: {min(ended)}}}]"))
    assert asked(create_ledger(memory, again, "on purpose"), again).params["learning_rate"] == min(ended)


def test_trials_outside_the_space_are_left_out_and_counted(memory: LedgerStorage, toy_space: Make) -> None:
    source = before(memory, toy_space)
    ended = [one for one in source.records() if one.state in ("COMPLETE", "PRUNED")]
    rates = "parameters.learning_rate={min: 1e-3, max: 1e-1, log: true}"
    space = toy_space(LEARNING, "parameters.backbone=valley", rates)
    learned = create_ledger(memory, space, "after").learned(space)
    inside = [one for one in ended if one.params["learning_rate"] >= 1e-3]
    assert 0 < len(inside) < len(ended) == 9
    assert learned.counts == {"before": (len(inside), len(ended))}
    assert {one.params["backbone"] for one in learned.trials.values()} == {"valley"}  # a constant may differ
    assert learned.line() == (
        f"the sampler learns from {len(inside)} of 9 trials of before; the others lie outside the search space"
    )
    assert set(learned.trials) == {trial_key(space.job, one.params, space.data_fingerprint) for one in inside}


@pytest.mark.parametrize(
    ("search", "overrides", "text"),
    [
        ("learn_from: [bfore]", (), "unknown sweep 'bfore'; did you mean 'before'?"),
        ("learn_from: [befor2]", ("objective=eval_loss",), "unknown sweep 'befor2'"),
        (
            "learn_from: [before]",
            ("objective=eval_loss",),
            "sweep before has objective height, not eval_loss; name",
        ),
        (
            "learn_from: [other]",
            (),
            "sweep other has objective eval_loss, not height; name sweeps of the same job",
        ),
    ],
)
def test_a_sweep_that_does_not_fit_is_refused_and_nothing_is_created(
    search: str, overrides: tuple[str, ...], text: str, memory: LedgerStorage, toy_space: Make
) -> None:
    create_ledger(memory, toy_space(), "before")
    create_ledger(memory, toy_space("objective=eval_loss"), "other")
    space = toy_space(f"search={{sampler: tpe, trials: 8, {search}}}", *overrides)
    with pytest.raises(ConfigError) as caught:
        create_ledger(memory, space, "after")
    (line,) = caught.value.lines
    assert line.startswith("search.learn_from: ")
    assert text in line
    assert sweep_names(memory) == ["before", "other"]


def test_a_sweep_of_another_job_or_of_other_data_is_refused(
    memory: LedgerStorage, toy_space: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, attribute, value in (("a", "job", "qa"), ("b", "data_fingerprint", "0" * 64)):
        create_ledger(memory, toy_space(), name).set_attribute(attribute, value)
    create_ledger(memory, toy_space(), "aa")
    with pytest.raises(ConfigError) as caught:
        create_ledger(memory, toy_space("search={sampler: gp, trials: 8, learn_from: [a, b]}"), "after")
    first, second = caught.value.lines
    assert "sweep a has job qa, not tests.toy:JOB; name sweeps of the same job, data and objective; did you " in first
    assert "sweep b has other data; " in second


@pytest.mark.parametrize(
    ("search", "text"),
    [
        (
            "sampler: qmc, learn_from: [a]",
            r"toy\.yaml.*search\.learn_from: qmc does not learn; choose tpe, gp or",
        ),
        ("sampler: random, learn_from: [a]", "random does not learn"),
        ("learn_from: [a, b, a]", 'search.learn_from.2: "a" stands twice; keep one'),
        ("learn_from: a", 'search.learn_from: found "a"; must be a list'),
        ("learn_from: ['a/b']", "search.learn_from.0: found"),
    ],
)
def test_a_wrong_list_is_refused(search: str, text: str, toy_space: Make) -> None:
    with pytest.raises(ConfigError, match=text):
        toy_space(f"search={{trials: 8, {search}}}")


def test_the_list_is_part_of_the_search_space_and_an_empty_one_is_none(memory: LedgerStorage, toy_space: Make) -> None:
    space = toy_space(LEARNING)
    assert restored(resolved(space), space.data_fingerprint, "sweep toy") == space
    assert "learn_from" not in resolved(toy_space())["search"]
    before(memory, toy_space)
    create_ledger(memory, toy_space(), "after")
    with pytest.raises(ConfigError, match="exists with another search space"):
        open_ledger(memory, space, "after")


def test_plan_and_run_tell_how_many_trials_are_used(stores: Stores, toy_space: Make, here: Path) -> None:
    storage = open_storage(stores.ledger)
    before(storage, toy_space)
    (here / "toy.yaml").write_text(TOY, encoding="utf-8")
    said = invoke("plan", "toy.yaml", LEARNING, "resources.gpus=0")
    assert said.exit_code == 0, said.stderr
    assert "the sampler learns from 9 of 9 trials of before" in said.stdout
    for command in ("plan", "run"):
        said = invoke(command, "toy.yaml", LEARNING.replace("before", "bfore"), "resources.gpus=0")
        assert said.exit_code == 2
        assert "did you mean 'before'?" in said.stderr
    assert sweep_names(storage) == ["before"]
    assert not (stores.root / "toy").exists()
