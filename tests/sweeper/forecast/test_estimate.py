"""Forecasts of whole search spaces: by calculation, from the ledger, for named GPUs, and as the commands show them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from optuna.storages import RDBStorage

from jobs import get_job
from sweeper.cli import main
from sweeper.cluster.capacity import Machine
from sweeper.cluster.devices import DEVICES, find_device
from sweeper.errors import ConfigError
from sweeper.forecast.estimate import forecast_line, named_device, sweep_forecast, time_text
from sweeper.forecast.forecast import Forecast
from sweeper.forecast.work import BASE, LARGE, sizes_of
from sweeper.ledger.ledger import create_ledger
from sweeper.space.reading import read_search_space
from sweeper.space.search_space import SearchSpace
from tests.support.sources import ROOT
from tests.support.trials import asked

QA = """
name: reader
job: qa
data: sample
objective: exact_match
parameters:
  backbone: {values: ["scratch:1x32x2", "scratch:2x64x2"]}
  num_train_epochs: 4
  max_length: 128
  doc_stride: 32
search: {sampler: grid}
"""
HERE = Machine(2, 0)


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeper.forecast.forecast.ROUNDS", 30)


@pytest.fixture
def reader(tmp_path: Path) -> Callable[..., SearchSpace]:
    def make(*overrides: str) -> SearchSpace:
        (tmp_path / "reader.yaml").write_text(QA, encoding="utf-8")
        return read_search_space(tmp_path / "reader.yaml", overrides)

    return make


def forecast_of(space: SearchSpace, device: str | None = None, price: float | None = None) -> Forecast:
    found = sweep_forecast(space, HERE, None, price, named_device(device) if device else None)
    assert found is not None
    return found


def test_a_calculation_names_its_source_and_its_range(reader: Callable[..., SearchSpace]) -> None:
    found = forecast_of(reader())
    assert found.wall_s.low < found.wall_s.expected < found.wall_s.high
    assert (found.gpu_hours.expected, found.cost) == (0, None)
    assert found.source == "a calculation from the models' sizes and the speed of this machine's CPUs"
    assert found.at_rung[4].expected == 2


def test_more_epochs_trials_and_repeats_take_more_time(reader: Callable[..., SearchSpace]) -> None:
    once = forecast_of(reader()).wall_s.expected
    assert forecast_of(reader("parameters.num_train_epochs=8")).wall_s.expected > 1.2 * once
    assert forecast_of(reader("repeats={top: 2, seeds: [1, 2]}")).wall_s.expected > 1.2 * once


def test_early_stopping_and_a_time_budget_take_less(reader: Callable[..., SearchSpace]) -> None:
    many = ("parameters.seed={values: [1, 2, 3, 4, 5, 6]}", "parameters.num_train_epochs=9")
    whole, stopped = forecast_of(reader(*many)), forecast_of(reader(*many, "early_stopping={reduction_factor: 3}"))
    assert stopped.wall_s.expected < 0.7 * whole.wall_s.expected
    assert list(stopped.at_rung) == [1, 3, 9]
    assert forecast_of(reader(*many, "budget.time=1s")).wall_s.high < whole.wall_s.low


def test_a_limit_that_ends_the_sweep_is_named_and_cuts_time_and_cost_alike(reader: Callable[..., SearchSpace]) -> None:
    many = ("parameters.seed={values: [1, 2, 3, 4, 5, 6]}", "parameters.num_train_epochs=9")
    whole = forecast_of(reader(*many, "budget={time: 999h, cost: 1e9, price: 2}"))
    assert whole.ended_by is None
    assert "budget." not in forecast_line(whole)
    assert whole.cost is not None
    half = whole.cost.expected / 2
    by_cost = forecast_of(reader(*many, f"budget={{time: 999h, cost: {half!r}, price: 2}}"))
    assert by_cost.cost is not None
    assert by_cost.cost.expected == pytest.approx(half)
    by_time = forecast_of(reader(*many, "budget={time: 1s, cost: 1e9, price: 2}"))
    assert by_time.cost is not None
    assert by_time.cost.expected < half
    for key, found in (("cost", by_cost), ("time", by_time)):
        assert found.wall_s.expected < whole.wall_s.expected
        assert f"; budget.{key} ends it before its last trial; " in forecast_line(found)
        assert found.values()["ended_by"] == key


def test_a_price_is_of_gpu_hours_or_of_the_hours_of_trials_without_one(reader: Callable[..., SearchSpace]) -> None:
    on_gpu = forecast_of(reader(), "A100", 2.0)
    assert on_gpu.cost is not None
    assert on_gpu.cost.expected == pytest.approx(2 * on_gpu.gpu_hours.expected)
    here = forecast_of(reader(), price=2.0)
    assert here.cost is not None
    assert 0 < here.cost.expected < 2 * 2 * here.wall_s.expected / 3600


def test_a_faster_gpu_takes_less_time_and_a_large_model_more() -> None:
    def hours(device: str, backbone: str) -> float:
        space = read_search_space(ROOT / "search_spaces/qa_backbones.yaml", [f"parameters.backbone={backbone}"])
        return forecast_of(space, device).gpu_hours.expected

    by_device = [hours(name, "bert-base-chinese") for name in ("T4", "RTX 3090", "A100", "H100")]
    assert by_device == sorted(by_device, reverse=True)
    assert 2 < hours("A100", "hfl/chinese-lert-large") / hours("A100", "bert-base-chinese") < 5


def test_a_gpu_that_lacks_an_explicit_precision_has_no_forecast(reader: Callable[..., SearchSpace]) -> None:
    assert sweep_forecast(reader("parameters.precision=bf16"), HERE, None, None, find_device("T4")) is None
    assert sweep_forecast(reader("parameters.precision=bf16"), HERE, None, None, find_device("A100")) is not None


def test_trials_in_the_ledger_are_the_better_source(reader: Callable[..., SearchSpace], storage: RDBStorage) -> None:
    space = reader()
    ledger = create_ledger(storage, space, "earlier")
    for count in ("1 earlier trial", "2 earlier trials"):
        number = asked(ledger, space).number
        for epoch in (1.0, 2.0):
            timing = {"start": 3.0 if epoch == 1 else 0.0, "training": 50.0, "evaluation": 4.0, "checkpoints": 1.0}
            scores = dict.fromkeys(get_job("qa").metrics, 0.5)
            ledger.report(number, {**scores, "epoch": epoch, "seconds": 55 * epoch}, None, timing)
        ledger.finish(number, "PRUNED")
        found = sweep_forecast(space, HERE, storage)
        assert found is not None
        assert found.source.removesuffix(", with other backbones or lengths") == f"the seconds of {count}"
    assert "lengths" not in found.source
    assert found.trial_s[0].expected == pytest.approx(3 + 4 * 55, rel=0.01)
    other = sweep_forecast(reader("parameters.max_length=64", "parameters.doc_stride=16"), HERE, storage)
    assert other is not None
    assert "with other backbones or lengths" in other.source
    assert "calculation" in forecast_of(space, "T4").source


def test_a_job_without_lengths_is_known_from_its_trials_alone(
    toy_space: Callable[..., SearchSpace], storage: RDBStorage
) -> None:
    space = toy_space("parameters.backbone=hill")
    assert sweep_forecast(space, HERE, storage) is None
    ledger = create_ledger(storage, space, "earlier")
    number = asked(ledger, space).number
    timing = {"start": 1.0, "training": 7.0, "evaluation": 0.5}
    ledger.report(number, {"height": 0.5, "eval_loss": 0.5, "epoch": 1.0, "seconds": 9.0}, None, timing)
    found = sweep_forecast(space, HERE, storage)
    assert found is not None
    assert found.trial_s[0].expected == pytest.approx(1 + 4 * 7.5)


@pytest.mark.parametrize(
    ("name", "sizes", "assumed"),
    [("hfl/chinese-lert-large", LARGE, True), ("bert-base-chinese", BASE, True), ("scratch:3x48x4", None, False)],
)
def test_sizes_of_a_backbone_that_is_not_here_follow_from_its_name(
    name: str, sizes: dict[str, int] | None, assumed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.forecast.work.local_config", lambda _: None)
    found, guessed = sizes_of(name)
    assert guessed is assumed
    expected = sizes or {"num_hidden_layers": 3, "hidden_size": 48, "intermediate_size": 192}
    assert {key: found[key] for key in BASE} == expected


def test_sizes_are_read_from_a_config_whatever_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    distilled = {"model_type": "distilbert", "n_layers": 6, "dim": 768, "hidden_dim": 3072}
    monkeypatch.setattr("sweeper.forecast.work.local_config", lambda _: distilled)
    found, guessed = sizes_of("owner/distilled")
    assert [found[key] for key in BASE] == [6, 768, 3072]
    assert not guessed


def test_an_unknown_device_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'A100'"):
        named_device("A1000")
    assert named_device("nvidia h100") in DEVICES


def test_times_are_told_in_a_unit_that_suits_them() -> None:
    assert [time_text(value) for value in (0.4, 99, 100, 5399, 5400)] == ["0 s", "99 s", "2 min", "90 min", "1.5 h"]


def test_the_command_prints_and_saves_it(here: Path) -> None:
    (here / "reader.yaml").write_text(QA, encoding="utf-8")
    shown = CliRunner().invoke(main, ["plan", "reader.yaml", "--price", "3", "--device", "T4"])
    assert shown.exit_code == 0, shown.output
    lines = shown.output.splitlines()
    assert any(line.startswith("forecast: ") and "; cost " in line for line in lines)
    assert any(line.startswith("on Tesla T4: ") and "GPU-hours" in line for line in lines)
    found = CliRunner().invoke(main, ["plan", "reader.yaml", "--json", "--save", "first.yaml"])
    values = json.loads(found.stdout)
    assert set(values["wall_s"]) == set(values["disk_bytes"]) == {"low", "expected", "high"}
    assert values["source"]
    saved = (here / "first.yaml").read_text(encoding="utf-8")
    (here / "again.yaml").write_text(
        QA.replace("{sampler: grid}", "\n  sampler: random\n  trials: 2\n")
        + "".join(f"  {line}\n" for line in saved.splitlines())
    )
    again = CliRunner().invoke(main, ["plan", "again.yaml"])
    assert "backbone=scratch:2x64x2" in again.output
    assert CliRunner().invoke(main, ["plan", "reader.yaml", "--save", "first.yaml"]).exit_code == 2


def test_a_forecast_is_one_line(reader: Callable[..., SearchSpace]) -> None:
    line = forecast_line(forecast_of(reader(), "A100", 1.0))
    assert line.startswith("forecast: ")
    assert line.count("; ") == 3


def test_a_long_sweep_takes_as_much_more_as_it_has_more_trials(reader: Callable[..., SearchSpace]) -> None:
    searched = ("parameters.learning_rate={min: 1e-4, max: 1e-3}", "early_stopping={scheduler: median}")
    short, long = (forecast_of(reader(*searched, f"search={{sampler: random, trials: {n}}}")) for n in (200, 2000))
    assert long.wall_s.expected == pytest.approx(10 * short.wall_s.expected, rel=0.1)
    assert long.at_rung[1].expected == 2000
