"""Ray Tune runs the trials the ledger asks for, and every result goes into the ledger first.

Ray's own searcher, loggers and restore files are not used: the ledger is the only record. Ray asks for
two small classes here, a Searcher and a Callback; both only pass things on.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from sweeper.cluster import nodes as cluster
from sweeper.cluster.ray_session import ray_session
from sweeper.driver.callbacks import LedgerCallback, NodeCallback, TimeLimitCallback
from sweeper.driver.searcher import LedgerSearcher, new_trials_source, repeats_source
from sweeper.driver.sweep import Sweep
from sweeper.ledger.ledger import Ledger
from sweeper.ledger.ranking import without_repeats
from sweeper.ledger.record import TrialRecord
from sweeper.process.signals import Interrupt
from sweeper.space.cases import max_epochs
from sweeper.space.search_space import SearchSpace
from sweeper.trial import workers as group


def run_trials(
    sweep: Sweep,
    on_change: Callable[[TrialRecord], None],
    interrupt: Interrupt | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Run all trials the search space asks for; `on_change` is told of every change in the ledger, and `say` of what
    concerns them all.

    Returns when they have ended, when the budget is spent, or when `interrupt` is stopping, which leaves the
    trials that were running RUNNING in the ledger. It is halted when there is no room on the disk, or no node left.

    Raises EnvironmentFailure before the first trial when a cluster's nodes cannot run them.
    """
    space, interrupt = sweep.space, interrupt or Interrupt()
    began = time.monotonic()

    def left() -> float | None:
        return None if space.budget.time is None else space.budget.time - (time.monotonic() - began)

    with ray_session(sweep.machine):
        if sweep.machine.nodes:
            cluster.check_nodes(sweep.folder, sweep.space.data, sweep.space.data_fingerprint)
        for source, stopping in (
            (new_trials_source(sweep), early_stopping_scheduler(sweep.ledger, space)),
            (repeats_source(sweep), FIFOScheduler()),
        ):
            seconds = left()
            searcher = LedgerSearcher(sweep, source, on_change, interrupt, say)
            if seconds is None or seconds > 0:
                _tune(searcher, stopping, seconds)
            if searcher.unfinished():  # interrupted: who the finalists are is not known yet
                break
    seconds = left()
    if not interrupt.stopping and seconds is not None and seconds <= 0:
        close_unfinished(sweep.ledger, f"the time budget of {space.budget.time:g} s was spent", on_change)


def _tune(searcher: LedgerSearcher, stopping: TrialScheduler, seconds: float | None) -> None:
    """Run the searcher's trials to their end, for at most so many seconds."""
    if not searcher.any():
        return
    sweep = searcher.sweep
    watchers = [NodeCallback(searcher)] if sweep.machine.nodes else []
    listeners = [TimeLimitCallback(sweep), *watchers, LedgerCallback(searcher)]
    tuner = tune.Tuner(
        tune.with_resources(group.run_trial, placement_group),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=bind_pending_trials(stopping),
            num_samples=-1,
            reuse_actors=True,
            time_budget_s=seconds,
        ),
        run_config=tune.RunConfig(name="tune", storage_path=str(sweep.ray_folder), callbacks=listeners, verbose=0),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(sweep.ray_folder, ignore_errors=True)


def placement_group(config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    """What Tune reserves for a trial, from its Assignment: for each worker as much, on as few nodes as may be."""
    return tune.PlacementGroupFactory([{"CPU": config["cpus"], "GPU": config["gpus"]}] * config["workers"])


def early_stopping_scheduler(ledger: Ledger, space: SearchSpace) -> TrialScheduler:
    """Successive halving over epochs, or none. It is shown what the ledger holds, so that a sweep which
    goes on judges its trials by those that ended before."""
    if space.early_stopping is None:
        return FIFOScheduler()
    epochs = max_epochs(space)
    asha = ASHAScheduler(
        time_attr="epoch",
        metric=space.objective,
        mode=space.direction,
        grace_period=min(space.early_stopping.grace_period, epochs),
        reduction_factor=space.early_stopping.reduction_factor,
        max_t=epochs,
    )
    for record in without_repeats(ledger.records()):
        earlier = SimpleNamespace(trial_id=f"ledger-{record.number}")
        asha.on_trial_add(None, earlier)
        for evaluation in record.evaluations:
            asha.on_trial_result(None, earlier, dict(evaluation))
    return asha


def bind_pending_trials(scheduler: TrialScheduler) -> TrialScheduler:
    """Has trials whose processes are starting wait for these. Ray's schedulers would give them one that is free again,
    and end those that were starting: where many start on few CPUs, or trials are short, most never came up."""
    scheduler.choose_trial_to_run = lambda controller: None  # Tune then goes by who has no process yet
    return scheduler


def close_unfinished(ledger: Ledger, reason: str, on_change: Callable[[TrialRecord], None]) -> None:
    """End the trials that are still RUNNING in the ledger: with an evaluation PRUNED, without one FAIL."""
    for record in ledger.records():
        if record.state == "RUNNING":
            on_change(ledger.finish(record.number, "PRUNED" if record.evaluations else "FAIL", reason))
