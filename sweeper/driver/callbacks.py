"""Ray Tune callbacks: record results in the ledger and watch for trials that do not start."""

from __future__ import annotations

import signal
import time
from typing import Any

from ray import tune

from sweeper.cluster import nodes as cluster
from sweeper.cluster.capacity import workers_at_once
from sweeper.driver.retries import failure_line, retry_incident
from sweeper.driver.searcher import CHECK_SECONDS, LedgerSearcher, NotPickled
from sweeper.driver.sweep import Sweep
from sweeper.space.sections import duration
from sweeper.trial import handover
from sweeper.trial.handover import TrialFailure

BESIDE_METRICS = ("epoch", "step", "seconds")
NOTICE_SECONDS = 60.0  # seconds without a node that could run any trial, before we say so
NO_NODE_SECONDS = 1800.0  # and before we end
UNREADY = "the process it was given could not end the trial before"


class LedgerCallback(NotPickled, tune.Callback):  # type: ignore[misc]
    """Writes what Tune sees into the ledger, before anyone else is told. When all is stopping results still count,
    but a trial's end is none: Tune stops whatever runs, and so may the signal."""

    def __init__(self, searcher: LedgerSearcher) -> None:
        self.sweep = searcher.sweep
        self.on_change = searcher.on_change
        self.interrupt = searcher.interrupt
        self.attempts = searcher.attempts
        self.given = searcher.given
        self.again = searcher.left.append
        self.looked = 0.0

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Tune leaves its loop, in good order, when it gets this signal."""
        if self.interrupt.stopping:
            signal.raise_signal(signal.SIGUSR1)
        elif time.monotonic() - self.looked > CHECK_SECONDS:
            self.looked = time.monotonic()
            self.find(trials)

    def find(self, trials: list[Any]) -> None:
        """Tune tells nobody of a trial whose process could not leave the one before in time."""
        for trial in [trial for trial in trials if trial.status == "ERROR" and trial.trial_id in self.given]:
            self.settle(self.given.pop(trial.trial_id), TrialFailure("crash", UNREADY))

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.attempts.begin(trial.config["number"])

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        if "checkpoint" not in result:  # Tune's own last word on a function that has returned
            return
        names = [name for name in (*self.sweep.ledger.attributes["metrics"], *BESIDE_METRICS) if name in result]
        metrics = {name: float(result[name]) for name in names}
        number = trial.config["number"]
        timing = self.attempts.timing(number, result["timing"])
        self.on_change(self.sweep.ledger.report(number, metrics, result["checkpoint"], timing))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        ledger, number = self.sweep.ledger, trial.config["number"]
        record = ledger.record(number)
        if record.trained:
            self.on_change(ledger.finish(number, "COMPLETE"))
        elif not self.interrupt.stopping:
            self.on_change(ledger.finish(number, "PRUNED", f"stopped early after epoch {record.epochs:g}"))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        if not self.interrupt.stopping:
            number = trial.config["number"]
            self.settle(number, find_failure(self.sweep, number))

    def settle(self, number: int, breakdown: TrialFailure) -> None:
        """A trial has broken down: it goes on, or it has failed, or nothing can go on."""
        ledger = self.sweep.ledger
        record = ledger.record(number)
        if record.trained:  # all that counts is there, whatever its process died of afterwards
            self.on_change(ledger.finish(number, "COMPLETE"))
        elif breakdown.kind == "disk":
            self.interrupt.halt(disk_failure_line(self.sweep, number, breakdown.reason))
        elif survived := retry_incident(record, breakdown, self.sweep.space):
            record = ledger.survive(number, survived)
            self.on_change(record)
            self.again(record)
        else:
            self.on_change(ledger.finish(number, "FAIL", failure_line(record, breakdown)))


class NodeCallback(NotPickled, tune.Callback):  # type: ignore[misc]
    """Sees when a trial waits for a node that is not there, as after the last one was lost: Tune would wait for ever
    without a word. A cluster that grows by itself has a while to bring one."""

    def __init__(self, searcher: LedgerSearcher) -> None:
        self.name = searcher.sweep.ledger.name
        self.say = searcher.say
        self.interrupt = searcher.interrupt
        self.since: float | None = None  # when nothing could run any more
        self.told = False
        self.looked = 0.0

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        now = time.monotonic()
        if now - self.looked < CHECK_SECONDS:
            return
        self.looked = now
        lacking = missing_resources(trials)
        if lacking is None:
            self.since, self.told = None, False
            return
        self.since = self.since or now
        if now - self.since > NO_NODE_SECONDS:
            cure = f"add one, then sweeper resume {self.name}"
            self.interrupt.halt(
                f"sweep {self.name}: for {NO_NODE_SECONDS:g} s no node could run a trial; {lacking}; {cure}"
            )
        elif now - self.since > NOTICE_SECONDS and not self.told:
            self.told = True
            self.say(
                f"no node can run the next trial; {lacking}; waits {duration(int(NO_NODE_SECONDS))} for one to join"
            )


def missing_resources(trials: list[Any]) -> str | None:
    """What the trials that wait lack, when none runs and the nodes that are left could not run any of them."""
    waiting = [trial for trial in trials if trial.status == "PENDING"]
    if not waiting or any(trial.status == "RUNNING" for trial in trials):
        return None
    nodes = cluster.live_nodes()
    wants = [(trial.config["cpus"], trial.config["gpus"], trial.config["workers"]) for trial in waiting]
    if any(workers_at_once(cpus, gpus, nodes) >= workers for cpus, gpus, workers in wants):
        return None
    cpus, gpus, workers = wants[0]
    there = ", ".join(f"{node.name} with {node.cpus} CPU and {node.gpus} GPU" for node in nodes) or "none"
    return f"it wants {workers:g} × {cpus:g} CPU and {gpus:g} GPU, nodes left: {there}"


class TimeLimitCallback(NotPickled, tune.Callback):  # type: ignore[misc]
    """Ends the process of a trial that takes longer than the budget allows, whatever it is stuck in."""

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
        """A note in the trial's folder tells Bookkeeper, who hears of the death from Tune, what it died of."""
        if self.limit is None:
            return
        for number in [n for n, began in self.began.items() if time.monotonic() - began > self.limit]:
            del self.began[number]
            workdir = self.sweep.workdir(number)
            reason = f"took longer than {duration(self.limit)}, its budget.trial_time"
            handover.write_failure(workdir, TrialFailure("timeout", reason))
            cluster.kill_trial(workdir)


def find_failure(sweep: Sweep, number: int) -> TrialFailure:
    """What a trial died of. On a cluster a death without a word may be its machine's."""
    workdir = sweep.workdir(number)
    breakdown = handover.read_failure(workdir)
    if sweep.machine.nodes and breakdown.kind == "crash" and cluster.has_lost_node(workdir):
        return TrialFailure("node", "its machine left the cluster")
    return breakdown


def disk_failure_line(sweep: Sweep, number: int, reason: str) -> str:
    """What to say when a trial could not write."""
    name = sweep.ledger.name
    return f"sweep {name}: trial {number} cannot write; {reason}; put that right, then sweeper resume {name}"
