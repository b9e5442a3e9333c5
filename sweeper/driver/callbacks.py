"""Connect Ray Tune's events to the ledger: record results, retry failed trials, enforce time limits, detect lost
nodes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune

from sweeper.cluster import nodes as cluster
from sweeper.cluster.capacity import Node, workers_at_once
from sweeper.driver.retries import failure_line, retry_incident
from sweeper.driver.searcher import CHECK_SECONDS, LedgerSearcher, NotPickled, epoch_at
from sweeper.driver.sweep import Sweep
from sweeper.ledger.record import STOPPED, Incident, TrialRecord
from sweeper.process.cgroups import memory_state
from sweeper.space.sections import duration
from sweeper.trial import handover
from sweeper.trial.handover import RESUMED, TrialFailure
from sweeper.trial.imports import import_failure
from sweeper.trial.memory import KernelKills, monitor_failure

EXTRA_METRICS = ("epoch", "step", "seconds")
NOTICE_SECONDS = 60.0  # time without a usable node after which the user is told
NO_NODE_SECONDS = 1800.0  # time without a usable node after which the sweep ends
UNREADY = "its process was still busy with the trial before"


class LedgerCallback(NotPickled, tune.Callback):  # type: ignore[misc]
    """Write Tune's events to the ledger, then call `on_change`.

    While the sweep stops, results are still recorded. The end of a trial is ignored then, because Tune ends all running
    trials and `resume` must continue them.
    """

    def __init__(self, searcher: LedgerSearcher) -> None:
        self.sweep = searcher.sweep
        self.on_change = searcher.on_change
        self.interrupt = searcher.interrupt
        self.attempts = searcher.attempts
        self.account = searcher.account
        self.given = searcher.given
        self.searcher = searcher
        self.retry = searcher.left.append
        self.kills = kernel_kills_of(self.sweep)
        self.crowded: set[int] = set()  # trials that ran beside one that was killed for want of memory
        self.checked = 0.0

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Stop Tune when an interrupt was requested. On SIGUSR1, Tune saves its state and ends its loop (ray 2.60)."""
        self.account.save_if_due()
        if self.interrupt.stopping:
            signal.raise_signal(signal.SIGUSR1)
        elif time.monotonic() - self.checked > CHECK_SECONDS:
            self.checked = time.monotonic()
            self.find_unreported_errors(trials)
            self.kills.forget()

    def find_unreported_errors(self, trials: list[Any]) -> None:
        """Handle trials that Tune marked ERROR without calling `on_trial_error`.

        Tune of ray 2.60 does so when it wants to reuse a process that is still busy with its previous trial.
        """
        for trial in [trial for trial in trials if trial.status == "ERROR" and trial.trial_id in self.given]:
            self.handle_failure(self.given.pop(trial.trial_id), TrialFailure("crash", UNREADY))

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.attempts.begin(trial.config["number"])
        self.account.begin(trial.config["number"], trial.config["gpus"] * trial.config["workers"])

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        if "checkpoint" not in result:  # Tune (ray 2.60) adds a last result without the job's metrics
            return
        names = [name for name in (*self.sweep.ledger.attributes["metrics"], *EXTRA_METRICS) if name in result]
        metrics = {name: float(result[name]) for name in names}
        number = trial.config["number"]
        timing = self.attempts.timing(number, result["timing"])
        if RESUMED in result:
            self.sweep.ledger.rewind(number, epoch_at(self.sweep.ledger.record(number), result[RESUMED]))
        if result.get("done") and metrics["epoch"] < trial.config["params"]["num_train_epochs"]:
            metrics[STOPPED] = True  # the scheduler decides before its decision and this report are carried out
        conditions = result["conditions"]
        self.on_change(self.sweep.ledger.report(number, metrics, result["checkpoint"], timing, conditions))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        ledger, number = self.sweep.ledger, trial.config["number"]
        self.account.end(number)
        record = ledger.record(number)
        if trial.status == "PENDING":  # taken back before it began
            self.retry(record)
        elif record.trained:
            self.on_change(ledger.finish(number, "COMPLETE"))
        elif not self.interrupt.stopping:
            self.on_change(ledger.finish(number, "PRUNED", record.stop_reason))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        if not self.interrupt.stopping:
            number = trial.config["number"]
            self.handle_failure(number, find_failure(self.sweep, number, self.kills, error_text(trial)))

    def handle_failure(self, number: int, failure: TrialFailure) -> None:
        """Retry a failed trial, record it as failed, or stop the sweep when the disk or the storage refuses writes."""
        ledger = self.sweep.ledger
        self.account.end(number)
        record = ledger.record(number)
        if record.trained:  # all evaluations are recorded; a later crash does not matter
            self.on_change(ledger.finish(number, "COMPLETE"))
        elif failure.kind == "disk":
            self.interrupt.halt(disk_failure_line(self.sweep, number, failure.reason))
        elif failure.kind == "gpu":
            self.leave_gpu(record, failure)
        elif retried := self.retried(record, failure):
            record = ledger.add_incident(number, retried)
            self.on_change(record)
            self.retry(record)
        else:
            self.on_change(ledger.finish(number, "FAIL", failure_line(self.sweep.space.job, record, failure)))

    def leave_gpu(self, record: TrialRecord, failure: TrialFailure) -> None:
        """Give a trial to another node if its GPU cannot be used; stop the sweep if there is only this machine."""
        if self.sweep.machine.nodes and failure.node:
            self.searcher.surveys.refuse(failure.node, failure.reason)
            self.retry(record)
        else:
            self.interrupt.halt(unusable_gpu_line(self.sweep, record.number, failure.reason))

    def retried(self, record: TrialRecord, failure: TrialFailure) -> Incident | None:
        """Return the incident after which a failed trial is retried, or None.

        Fewer trials run at once from now on if this one was killed for want of the memory that others shared. They may
        be killed in the same moment, and then no other trial seems to run when their failure is handled.
        """
        others = 0
        if failure.killed:
            beside, running = self.running_beside(record.number)
            others = max(1, running) if beside or record.number in self.crowded else 0
            self.crowded = (self.crowded | beside) - {record.number}
        found = retry_incident(record, failure, self.sweep.space, others, self.searcher.memory)
        if found and "at_once" in found:
            self.searcher.at_once = min(found["at_once"], self.searcher.at_once or others)
        return found

    def running_beside(self, number: int) -> tuple[set[int], int]:
        """Return the running trials that share a machine with this one, and the number of all other running trials."""
        places = {one: handover.read_processes(self.sweep.workdir(one)) for one in {*self.given.values(), number}}
        mine = {place.node for place in places.pop(number)}
        others = {one: {place.node for place in there} for one, there in places.items() if there}
        return {one for one, nodes in others.items() if not mine or nodes & mine}, len(others)


class NodeCallback(NotPickled, tune.Callback):  # type: ignore[misc]
    """Stop the sweep when no node can run the waiting trials, for example after the last GPU node was lost.

    Tune would wait forever. An autoscaling cluster gets NO_NODE_SECONDS to add a node.
    """

    def __init__(self, searcher: LedgerSearcher) -> None:
        self.name = searcher.sweep.ledger.name
        self.say = searcher.say
        self.surveys = searcher.surveys
        self.interrupt = searcher.interrupt
        self.since: float | None = None  # start of the time without a usable node
        self.notified = False
        self.checked = 0.0

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        now = time.monotonic()
        if now - self.checked < CHECK_SECONDS:
            return
        self.checked = now
        lacking = missing_resources(trials, self.surveys.nodes)
        if lacking is None:
            self.since, self.notified = None, False
            return
        self.since = self.since or now
        if now - self.since > NO_NODE_SECONDS:
            cure = f"add one, then sweeper resume {self.name}"
            self.interrupt.halt(
                f"sweep {self.name}: for {NO_NODE_SECONDS:g} s no node could run a trial; {lacking}; {cure}"
            )
        elif now - self.since > NOTICE_SECONDS and not self.notified:
            self.notified = True
            self.say(
                f"no node can run the next trial; {lacking}; waiting {duration(int(NO_NODE_SECONDS))} for one to join"
            )


def missing_resources(trials: list[Any], live_nodes: Callable[[], tuple[Node, ...]]) -> str | None:
    """Return a line that compares the resources of a waiting trial and of the live nodes.

    Returns None if a trial is running or could start.
    """
    waiting = [trial for trial in trials if trial.status == "PENDING"]
    if not waiting or any(trial.status == "RUNNING" for trial in trials):
        return None
    nodes = live_nodes()
    wants = [(trial.config["cpus"], trial.config["gpus"], trial.config["workers"]) for trial in waiting]
    if any(workers_at_once(cpus, gpus, nodes) >= workers for cpus, gpus, workers in wants):
        return None
    cpus, gpus, workers = wants[0]
    there = ", ".join(f"{node.name} with {node.cpus} CPU and {node.gpus} GPU" for node in nodes) or "none"
    return f"it needs {workers:g} × {cpus:g} CPU and {gpus:g} GPU; nodes: {there}"


class TimeLimitCallback(NotPickled, tune.Callback):  # type: ignore[misc]
    """Kill the process of a trial that exceeds `budget.trial_time`, even if it hangs."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.limit = sweep.space.budget.trial_time
        self.began: dict[int, float] = {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.began[trial.config["number"]] = time.monotonic()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.began.pop(trial.config["number"], None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.began.pop(trial.config["number"], None)

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Record the time limit as the reason of the failure, then kill the trial's processes.

        LedgerCallback reads the reason when Tune reports that the process died.
        """
        if self.limit is None:
            return
        for number in [n for n, began in self.began.items() if time.monotonic() - began > self.limit]:
            del self.began[number]
            workdir = self.sweep.workdir(number)
            reason = f"took longer than {duration(self.limit)}, its budget.trial_time"
            handover.write_failure(workdir, TrialFailure("timeout", reason))
            cluster.kill_trial(workdir)


def error_text(trial: Any) -> str:
    """Return the message of the error that ended a trial of Tune; empty if Tune could not write it."""
    # `get_error` of ray 2.60 reads another file, which Tune writes when the whole sweep ends.
    try:
        return Path(trial.error_file or "").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def kernel_kills_of(sweep: Sweep) -> KernelKills:
    """Return the record of the kernel's kills on the machines that run the sweep's trials."""
    if sweep.machine.nodes:
        return KernelKills(cluster.memory_on_node, local=False)
    return KernelKills(lambda node: memory_state(), local=True)


def find_failure(sweep: Sweep, number: int, kills: KernelKills, error: str = "") -> TrialFailure:
    """Return the reason why a trial failed; `error` is Ray's message.

    A crash counts as `memory` if Ray's memory monitor or the kernel killed a process of the trial, and on a cluster as
    `node` if one of its nodes was lost.
    """
    workdir = sweep.workdir(number)
    failure = handover.read_failure(workdir)
    if failure.kind != "crash":
        return failure
    places = handover.read_processes(workdir)
    if killed := monitor_failure(error, places):
        return killed
    if sweep.machine.nodes and cluster.has_lost_node(workdir):
        return TrialFailure("node", "its node left the cluster")
    return kills.failure(places) or import_failure(workdir, sweep.space.job, error) or failure


def disk_failure_line(sweep: Sweep, number: int, reason: str) -> str:
    """Return the message that stops a sweep whose trial cannot write."""
    name = sweep.ledger.name
    return f"sweep {name}: trial {number} cannot write; {reason}; fix that, then run `sweeper resume {name}`"


def unusable_gpu_line(sweep: Sweep, number: int, reason: str) -> str:
    """Return the message that stops a sweep on one machine whose GPU cannot be used any more."""
    return f"sweep {sweep.ledger.name}: trial {number}: {reason}; then run `sweeper resume {sweep.ledger.name}`"
