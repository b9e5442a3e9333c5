"""Compute the resources that each trial reserves and the number of trials that run at once. Starts no processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from math import ceil, floor
from typing import Any

from sweeper.cluster.gpus import Gpu, shown_gpus
from sweeper.cluster.sharing import TrialMemory, sharing_note, trials_per_gpu
from sweeper.errors import EnvironmentFailure
from sweeper.process.cgroups import cpu_quota, machine_memory, memory_limit
from sweeper.space.cases import possible_resources
from sweeper.space.search_space import SearchSpace, resources_of
from sweeper.space.sections import Resources

SHARE_UNITS = 10_000  # Ray counts GPUs in these


@dataclass(frozen=True)
class Node:
    """Describe one machine of a cluster.

    name  its address
    id    Ray's id
    gpu   the weakest of its GPUs, if it is known
    """

    name: str
    cpus: int
    gpus: int
    id: str = ""
    gpu: Gpu | None = None


@dataclass(frozen=True)
class Machine:
    """Describe the CPUs and GPUs that trials can use, on this machine or summed over a cluster's `nodes`.

    quota  the number of CPUs whose time a container (cgroup) may use, if this lowers `cpus`; else None
    gpu    the weakest GPU of this machine, if it is known
    memory GPU memory that the largest trial takes for which the machine decides how many share a GPU, if it is known
    """

    cpus: int
    gpus: int
    nodes: tuple[Node, ...] = ()
    quota: float | None = None
    gpu: Gpu | None = None
    memory: TrialMemory | None = None

    @property
    def parts(self) -> tuple[Node, ...]:
        """Return the cluster's nodes, or this machine as one node."""
        return self.nodes or (Node("this machine", self.cpus, self.gpus, gpu=self.gpu),)

    @property
    def name(self) -> str:
        return "this cluster" if self.nodes else "this machine"

    @property
    def cpu_text(self) -> str:
        """Return the number of CPUs, with the quota that limits it."""
        return f"{self.cpus} CPU" + (f" (cgroup quota {self.quota:g})" if self.quota is not None else "")


def cluster_of(nodes: tuple[Node, ...]) -> Machine:
    """Return a cluster of these nodes as a Machine."""
    return Machine(sum(node.cpus for node in nodes), sum(node.gpus for node in nodes), nodes)


@dataclass(frozen=True)
class TrialReservation:
    """Hold the resources of one trial (`cpus` and `gpus` for each of its `workers`) and how many of them run at
    once.

    nodes  ids of the nodes that it is for; empty: all
    parts  other reservations of the same trial, each for nodes of one kind; empty: this one is for all kinds
    note   why so many trials share a GPU
    """

    cpus: float
    gpus: float
    slots: int
    workers: int = 1
    nodes: tuple[str, ...] = ()
    parts: tuple[TrialReservation, ...] = ()
    note: str = ""

    def why(self, machine: Machine) -> str:
        """Explain the number of concurrent trials in one line, with the count of each node for a cluster."""
        if self.parts:
            nodes = [tuple(node for node in machine.nodes if node.id in part.nodes) for part in self.parts]
            lines = (part.why(cluster_of(some)) for part, some in zip(self.parts, nodes, strict=True))
            return f"{self.slots} at once: {'; '.join(lines)}{self.note}"
        each = f"{self.workers} workers of " if self.workers > 1 else ""
        shared = f", {int(1 / self.gpus)} on each GPU" if 0 < self.gpus < 1 else ""
        wants = f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU{shared}" if self.gpus else "")
        has = machine.cpu_text + (f" and {machine.gpus} GPU" if machine.gpus or self.gpus else "")
        return f"{self.slots} at once: each reserves {each}{wants}, of {has}{self._where(machine)}{self.note}"

    def _where(self, machine: Machine) -> str:
        if not machine.nodes:
            return ""
        what = "workers" if self.workers > 1 else "trials"
        fits = [f"{node.name} {workers_on_node(node, self.cpus, self.gpus)}" for node in machine.nodes]
        return f" on {len(machine.nodes)} node{'s' * (len(machine.nodes) > 1)}; {what} that fit: {', '.join(fits)}"


def local_machine() -> Machine:
    """Return the CPUs that this process may use and the GPUs that it shows. A quota is rounded down, to one at
    least."""
    allowed, quota = len(os.sched_getaffinity(0)), cpu_quota()
    if quota is None or quota >= allowed:
        return Machine(allowed, shown_gpus())
    return Machine(max(1, int(quota)), shown_gpus(), quota=quota)


def memory_text() -> str:
    """Return the memory that this process may use, with the limit of its cgroups if there is one."""
    total, limit = machine_memory() or 0, memory_limit()
    if limit is None:
        return f"{total / 2**30:.1f} GiB"
    return f"{limit / 2**30:.1f} GiB (cgroup limit; the machine has {total / 2**30:.1f} GiB)"


@cache  # the driver calls this for each trial
def reserve(resources: Resources | None, machine: Machine, trials: int) -> TrialReservation:
    """Return the CPUs and GPUs that each of `trials` trials reserves on this machine.

    Defaults for each worker: one GPU if there is any, and an even share of the CPUs of its node. CPUs never lower the
    number of trials at once: two parallel trials with one thread each finish sooner than two consecutive trials with
    two threads each.

    Raises EnvironmentFailure when no node fits a worker, or the machine cannot hold all workers of a trial.
    """
    wanted = resources or Resources()
    if wanted.shares_gpus and wanted.workers == 1 and machine.gpus:
        return _sharing(wanted, machine, trials)
    gpus = wanted.asked_gpus if wanted.asked_gpus is not None else float(machine.gpus > 0)
    cpus = wanted.cpus if wanted.cpus is not None else float(_spare_cpus(machine, gpus, trials * wanted.workers))
    if problem := _too_much(cpus, gpus, machine):
        raise EnvironmentFailure(problem)
    fitting = workers_at_once(cpus, gpus, machine.parts)
    if fitting < wanted.workers:
        each = _amount(wanted.cpus or 1, gpus)
        raise EnvironmentFailure(
            f"resources.workers: a trial wants {wanted.workers} of {each} and {machine.name} has room for {fitting}; "
            "ask for fewer, or for less each"
        )
    return TrialReservation(cpus, gpus, fitting // wanted.workers, wanted.workers)


def _sharing(wanted: Resources, machine: Machine, trials: int) -> TrialReservation:
    """Return the reservation of a trial for which the machine decides how many share a GPU, on each kind of node.

    A cluster on which trials share GPUs gets a part for each kind of node. Nodes that join, and whose GPUs are not yet
    known, may run a trial that has a whole GPU.
    """
    nodes = [node for node in machine.parts if node.gpus]
    needed = ceil(trials / machine.gpus)  # so that few trials do not share a GPU while another is idle
    fitting = {node: min(needed, trials_per_gpu(node.gpu, machine.memory)) for node in nodes}
    at_once = {node: max(1, min(fitting[node], int(node.cpus / (wanted.cpus or 1.0) / node.gpus))) for node in nodes}
    note = sharing_note([node.gpu for node in nodes], machine.memory)
    note += "; the CPUs allow no more" if at_once != fitting else ""
    whole = reserve(wanted.model_copy(update={"gpus": 1.0}), machine, trials)
    if set(at_once.values()) == {1}:  # one trial on each GPU of any node that joins is no mistake
        return replace(whole, note=note)
    parts = []
    for number in sorted(set(at_once.values()), reverse=True):
        kind = tuple(node for node in nodes if at_once[node] == number)
        share = wanted.model_copy(update={"gpus": floor(SHARE_UNITS / number) / SHARE_UNITS})
        with suppress(EnvironmentFailure):  # its nodes have too few CPUs for what the file asks
            part = reserve(share, cluster_of(kind) if machine.nodes else machine, trials)
            parts.append(replace(part, nodes=tuple(node.id for node in kind)))
    if not machine.nodes:
        return replace(parts[0], nodes=(), note=note)
    return replace(whole, parts=tuple(parts), slots=sum(part.slots for part in parts), note=note)


def _spare_cpus(machine: Machine, gpus: float, workers: int) -> int:
    """Return the largest number of CPUs per worker with which as many of `workers` run at once as with one CPU each."""
    most = max(node.cpus for node in machine.parts)
    at_once = min(workers, workers_at_once(1, gpus, machine.parts))
    fits = (cpus for cpus in range(most, 0, -1) if workers_at_once(cpus, gpus, machine.parts) >= at_once)
    return next(fits, 1)


def _too_much(cpus: float, gpus: float, machine: Machine) -> str | None:
    """Return the reason why no node can run a worker, or None. One node must have both the CPUs and the GPUs."""
    most_cpus, most_gpus = (max(getattr(node, of) for node in machine.parts) for of in ("cpus", "gpus"))
    whose = "the largest node" if machine.nodes else machine.name
    who = "a worker" if machine.nodes else "a trial"
    if gpus > most_gpus:
        return f"resources.gpus: {who} wants {gpus:g} and {whose} has {most_gpus}; run on the CPU with resources.gpus=0"
    if cpus > most_cpus:
        quota = f" by a cgroup quota of {machine.quota:g}" if machine.quota is not None else ""
        return f"resources.cpus: {who} wants {cpus:g} and {whose} has {most_cpus}{quota}; lower it"
    if not any(workers_on_node(node, cpus, gpus) for node in machine.parts):
        return f"resources: no node has {_amount(cpus, gpus)} together, which a worker wants; lower one of them"
    return None


def _amount(cpus: float, gpus: float) -> str:
    return f"{cpus:g} CPU" + (f" and {gpus:g} GPU" if gpus else "")


def workers_at_once(cpus: float, gpus: float, nodes: tuple[Node, ...]) -> int:
    """Return the number of workers with this reservation that run at once on empty nodes."""
    return sum(workers_on_node(node, cpus, gpus) for node in nodes)


def trials_at_once(reservation: TrialReservation, nodes: tuple[Node, ...]) -> int:
    """Return the number of trials with this reservation that run at once on empty nodes; may be zero."""
    if reservation.parts:
        return sum(trials_at_once(part, nodes) for part in reservation.parts)
    allowed = tuple(node for node in nodes if not reservation.nodes or node.id in reservation.nodes)
    return workers_at_once(reservation.cpus, reservation.gpus, allowed) // reservation.workers


def workers_on_node(node: Node, cpus: float, gpus: float) -> int:
    """Return the number of workers with this reservation that run at once on one empty node."""
    by_cpu = int(node.cpus / cpus)
    return min(by_cpu, _by_gpu(gpus, node.gpus)) if gpus else by_cpu


def _by_gpu(wanted: float, gpus: int) -> int:
    """Return the number of workers that fit on the GPUs. A fraction of a GPU must be on a single GPU."""
    return int(gpus // wanted) if wanted >= 1 else gpus * int(1 / wanted)


def reservations(space: SearchSpace, machine: Machine) -> list[TrialReservation]:
    """Return the different reservations that trials of this space may make. Raises EnvironmentFailure if one cannot
    fit."""
    return [reserve(resources, machine, space.search.trials or 1) for resources in possible_resources(space)]


def idle_budget_lines(space: SearchSpace, machine: Machine) -> list[str]:
    """Return one line if the budget limits GPU-hours and no trial reserves a GPU."""
    if space.budget.gpu_hours is None or any(one.gpus for one in reservations(space, machine)):
        return []
    return ["budget.gpu_hours: has no effect, since no trial reserves a GPU; budget.cost counts such trials too"]


def sharing_lines(space: SearchSpace, machine: Machine) -> list[str]:
    """Return a line for each reservation of which the machine has decided how many trials share a GPU."""
    return [f"trials: {one.why(machine)}" for one in reservations(space, machine) if one.note]


def reservation_of(space: SearchSpace, params: Mapping[str, Any], machine: Machine) -> TrialReservation:
    """Return the CPUs, GPUs and workers that a trial with these params reserves."""
    return reserve(resources_of(space, params), machine, space.search.trials or 1)
