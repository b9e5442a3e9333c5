"""Probes: seconds that are measured on this machine, and remembered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.dataset.data import read_data
from jobs.training.precision import Hardware
from sweeper.cluster.capacity import Machine
from sweeper.errors import EnvironmentFailure
from sweeper.forecast import probing
from sweeper.forecast.estimate import first_configurations, sweep_forecast
from sweeper.forecast.probing import PROBES, probe_shapes, remembered
from sweeper.forecast.rehearsal import Rehearsal, write_few
from sweeper.forecast.sources import Calculation
from sweeper.space.reading import read_search_space
from sweeper.space.search_space import SearchSpace

QA = """
name: reader
job: qa
data: sample
objective: exact_match
parameters:
  backbone: {values: ["scratch:1x32x2", "scratch:1x48x2"]}
  learning_rate: {min: 1e-4, max: 1e-3}
  num_train_epochs: 3
  max_length: 64
  doc_stride: 16
search: {sampler: random, trials: 6}
"""
TAKEN = {"start": 4.0, "training": 30.0, "evaluation": 2.0, "checkpoints": 0.5}


@pytest.fixture
def space(tmp_path: Path) -> SearchSpace:
    (tmp_path / "reader.yaml").write_text(QA, encoding="utf-8")
    return read_search_space(tmp_path / "reader.yaml", ())


@pytest.fixture
def calculation(space: SearchSpace) -> Calculation:
    return Calculation(space, Machine(2, 0), read_data("sample"), None, Hardware())


@pytest.fixture
def rehearsals(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Rehearsal, int, int]]:
    """Record the trainings that are measured; each takes the seconds of TAKEN."""
    seen: list[tuple[Rehearsal, int, int]] = []

    def rehearse(*given: Any) -> list[dict[str, float]]:
        seen.append(given)
        return [dict(TAKEN)] * given[1]

    monkeypatch.setattr(probing, "rehearse_at_once", rehearse)
    return seen


def test_each_shape_is_measured_once_and_remembered(
    calculation: Calculation, rehearsals: list[tuple[Rehearsal, int, int]], tmp_path: Path
) -> None:
    said: list[str] = []
    configurations = first_configurations(calculation.space, 6)
    found = probe_shapes(calculation, configurations, tmp_path, said.append)
    assert len(found) == len(rehearsals) == len(said) == 2
    assert {copies for _, copies, _ in rehearsals} == {2}  # as many as run at once
    assert (
        probe_shapes(calculation, configurations, tmp_path, said.append)
        == found
        == remembered(calculation, configurations, tmp_path)
    )
    assert len(rehearsals) == 2


def test_its_seconds_are_those_of_the_forecast(
    space: SearchSpace, rehearsals: list[tuple[Rehearsal, int, int]], tmp_path: Path
) -> None:
    here = Machine(2, 0)
    calculated = sweep_forecast(space, here, None, root=tmp_path)
    probed = sweep_forecast(space, here, None, root=tmp_path, say=lambda _: None)
    later = sweep_forecast(space, here, None, root=tmp_path)
    assert calculated is not None
    assert probed is not None
    assert probed.source == "a probe of this machine"
    assert later == probed != calculated
    questions = json.loads((tmp_path / PROBES).read_text(encoding="utf-8"))
    assert all(one["start"] == 4.0 for one in questions.values())


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": {"shape": 1}}'])
def test_a_damaged_file_is_as_none(
    text: str, calculation: Calculation, rehearsals: list[tuple[Rehearsal, int, int]], tmp_path: Path
) -> None:
    (tmp_path / PROBES).write_text(text, encoding="utf-8")
    configurations = first_configurations(calculation.space, 6)
    assert remembered(calculation, configurations, tmp_path) == []
    assert len(probe_shapes(calculation, configurations, tmp_path, lambda _: None)) == 2


def test_a_training_that_fails_is_told_in_one_line(
    calculation: Calculation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr(probing, "rehearse_at_once", fail)
    with pytest.raises(EnvironmentFailure) as refused:
        probe_shapes(calculation, first_configurations(calculation.space, 1), tmp_path, lambda _: None)
    (line,) = refused.value.lines
    assert line.startswith("--probe: scratch:1x")
    assert "out of memory" in line
    assert not (tmp_path / PROBES).exists()


def test_a_few_questions_make_a_whole_data_set(tmp_path: Path) -> None:
    write_few("sample", tmp_path, 10, 4)
    few, whole = read_data(str(tmp_path)), read_data("sample")
    assert (len(few.train), len(few.valid)) == (10, 4)
    assert few.paragraphs == whole.paragraphs
    assert {row.id for row in few.train} < {row.id for row in whole.train}


@pytest.mark.slow
def test_a_real_training_is_measured(
    space: SearchSpace, calculation: Calculation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(probing, "PROBE_SECONDS", 0.2)
    (found,) = probe_shapes(calculation, first_configurations(space, 1), tmp_path, lambda _: None)
    assert found.shape[0].startswith("scratch:1x")
    assert min(found.epoch, found.evaluation, found.start) > 0
