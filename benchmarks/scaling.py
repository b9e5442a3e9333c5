"""Measure the share of the ideal throughput that many GPUs reach with short trials.

    python benchmarks/scaling.py                      1 to 32 GPUs, three trials of ten seconds on each
    python benchmarks/scaling.py --gpus 8 --seconds 2

The GPUs exist only for Ray's scheduler, and a trial only sleeps. So the benchmark measures the work around training:
drawing the next trial, giving it to a process, and recording its reports. It prints two shares per number of GPUs.
`share` is the time asleep divided by the lifetime of a process since its first trial. `whole` is the same for the whole
sweep, which includes the start of all processes and their imports of PyTorch.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pairs

from jobs.job import Job, Report

FILE = """
name: scaling
job: benchmarks.scaling:JOB
data: sample
objective: done
parameters: {{folder: "{folder}", seconds: {seconds}, seed: {{min: 1, max: 1000000}}}}
search: {{sampler: random, trials: {trials}}}
resources: {{cpus: 1, gpus: 1}}
"""


@dataclass(frozen=True, kw_only=True)
class SleepParams:
    backbone: str = "none"
    seed: int = 42
    num_train_epochs: int = 1
    folder: str = "."
    seconds: float = 10.0


def train(params: SleepParams, data: str, workdir: Path, report: Report, resume_from: Path | None = None) -> None:
    """Sleep, and write the times and the process id to a file."""
    began = time.time()
    time.sleep(params.seconds)
    span = {"process": os.getpid(), "began": began, "ended": time.time()}
    (Path(params.folder) / f"{workdir.name}.json").write_text(json.dumps(span))
    report({"done": 1.0, "epoch": 1.0})


JOB = Job("scaling", SleepParams, {"done": "max"}, train)


def run(gpus: int, seconds: float, rounds: int, folder: Path) -> float:
    """Return the seconds of a sweep with this many trials per GPU, from the first draw to the last end."""
    from sweeper.cluster.capacity import Machine
    from sweeper.cluster.ray_session import ray_session
    from sweeper.driver.sweep import Sweep
    from sweeper.driver.tuning import run_trials
    from sweeper.ledger.database import open_storage
    from sweeper.ledger.ledger import create_ledger
    from sweeper.process.output import output_to
    from sweeper.space.reading import read_search_space

    machine = Machine(cpus=gpus, gpus=gpus)
    file = folder / "scaling.yaml"
    file.write_text(FILE.format(folder=folder / "spans", seconds=seconds, trials=gpus * rounds), encoding="utf-8")
    (folder / "spans").mkdir()
    space = read_search_space(file)
    ledger = create_ledger(open_storage(f"sqlite:///{folder}/ledger.db"), space, "scaling")
    with output_to(folder / "log.txt"), ray_session(machine):
        return pairs.seconds(lambda: run_trials(Sweep(ledger, space, folder / "sweep", machine), lambda record: None))


def shares(spans: list[dict[str, Any]], gpus: int, seconds: float, whole: float) -> dict[str, float]:
    """Return the time asleep as a share of the processes' lifetimes and of the whole sweep on all GPUs."""
    by_process = defaultdict(list)
    for span in spans:
        by_process[span["process"]].append(span)
    there = sum(max(s["ended"] for s in own) - min(s["began"] for s in own) for own in by_process.values())
    return {
        "trials": len(spans),
        "processes": len(by_process),
        "share": len(spans) * seconds / there,
        "whole": len(spans) * seconds / (gpus * whole),
    }


def measure(gpus: int, seconds: float, rounds: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        whole = run(gpus, seconds, rounds, folder)
        spans = [json.loads(file.read_text()) for file in (folder / "spans").glob("*.json")]
    return shares(spans, gpus, seconds, whole)


def main() -> None:
    given = pairs.arguments(__doc__, gpus="1,2,4,8,16,32", seconds=10.0, rounds=3)
    numbers = map(int, given.gpus.split(","))
    found = {gpus: measure(gpus, given.seconds, given.rounds) for gpus in numbers}
    pairs.show({f"{gpus} {name}": value for gpus, one in found.items() for name, value in one.items()}, given.json)


if __name__ == "__main__":
    main()
