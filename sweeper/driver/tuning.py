"""Run a sweep's trials with Ray Tune.

The ledger proposes trials and stores results; Ray's own samplers, loggers and restore files are not used.
"""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from ray import tune
from ray.air.execution._internal import RayActorManager
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from jobs.files import causes, disk_trouble
from sweeper.budget.account import Account, open_account
from sweeper.budget.limits import Limit
from sweeper.cluster import nodes as cluster
from sweeper.cluster.preflight import device_checks
from sweeper.cluster.ray_session import ray_session
from sweeper.cluster.surveys import NODE_LABEL, NodeSurveys
from sweeper.driver.callbacks import LedgerCallback, NodeCallback, TimeLimitCallback
from sweeper.driver.searcher import LedgerSearcher, NotPickled, new_trials_source, repeats_source
from sweeper.driver.stopping.schedulers import early_stopping_scheduler
from sweeper.driver.sweep import Sweep
from sweeper.errors import EnvironmentFailure, Failure
from sweeper.ledger.database import DATABASE_ERRORS
from sweeper.ledger.ledger import Ledger
from sweeper.ledger.record import State, TrialRecord
from sweeper.process.signals import Interrupt
from sweeper.trial import workers as group
from sweeper.trial.handover import read_epoch


def run_trials(
    sweep: Sweep,
    on_change: Callable[[TrialRecord], None],
    interrupt: Interrupt | None = None,
    say: Callable[[str], None] = print,
    follow: Callable[[Account], object] = lambda account: None,
) -> None:
    """Run all trials that the search space requests, then the repeats.

    `on_change` receives each changed record, `say` receives lines for the user, `follow` the account of what is spent.
    Returns when all trials have ended, a
    limit of the budget is reached, or `interrupt` stops the sweep, which leaves running trials RUNNING in the ledger. A
    full disk or a lack of nodes also sets `interrupt`. Raises EnvironmentFailure if a cluster's nodes cannot run the
    trials.
    """
    interrupt = interrupt or Interrupt()
    epoch_of = partial(_epoch_in, sweep)
    with open_account(sweep.ledger, sweep.space, epoch_of=epoch_of) as account:
        follow(account)

        def changed(record: TrialRecord) -> None:
            account.update(record)
            on_change(record)

        if not account.ends_trials():
            _run_all(sweep, changed, interrupt, say, account)
    if not interrupt.stopping and account.cut is not None:
        close_unfinished(sweep.ledger, account.cut, on_change)


def _epoch_in(sweep: Sweep, number: int) -> float | None:
    return read_epoch(sweep.workdir(number))


def _run_all(
    sweep: Sweep,
    on_change: Callable[[TrialRecord], None],
    interrupt: Interrupt,
    say: Callable[[str], None],
    account: Account,
) -> None:
    """Run the trials of the search, then the repeats, with Ray."""
    with ray_session(sweep.machine, sweep.ledger.name, interrupt, say):
        if sweep.machine.nodes:
            cluster.check_nodes(sweep.folder, sweep.space.data, sweep.space.data_fingerprint)
        surveys = NodeSurveys(say, sweep.machine.nodes, device_checks(sweep.space, sweep.machine).of_gpus)
        for source, stopping in (
            (new_trials_source(sweep), early_stopping_scheduler(sweep.ledger, sweep.space)),
            (repeats_source(sweep), FIFOScheduler()),
        ):
            searcher = LedgerSearcher(sweep, source, on_change, interrupt, say, surveys, account)
            _tune(searcher, stopping)
            if searcher.unfinished():  # interrupted; without these trials the best ones to repeat are unknown
                break


def _tune(searcher: LedgerSearcher, stopping: TrialScheduler) -> None:
    """Run the searcher's trials until they end."""
    if not searcher.has_trials():
        return
    sweep = searcher.sweep
    watchers = [NodeCallback(searcher)] if sweep.machine.nodes else []
    listeners = [TimeLimitCallback(sweep), *watchers, LedgerCallback(searcher)]
    tuner = tune.Tuner(
        tune.with_resources(group.run_trial, placement_group),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=bind_pending_trials(stopping, searcher),
            num_samples=-1,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(sweep.ray_folder),
            callbacks=listeners,
            stop=BudgetStopper(searcher.account),
            verbose=0,
        ),
    )
    try:
        with unknown_errors_as_deaths():
            tuner.fit()
    except Exception as error:
        if not searcher.interrupt.stopping or searcher.interrupt.cause is None:
            raise_disk_trouble(error, sweep)
            raise
        traceback.print_exc()  # a consequence of the cause: for example, Tune cannot read files that are incomplete
    finally:
        shutil.rmtree(sweep.ray_folder, ignore_errors=True)


class BudgetStopper(NotPickled, tune.Stopper):  # type: ignore[misc]
    """End all running trials once a limit of the budget that does so is reached."""

    def __init__(self, account: Account) -> None:
        self.account = account

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.account.ends_trials()


def raise_disk_trouble(error: Exception, sweep: Sweep) -> None:
    """Raise EnvironmentFailure if a full or read-only disk is the cause of an error in Tune.

    `database_errors` describes the errors of the ledger.
    """
    if any(isinstance(one, (Failure, *DATABASE_ERRORS)) for one in causes(error)):
        return
    # an incomplete file of Tune's raises any error, so a nearly full disk counts as the cause
    if trouble := disk_trouble(error, sweep.folder) or disk_trouble(OSError(), sweep.folder):
        cure = f"fix that, then run `sweeper resume {sweep.ledger.name}`"
        raise EnvironmentFailure(f"sweep {sweep.ledger.name}: {trouble}; {cure}") from error


@contextmanager
def unknown_errors_as_deaths() -> Iterator[None]:
    """Make Tune end one trial, not the sweep, on every error of Ray that is neither the trial's nor its process's.

    Tune of ray 2.60 raises such errors in the driver, for example the OutOfMemoryError of a process that Ray's memory
    monitor has killed. The method is private, and Tune has no option for it.
    """
    handle = RayActorManager._actor_task_failed

    def handle_any(manager: RayActorManager, tracked_actor_task: Any, exception: Exception) -> None:
        known = isinstance(exception, (RayActorError, RayTaskError))
        handle(manager, tracked_actor_task, exception if known else RayActorError(error_msg=str(exception)))

    RayActorManager._actor_task_failed = handle_any
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = handle


def placement_group(config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    """Return the resources that Tune reserves for a trial: one bundle a worker, packed on few nodes."""
    where = {"bundle_label_selector": [{NODE_LABEL: config["nodes"]}] * config["workers"]} if config["nodes"] else {}
    return tune.PlacementGroupFactory([{"CPU": config["cpus"], "GPU": config["gpus"]}] * config["workers"], **where)


def bind_pending_trials(scheduler: TrialScheduler, searcher: LedgerSearcher) -> TrialScheduler:
    """Keep a pending trial bound to the process that is starting for it, and take back those that no node can start.

    By default Tune gives the trial to any process that becomes free and kills the process that is starting for it. With
    short trials or few CPUs, most processes would be killed before they have started.
    """

    def choose_none(controller: Any) -> None:
        for trial in list(controller.get_live_trials()):
            if trial.status == "PENDING" and searcher.is_stranded(trial.trial_id):
                controller.stop_trial(trial)  # LedgerCallback gives it out again

    # Undocumented in ray 2.60: if the scheduler chooses no trial, Tune itself starts those that have no process yet.
    scheduler.choose_trial_to_run = choose_none
    return scheduler


def close_unfinished(ledger: Ledger, limit: Limit, on_change: Callable[[TrialRecord], None]) -> None:
    """End the trials that are RUNNING in the ledger: COMPLETE if they are trained, PRUNED if they have an evaluation,
    else FAIL."""
    for record in ledger.records():
        if record.state == "RUNNING" and record.trained:
            on_change(ledger.finish(record.number, "COMPLETE"))
        elif record.state == "RUNNING":
            state: State = "PRUNED" if record.evaluations else "FAIL"
            on_change(ledger.finish(record.number, state, limit.reason, limit.key))
