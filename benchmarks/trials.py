"""Measure the overhead of a trial: run a job that only reports, with the driver that `run` uses.

    python benchmarks/trials.py [--trials 50] [--reports 10] [--json]

`fixed`   wall seconds of a trial with one report in a warm process, including Tune, ledger and MLflow; one trial at a
          time. Prints median and slowest.
`driver`  CPU seconds of the driver's process (Tune, ledger, MLflow) per trial with `--reports` reports, and their share
          of a one-minute trial. The start and end of the sweep do not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from rich.console import Console

from sweeper.cluster.capacity import Machine
from sweeper.driver.mirroring import mirror_of
from sweeper.driver.run import ChangeListener
from sweeper.driver.sweep import Sweep
from sweeper.driver.tuning import ray_session, run_trials
from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import Ledger, create_ledger
from sweeper.ledger.record import TrialRecord
from sweeper.monitor.progress import Progress
from sweeper.notify.watcher import watched
from sweeper.process.output import output_to
from sweeper.process.signals import Interrupt
from sweeper.space.reading import read_search_space
from sweeper.space.search_space import SearchSpace
from sweeper.storage.settings import Stores, read_stores
from sweeper.tracking.client import check_store

MACHINE = Machine(cpus=1, gpus=0)
MINUTE = 60.0
SPACE = """\
name: idle
job: benchmarks.idle:JOB
data: sample
objective: score
parameters:
  learning_rate: {{min: 1e-6, max: 1e-1, log: true}}
  num_train_epochs: {reports}
search: {{sampler: random, trials: {trials}, seed: 1}}
"""


def sweep_of(folder: Path, stores: Stores, trials: int, reports: int) -> Sweep:
    path = folder / "idle.yaml"
    path.write_text(SPACE.format(trials=trials, reports=reports), encoding="utf-8")
    space: SearchSpace = read_search_space(path)
    name = f"idle-{reports}"
    ledger = create_ledger(open_storage(stores.ledger), space, name, {"python": "any"})
    (folder / name).mkdir()
    return Sweep(ledger, space, folder / name, MACHINE)


class Meter:
    """Forward events to another listener, and record the driver's CPU seconds at the end of each trial."""

    def __init__(self, listeners: ChangeListener) -> None:
        self.listeners = listeners
        self.ends: list[float] = []

    def __call__(self, record: TrialRecord) -> None:
        self.listeners(record)
        if record.state != "RUNNING":
            self.ends.append(time.process_time())


def run(folder: Path, stores: Stores, trials: int, reports: int) -> tuple[Ledger, Meter]:
    sweep = sweep_of(folder, stores, trials, reports)
    space = sweep.space
    progress = Progress(Console(quiet=True), space.objective, space.direction, trials, ["learning_rate"])
    told = watched(space, sweep.ledger.name, [], None, Interrupt(), print)
    with output_to(sweep.log), told as watcher, mirror_of(sweep.ledger, space, stores) as mirror, progress:
        meter = Meter(ChangeListener(sweep, mirror, progress, watcher))
        run_trials(sweep, meter)
        mirror.flush(MINUTE)
    return sweep.ledger, meter


def fixed(ledger: Ledger) -> list[float]:
    """Return the wall seconds between the ends of consecutive trials.

    Trials run one at a time, so each value is the whole time of one trial. The first trial, which starts the process,
    is left out.
    """
    ends = [record.ended.timestamp() for record in ledger.records() if record.ended]
    return [last - first for first, last in pairwise(ends)]


def measure(folder: Path, trials: int, reports: int) -> dict[str, float]:
    stores = read_stores(folder, {})
    stores.root.mkdir(mode=0o700)
    check_store(stores)
    with ray_session(MACHINE):
        spans = fixed(run(folder, stores, trials, 1)[0])
        ends = run(folder, stores, trials, reports)[1].ends
    driver = (ends[-1] - ends[0]) / (len(ends) - 1)
    return {
        "trials": trials,
        "reports": reports,
        "fixed seconds": statistics.median(spans),
        "fixed seconds, slowest": max(spans),
        "driver CPU seconds": driver,
        "share of a minute, %": 100 * driver / MINUTE,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50, help="at least three")
    parser.add_argument("--reports", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(Path(scratch), options.trials, options.reports)
    print(json.dumps(result) if options.json else "\n".join(f"{name:<26}{x:>10.3f}" for name, x in result.items()))


if __name__ == "__main__":
    main()
