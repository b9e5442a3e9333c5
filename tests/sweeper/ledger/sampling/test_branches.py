"""Samplers that know nothing of conditions: each branch has its model, and a resumed sweep draws the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import cmaes
import numpy as np
import pytest
from hypothesis import given, settings

from sweeper.errors import ConfigError
from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import Ledger, create_ledger, load_ledger
from sweeper.ledger.sampling import branches, models
from sweeper.ledger.sampling.branches import draw_by_branches, stages
from sweeper.ledger.sampling.models import Past
from sweeper.space import reading
from sweeper.space.domains import Constant, contains
from sweeper.space.search_space import SearchSpace, assign, defaults_by_name
from tests.support.free_job import document, documents, no_data, parameters, read_text
from tests.toy import ToyParams, height

Make = Callable[..., SearchSpace]
RATES = "[{when: {backbone: hill}, min: 1e-5, max: 1e-1, log: true}, {min: 1e-4, max: 1.0, log: true}]"
WARM = "[{when: {backbone: hill}, min: 0.0, max: 0.3}]"
pytestmark = pytest.mark.usefixtures("without_data")
CONDITIONAL = (f"parameters.learning_rate={RATES}", f"parameters.warmup_ratio={WARM}")
GP = pytest.param("gp", marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def without_data() -> Iterator[None]:
    """The sample is not read for every space."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "read_data", no_data)
        yield


def search(sampler: str, seed: int = 1, **more: Any) -> str:
    extra = "".join(f", {key}: {value}" for key, value in more.items())
    return f"search={{sampler: {sampler}, trials: 30, seed: {seed}{extra}}}"


def run(ledger: Ledger, space: SearchSpace, count: int, at_once: int = 2) -> list[Mapping[str, Any]]:
    """Run trials of which `at_once` run side by side; every third is stopped after its first epoch."""
    running = [record.number for record in ledger.records() if record.state == "RUNNING"]
    drawn = []
    for _ in range(count):
        record = ledger.ask(space)
        assert record is not None
        drawn.append(record.params)
        running.append(record.number)
        if len(running) >= at_once:
            number = running.pop(0)
            params = ToyParams(**ledger.record(number).params)
            epochs = 1 if number % 3 == 2 else params.num_train_epochs
            for epoch in range(1, epochs + 1):
                score = height(params, epoch)
                metrics = {"height": score, "eval_loss": 1 - score, "epoch": float(epoch), "seconds": 1.0}
                ledger.report(number, metrics, None)
            ledger.finish(number, "PRUNED" if number % 3 == 2 else "COMPLETE")
    return drawn


@pytest.mark.parametrize("sampler", [GP, "cmaes", "qmc"])
def test_the_same_seed_draws_the_same_trials_also_when_the_sweep_is_resumed(sampler: str, toy_space: Make) -> None:
    space = toy_space(search(sampler), *CONDITIONAL, "parameters.num_train_epochs=2")
    storage = open_storage("sqlite:///:memory:")
    whole = run(create_ledger(storage, space, "a"), space, 8)
    create_ledger(storage, space, "b")
    parts = [params for _ in range(4) for params in run(load_ledger(storage, "b"), space, 2)]
    assert parts == whole
    other = toy_space(search(sampler, seed=2), *CONDITIONAL, "parameters.num_train_epochs=2")
    assert run(create_ledger(storage, other, "c"), other, 3) != whole[:3]


@pytest.mark.filterwarnings("ignore:The distribution is specified by")  # steps that are no decimal numbers
@given(documents())
@settings(max_examples=20)
def test_every_value_lies_in_its_branch(sections: dict[str, str]) -> None:
    sections["search"] = "{sampler: qmc, trials: 3}"
    found = read_text(document(**sections))
    drawn = [draw_by_branches(found, [], {}, number, number) for number in range(3)]
    assert all(list(one) for one in drawn)
    for values in drawn:
        checked = []

        def check(label: str, domain: Any, values: dict[str, Any] = values, checked: list[str] = checked) -> Any:
            name = label.partition(".")[0]
            assert contains(domain, values[name])
            checked.append(name)
            return values[name]

        assert assign(found, check) == values
        assert len(checked) == len(set(checked))


def test_parameters_that_decide_a_branch_are_drawn_first_and_the_others_together() -> None:
    found = parameters(
        "{backbone: {values: [a, b]}, learning_rate: {min: 0.1, max: 0.2}, max_length: {min: 65, max: 512}, "
        "num_train_epochs: [{when: {backbone: a}, min: 1, max: 9}, {value: 2}], "
        'seed: [{when: {num_train_epochs: ">3"}, min: 1, max: 9}], balanced: {values: [true, false]}}'
    )
    first, second, rest = stages(found.parameters)
    assert (first, second) == (["backbone"], ["num_train_epochs"])
    assert set(rest) == {"learning_rate", "max_length", "seed", "balanced"}


@pytest.mark.parametrize(("sampler", "model"), [("gp", "by_gp"), ("cmaes", "by_cmaes"), ("tpe", "by_tpe")])
def test_each_branch_learns_from_its_own_trials(
    sampler: str, model: str, toy_space: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = toy_space(search(sampler), *CONDITIONAL)
    defaults = defaults_by_name(space.job)
    past = [
        Past({**defaults, "backbone": backbone, "learning_rate": rate, "warmup_ratio": 0.0}, value)
        for backbone, rate, value in (
            ("hill", 1e-4, 0.5), ("hill", 1e-2, None), ("valley", 1e-3, 0.4), ("hill", 0.5, 0.1), ("peak", 1e-3, 0.2),
        )
    ]  # fmt: skip
    seen: dict[tuple[str, ...], list[Any]] = {}

    def note(distributions: Any, past: Any, seed: int) -> dict[str, Any]:
        seen[tuple(sorted(distributions))] = [one.params["learning_rate"] for one in past]
        return {name: {"backbone": "hill", "learning_rate": 1e-3, "warmup_ratio": 0.1}[name] for name in distributions}

    monkeypatch.setattr(branches, model, note)
    drawn = draw_by_branches(space, past, {}, 1, 1)
    assert (drawn["backbone"], drawn["learning_rate"], drawn["num_train_epochs"]) == ("hill", 1e-3, 4)
    # the rate 0.5 lies outside the branch of the hill, and there is no peak
    assert seen == {("backbone",): [1e-4, 1e-2, 1e-3, 0.5], ("learning_rate", "warmup_ratio"): [1e-4, 1e-2]}


@pytest.mark.parametrize("sampler", [GP, "cmaes"])
def test_draws_follow_the_model_as_soon_as_it_has_enough_trials(
    sampler: str, toy_space: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = toy_space(search(sampler), "parameters.backbone=hill")
    ledger = create_ledger(open_storage("sqlite:///:memory:"), space, "toy")
    spread = []
    original = models.by_qmc
    monkeypatch.setattr(branches, "by_qmc", lambda *given: spread.append(1) or original(*given))
    run(ledger, space, 8, at_once=1)
    assert len(spread) == (2 if sampler == "gp" else 0)


@pytest.mark.parametrize("sampler", [GP, "cmaes", "qmc"])
def test_a_small_space_is_drawn_whole_and_then_ends(sampler: str, toy_space: Make) -> None:
    space = toy_space(search(sampler), "parameters.backbone=hill", "parameters.num_train_epochs={min: 1, max: 4}",
                      "parameters.learning_rate=1e-3")  # fmt: skip
    ledger = create_ledger(open_storage("sqlite:///:memory:"), space, "toy")
    assert sorted(params["num_train_epochs"] for params in run(ledger, space, 4)) == [1, 2, 3, 4]
    assert ledger.ask(space) is None


@pytest.mark.parametrize("sampler", [GP, "cmaes", "qmc"])
def test_enqueued_settings_go_first_and_leave_the_rest_to_the_sampler(sampler: str, toy_space: Make) -> None:
    enqueue = "[{backbone: valley, learning_rate: 5.0, num_train_epochs: 9}, {learning_rate: 1e-3}]"
    space = toy_space(search(sampler, enqueue=enqueue), *CONDITIONAL)
    first, second = run(create_ledger(open_storage("sqlite:///:memory:"), space, "toy"), space, 2)
    assert (first["backbone"], first["learning_rate"], first["num_train_epochs"]) == ("valley", 5.0, 9)
    assert (second["learning_rate"], second["num_train_epochs"]) == (1e-3, 4)
    assert second["backbone"] in ("hill", "valley")


def test_a_sequence_covers_each_branch_evenly_without_repeating_itself(toy_space: Make) -> None:
    space = toy_space(search("qmc"), "parameters.warmup_ratio={min: 0.0, max: 1.0}")
    drawn = [draw_by_branches(space, [], {}, number, number) for number in range(64)]
    assert Counter(one["backbone"] for one in drawn) == {"hill": 32, "valley": 32}
    for backbone in ("hill", "valley"):
        ratios = [one["warmup_ratio"] for one in drawn if one["backbone"] == backbone]
        assert all(6 <= sum(low <= ratio < low + 0.25 for ratio in ratios) <= 10 for low in (0.0, 0.25, 0.5, 0.75))
    assert len({one["learning_rate"] for one in drawn}) == 64


def test_cma_es_is_told_each_generation_once_all_its_trials_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[float]] = []
    tell = cmaes.CMA.tell
    monkeypatch.setattr(
        cmaes.CMA, "tell", lambda self, given: told.append([value for _, value in given]) or tell(self, given)
    )
    from optuna.distributions import FloatDistribution

    spaces = {"x": FloatDistribution(0, 1)}
    values: list[float | None] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, None, 0.8, 0.9]
    past = [Past({"x": nth / 10}, value) for nth, value in enumerate(values)]
    models.by_cmaes(spaces, past, 1)
    assert told == [[-0.1, -0.2, -0.3, -0.4]]
    told.clear()
    models.by_cmaes(spaces, [Past(one.params, one.value or 0.7) for one in past], 1)
    assert told == [[-0.1, -0.2, -0.3, -0.4], [-0.5, -0.6, -0.7, -0.8]]


def test_cma_es_moves_to_the_better_side() -> None:
    from optuna.distributions import FloatDistribution

    spaces = {"x": FloatDistribution(0, 1), "y": FloatDistribution(1e-5, 1, log=True)}
    points = np.random.default_rng(1).random((24, 2))
    past = [Past({"x": x, "y": 10 ** (5 * y - 5)}, -abs(x - 0.9) - abs(y - 0.2)) for x, y in points]
    drawn = [models.by_cmaes(spaces, past, seed) for seed in range(20)]
    assert np.median([one["x"] for one in drawn]) > 0.6
    assert np.median([np.log10(one["y"]) / 5 + 1 for one in drawn]) < 0.4


def test_cma_es_without_a_range_is_refused(toy_space: Make) -> None:
    with pytest.raises(ConfigError, match=r"toy.yaml.*search\.sampler: cmaes draws numbers from ranges, and no param"):
        toy_space("search.sampler=cmaes", "parameters.learning_rate={values: [1e-3, 1e-2]}")
    toy_space("search.sampler=cmaes")


@pytest.mark.parametrize("sampler", [GP, "cmaes", "qmc"])
def test_a_choice_may_have_values_of_any_kind(sampler: str) -> None:
    found = parameters(
        "{dropout: {values: [null, 0.1, 0.5]}, balanced: {values: [true, false]}, backbone: {values: [a, b]}, "
        "num_train_epochs: {min: 1, max: 3}}",
        search=f"{{sampler: {sampler}, trials: 3}}",
    )
    past: list[Past] = []
    for number in range(6):
        values = draw_by_branches(found, past, {}, number, number)
        assert values["dropout"] in (None, 0.1, 0.5)
        past.append(Past({**defaults_by_name(found.job), **values}, number / 10))


def test_constants_of_a_branch_are_no_draws(toy_space: Make) -> None:
    space = toy_space(search("qmc"), "parameters.num_train_epochs=[{when: {backbone: hill}, value: 2}, {value: 3}]")
    drawn = [draw_by_branches(space, [], {}, number, number) for number in range(8)]
    assert {(one["backbone"], one["num_train_epochs"]) for one in drawn} == {("hill", 2), ("valley", 3)}
    assert isinstance(space.parameters["num_train_epochs"][0].domain, Constant)


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "share"), [("gp", 0.9), ("cmaes", 0.8)])
def test_a_model_comes_near_the_known_optimum(sampler: str, share: float, toy_space: Make) -> None:
    space = toy_space(search(sampler), "parameters.backbone=hill")
    ledger = create_ledger(open_storage("sqlite:///:memory:"), space, "toy")
    run(ledger, space, 14)
    best = max(record.value or 0.0 for record in ledger.records())
    assert best > share * height(ToyParams(), 4)
