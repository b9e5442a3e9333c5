"""Inspect the nodes of a Ray cluster: list them, check that they can run trials, detect lost nodes, kill processes
there."""

from __future__ import annotations

import os
import platform
import signal
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NamedTuple

from sweeper.cluster.capacity import Machine, Node, cluster_of
from sweeper.cluster.gpus import PROBE_SECONDS, VISIBLE, Gpu, GpuSurvey, survey_gpus, unusable_reason
from sweeper.cluster.ray_session import HIDE_GPUS
from sweeper.cluster.sharing import weakest
from sweeper.errors import EnvironmentFailure
from sweeper.process.cgroups import MemoryState, memory_state
from sweeper.trial.gpu import CHECK
from sweeper.trial.handover import read_processes, this_node

PACKAGES = ("sweeper", "ray", "torch", "transformers")  # must have the same versions on all nodes
MARKER = ".seen-by-nodes-"
NODE_START_SECONDS = 120.0  # longest time until a node has started a process and imported our packages
NODE_REPLY_SECONDS = 30.0  # a node that does not reply within this time counts as lost
NODE_POLL_SECONDS = 0.2
FindReason = Callable[[GpuSurvey, int, str | None], str | None]


def cluster_machine() -> Machine:
    """Return the cluster as Ray sees it now. Raises EnvironmentFailure when none of its nodes has a CPU."""
    if found := live_nodes():
        return cluster_of(found)
    raise EnvironmentFailure("the cluster has no node with a CPU; add one with `ray start --address=HOST:PORT`")


def live_nodes(without_gpus: Container[str] = ()) -> tuple[Node, ...]:
    """Return the live nodes that have a CPU. GPUs of the nodes with these ids do not count."""
    found = [_node(node, name, node["NodeID"] not in without_gpus) for node, name in named_nodes(live_ray_nodes())]
    return tuple(node for node in found if node.cpus)


def live_ray_nodes() -> list[Mapping[str, Any]]:
    """Return Ray's description of each live node."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def named_nodes(nodes: list[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yield each node with its address, and with part of its id if several nodes have the same address."""
    shared = Counter(node["NodeManagerAddress"] for node in nodes)
    for node in nodes:
        address = node["NodeManagerAddress"]
        yield node, address if shared[address] == 1 else f"{address} ({node['NodeID'][:6]})"


def _node(node: Mapping[str, Any], name: str, with_gpus: bool) -> Node:
    cpus, gpus = (int(node["Resources"].get(kind, 0)) for kind in ("CPU", "GPU"))
    return Node(name, cpus, gpus if with_gpus else 0, str(node["NodeID"]))


def call_on_node(node: str, function: Callable[..., Any], *arguments: Any, with_gpus: bool = False) -> Any:
    """Call `function` on a node, even if all its CPUs are reserved. Return Ray's reference to the result.

    The function sees the node's GPUs only `with_gpus`; it reserves none.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    # Ray adds the variables to those of the job's environment.
    shown = {"runtime_env": {"env_vars": dict.fromkeys(HIDE_GPUS, "0")}} if with_gpus else {}
    task = ray.remote(num_cpus=0, max_retries=0)(function)
    return task.options(scheduling_strategy=there, **shown).remote(*arguments)


@dataclass(frozen=True)
class NodeReport:
    """Hold the data and versions that one node sees.

    marker       content of the marker file in the sweep's folder; None if the node does not see the file
    fingerprint  fingerprint of the data, or the reason why the node cannot read it
    versions     versions of Python and the packages; None for a package that is not installed
    """

    marker: str | None
    fingerprint: str
    versions: Mapping[str, str | None]


def inspect_node(marker: str, data: str, fingerprint: str) -> NodeReport:
    """Return the report of the node on which this function runs. `fingerprint` is the one that the sweep recorded."""
    file = Path(marker)
    return NodeReport(
        file.read_text() if file.is_file() else None, _seen_fingerprint(data, fingerprint), node_versions()
    )


def _seen_fingerprint(data: str, recorded: str) -> str:
    from jobs.dataset.data import DataError, read_data

    try:
        seen = read_data(data)
        return recorded if seen.matches(recorded) else seen.fingerprint
    except (DataError, OSError) as error:
        return f"cannot be read: {' '.join(str(error).split())[:200]}"


def node_versions() -> dict[str, str | None]:
    """Return the version of each package without its build suffix, such as `+cu130`."""
    return {"python": platform.python_version()} | {package: _version(package) for package in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return None


def check_nodes(folder: Path, data: str, fingerprint: str) -> None:
    """Check that every node sees the sweep's folder and the same data, and has the same package versions.

    Ignores a node that leaves the cluster during the check. Raises EnvironmentFailure with all problems of each node.
    """
    names = {str(node["NodeID"]): name for node, name in named_nodes(live_ray_nodes())}
    with marker_file(folder.absolute()) as marker:
        sights = {node: call_on_node(node, inspect_node, str(marker), data, fingerprint) for node in names}
        expected = NodeReport(marker.read_text(), fingerprint, node_versions())
        mistakes = [
            f"node {names[node]}: {problem}"
            for node, sight in sights.items()
            for problem in _node_problems(node, sight, expected, marker.parent, data)
        ]
    if mistakes:
        raise EnvironmentFailure(mistakes)


@contextmanager
def marker_file(folder: Path) -> Iterator[Path]:
    """Create a file with random content. Only a node that sees the same folder can read that content."""
    with NamedTemporaryFile("w", dir=folder, prefix=MARKER) as file:
        file.write(os.urandom(16).hex())
        file.flush()
        yield Path(file.name)


def _node_problems(node: str, sight: Any, expected: NodeReport, folder: Path, data: str) -> list[str]:
    """Return the problems that keep a node from running trials."""
    import ray

    try:
        return node_differences(ray.get(sight, timeout=NODE_START_SECONDS), expected, folder, data)
    except ray.exceptions.GetTimeoutError:
        return [f"has not answered for {NODE_START_SECONDS:g} s, perhaps overloaded; remove it with `ray stop` there"]
    except ray.exceptions.RayError as error:
        if is_lost(node):
            return []
        cause = str(error).strip().splitlines()[-1]
        return [f"cannot run sweeper's code; {cause}; install the same packages there as here"]


def node_differences(seen: NodeReport, expected: NodeReport, folder: Path, data: str) -> list[str]:
    """Return one line with a cure for each difference between a node's report and the expected one."""
    problems = []
    if seen.marker != expected.marker:
        cure = "put it on storage that all nodes share, as mlflow.ini's [storage] root"
        problems.append(f"does not see the sweep's folder {folder}; {cure}")
    if seen.fingerprint != expected.fingerprint:
        cure = "put one copy where all nodes see it under this path"
        problems.append(f"data {data}: has fingerprint {expected.fingerprint} here, there {seen.fingerprint}; {cure}")
    for package, here in expected.versions.items():
        there = seen.versions.get(package)
        if there != here and not (package == "sweeper" and there is None):  # Ray sends sweeper to a node without it
            problems.append(f"has {package} {there or 'not at all'}, here it is {here}; install the same there")
    return problems


class VisibleGpus(NamedTuple):
    """Hold the survey of a node's GPUs, and the value of CUDA_VISIBLE_DEVICES with which it was made."""

    survey: GpuSurvey
    visible: str | None


def visible_survey() -> VisibleGpus | None:
    """Return the survey of this node's GPUs; None if its environment says that GPUs are not checked."""
    return None if os.environ.get(CHECK) == "0" else VisibleGpus(survey_gpus(), os.environ.get(VISIBLE))


def node_gpus() -> dict[str, Gpu]:
    """Return the weakest GPU of each node, by the node's id. Nodes that do not tell are left out."""
    import ray

    asked = {
        str(node["NodeID"]): call_on_node(str(node["NodeID"]), visible_survey, with_gpus=True)
        for node in live_ray_nodes()
        if node["Resources"].get("GPU")
    }
    found = {}
    for node, answer in asked.items():
        with suppress(ray.exceptions.RayError):
            told = ray.get(answer, timeout=NODE_START_SECONDS + PROBE_SECONDS)
            if told and (gpu := weakest(told.survey.usable)):
                found[node] = gpu
    return found


def gpu_reasons(find: FindReason = unusable_reason, every: bool = False) -> list[str]:
    """Return for each node with GPUs that trials cannot use why they cannot, in one line.

    find   returns the reason; takes the survey, the number of GPUs and the value of CUDA_VISIBLE_DEVICES
    every  ask the nodes without GPUs too

    A node that leaves, or that cannot run our code, is left to `check_nodes`.
    """
    import ray

    surveys = {
        (name, int(gpus)): call_on_node(str(node["NodeID"]), visible_survey, with_gpus=True)
        for node, name in named_nodes(live_ray_nodes())
        if (gpus := node["Resources"].get("GPU", 0)) or (every and node["Resources"].get("CPU"))
    }
    problems = []
    for (name, gpus), answer in surveys.items():
        with suppress(ray.exceptions.RayError):
            told = ray.get(answer, timeout=NODE_START_SECONDS + PROBE_SECONDS)
            if told and (reason := find(told.survey, gpus, told.visible)):
                problems.append(f"node {name}: {reason}")
    return problems


def is_lost(node: str) -> bool:
    """Return True if a node has left the cluster.

    Ray may list a lost node for some seconds, so this function sends a task to the node. A live node replies at once;
    a node that does not reply within NODE_REPLY_SECONDS counts as lost.
    """
    import ray

    if not node or not ray.is_initialized():
        return False
    answer, deadline = call_on_node(node, this_node), time.monotonic() + NODE_REPLY_SECONDS
    while time.monotonic() < deadline and node in [str(one["NodeID"]) for one in live_ray_nodes()]:
        ended, _ = ray.wait([answer], timeout=NODE_POLL_SECONDS)
        if ended and _answered(answer):
            return False
    return True


def _answered(answer: Any) -> bool:
    import ray

    try:
        ray.get(answer)
    except ray.exceptions.RayError:
        return False
    return True


def has_lost_node(workdir: Path) -> bool:
    """Return True if a process of the trial ran on a node that has left the cluster."""
    return any(is_lost(node) for node in {place.node for place in read_processes(workdir)})


def memory_on_node(node: str) -> MemoryState | None:
    """Return the state of the memory on a node; None if the node does not answer."""
    import ray

    try:
        return MemoryState(*ray.get(call_on_node(node, memory_state), timeout=NODE_REPLY_SECONDS))
    except (ray.exceptions.RayError, ValueError):  # Ray raises ValueError for an empty or unknown id
        return None


def kill_trial(workdir: Path) -> None:
    """Kill the trial's processes, each on its own node. The driver calls this for a trial that hangs."""
    here = this_node()
    for place in read_processes(workdir):
        if place.node in ("", here):
            kill_process(place.pid)
        else:
            call_on_node(place.node, kill_process, place.pid)


def kill_process(pid: int) -> None:
    with suppress(OSError):
        os.kill(pid, signal.SIGKILL)
