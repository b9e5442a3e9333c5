"""Thirty toy trials with each sampler and each scheduler: killed and resumed, a sweep ends as one that was left alone,
and every command that shows it works. One trial at a time, since timing decides what a sampler knows."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from sweeper.results.importance import importances
from sweeper.results.overview import sweep_results
from tests.support.drivers import Driver, driven, ledger_in, stores_in
from tests.support.invariants import check, outcomes
from tests.support.spaces import TOY

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200), pytest.mark.filterwarnings("default")]
RATES = "[{when: {backbone: hill}, min: 1e-5, max: 1e-1, log: true}, {min: 1e-4, max: 1.0, log: true}]"
KINDS = {
    **{sampler: (f"search={{sampler: {sampler}, trials: 30, seed: 3}}",) for sampler in ("tpe", "gp", "cmaes", "qmc")},
    **{
        scheduler: ("search={sampler: random, trials: 30, seed: 3}", f"early_stopping={{scheduler: {scheduler}}}")
        for scheduler in ("asha", "hyperband", "median")
    },
    "gp with median": ("search={sampler: gp, trials: 30, seed: 3}", "early_stopping={scheduler: median}"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_sweep_of_thirty_trials_ends_as_one_left_alone(kind: str, tmp_path: Path) -> None:
    settings = (*KINDS[kind], f"parameters.learning_rate={RATES}", "parameters.num_train_epochs=3")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
        (folder / "toy.yaml").write_text(TOY, encoding="utf-8")
    run(whole, "run", "toy.yaml", *settings)
    for killed_at in (4, 17):
        driver = Driver(parts, "run", "toy.yaml", *settings, alone=True)
        try:
            driver.until(lambda count=killed_at: ended(parts) >= count)
            driver.process.send_signal(signal.SIGKILL)
            driver.wait()
        finally:
            driver.end()
    run(parts, "resume", "toy")
    ledger = ledger_in(parts)
    assert outcomes(ledger) == outcomes(ledger_in(whole))
    assert len(ledger.records()) == 30
    check(ledger, stores_in(parts))
    states = {record.state for record in ledger.records()}
    assert states == ({"COMPLETE", "PRUNED"} if "early_stopping" in str(settings) else {"COMPLETE"})
    shares, _, count = importances(sweep_results(ledger))
    assert count == 30
    assert sum(shares.values()) == pytest.approx(1)
    for command in ("report", "compare", "status", "best"):
        assert driven(parts, command, "toy")
    assert "first 5 configurations" in driven(parts, "plan", "toy.yaml", *settings)


def run(folder: Path, *arguments: str) -> None:
    driver = Driver(folder, *arguments, alone=True)
    try:
        assert driver.wait(600) == 0, driver.said.read_text()
    finally:
        driver.end()


def ended(folder: Path) -> int:
    """Return the number of ended trials; 0 before the sweep is on record."""
    if not (folder / "sweeps/toy/search_space.yaml").exists():
        return 0
    return sum(record.state != "RUNNING" for record in ledger_in(folder).records())
