"""Measure on this machine how long trials of a space take, and remember it for later forecasts."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import TypeAdapter

from jobs import get_job
from jobs.backbone.names import absolute_name
from jobs.dataset.data import Data, read_data
from jobs.files import atomic
from jobs.timing import START, TRAINING
from sweeper.cluster.capacity import reservation_of
from sweeper.errors import EnvironmentFailure
from sweeper.forecast.history import Sighting, shape_of
from sweeper.forecast.rehearsal import Rehearsal, rehearse_at_once, write_few
from sweeper.forecast.sources import Calculation, Experience
from sweeper.forecast.speed import UNIT
from sweeper.process.import_path import user_folders
from sweeper.storage.files import create_folder

PROBES = "probes.json"  # file below the root; may be deleted at any time
PROBE_SECONDS = 12.0  # of training in an epoch, by calculation
FEWEST, MOST = 8, 400  # questions to train on; an evaluation has a quarter of them
UNKNOWN_QUESTIONS = 64  # of a job whose time cannot be calculated
MOST_COPIES = 8  # of a training, at once
PACKAGES = ("torch", "transformers")

Probes = dict[str, Sighting]


def remembered(calculation: Calculation, configurations: Sequence[Mapping[str, Any]], root: Path) -> list[Sighting]:
    """Return what earlier probes have measured for these trials on this machine."""
    known = _read_probes(root)
    keys = {_key(calculation, params) for params in configurations}
    return [known[key] for key in sorted(keys & known.keys())]


def probe_shapes(
    calculation: Calculation,
    configurations: Sequence[Mapping[str, Any]],
    root: Path,
    say: Callable[[str], object],
) -> list[Sighting]:
    """Measure each shape of these trials that is not known yet; return what is known afterwards.

    say  shows a line before each measurement

    Raises EnvironmentFailure when a training fails.
    """
    for params in _unknown(calculation, configurations, root):
        say(f"probe: trains {params['backbone']} on a few questions")
        found = _measure(calculation, params)
        create_folder(root)
        known = {**_read_probes(root), _key(calculation, params): found}
        with atomic(root / PROBES) as part:
            part.write_text(json.dumps({key: asdict(one) for key, one in known.items()}, indent=1), encoding="utf-8")
    return remembered(calculation, configurations, root)


def with_probes(
    known: Experience,
    configurations: Sequence[Mapping[str, Any]],
    root: Path,
    say: Callable[[str], object] | None = None,
) -> Experience:
    """Add what was measured on this machine for shapes of trials that the ledger does not know.

    say  shows what is measured now; None to measure nothing and use earlier measurements
    """
    missing = [params for params in configurations if shape_of(params) not in known.shapes]
    if not missing:
        return known
    found = probe_shapes(known.calculation, missing, root, say) if say else remembered(known.calculation, missing, root)
    return replace(known, seen=(*known.seen, *found), probed=len(found))


def _unknown(
    calculation: Calculation, configurations: Sequence[Mapping[str, Any]], root: Path
) -> Iterator[Mapping[str, Any]]:
    by_key = {_key(calculation, params): params for params in reversed(configurations)}
    yield from (params for key, params in by_key.items() if key not in _read_probes(root))


def _measure(calculation: Calculation, params: Mapping[str, Any]) -> Sighting:
    reserved = reservation_of(calculation.space, params, calculation.machine)
    with TemporaryDirectory(prefix="sweeper-") as folder:
        few = Path(folder) / "data"
        few.mkdir()
        questions = _questions_of(calculation, params)
        write_few(calculation.space.data, few, questions, ceil(questions / 4))
        own = {**params, "backbone": absolute_name(params["backbone"])}
        rehearsal = Rehearsal(calculation.space.job, own, str(few), folder, reserved.cpus, user_folders())
        copies, gpus = min(reserved.slots, MOST_COPIES), calculation.machine.gpus if reserved.gpus else 0
        try:
            taken = rehearse_at_once(rehearsal, copies, gpus)
        except Exception as error:
            told = " ".join(f"{type(error).__name__}: {error}".split())
            raise EnvironmentFailure(f"--probe: {params['backbone']} cannot be trained here: {told}") from None
        epoch, evaluation = _expected_seconds(calculation, params, read_data(str(few)))
    mean = {name: statistics.fmean(one.get(name, 0.0) for one in taken) for name in {*taken[0]}}
    return Sighting(
        shape_of(params),
        mean[TRAINING] / epoch,
        (mean.get("evaluation", 0.0) + mean.get("checkpoints", 0.0)) / evaluation,
        mean[START],
    )


def _questions_of(calculation: Calculation, params: Mapping[str, Any]) -> int:
    """Return the number of training questions that take about PROBE_SECONDS."""
    calculated, total = calculation.seconds(params), len(calculation.data.train)
    wanted = int(PROBE_SECONDS / calculated.epoch * total) if calculated else UNKNOWN_QUESTIONS
    return min(total, MOST, max(FEWEST, wanted))


def _expected_seconds(calculation: Calculation, params: Mapping[str, Any], few: Data) -> tuple[float, float]:
    """Return the calculated seconds of an epoch on a few of the questions, and of an evaluation."""
    if found := replace(calculation, data=few, known={}).seconds(params):
        return found.epoch, found.evaluation
    whole = calculation.data
    return UNIT.epoch * len(few.train) / len(whole.train), UNIT.evaluation * len(few.valid) / len(whole.valid)


def _key(calculation: Calculation, params: Mapping[str, Any]) -> str:
    """Return a hash of what the measured seconds depend on."""
    space = calculation.space
    told = [space.job, shape_of(params), calculation.place(params), params.get("effective_batch_size")]
    told += [version(package) for package in PACKAGES]
    told += [space.data_fingerprint] if get_job(space.job).lengths is None else []
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _read_probes(root: Path) -> Probes:
    """Return what earlier probes have measured; nothing if the file is missing or damaged."""
    try:
        found = TypeAdapter(Probes).validate_json((root / PROBES).read_bytes())
        return {key: one for key, one in found.items() if one.usable}
    except (OSError, ValueError):
        return {}
