"""Nodes that join a running sweep, as Ray describes them; their answers are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import ray

from sweeper.cluster import nodes, surveys
from sweeper.cluster.capacity import Node
from sweeper.cluster.gpus import GpuSurvey
from sweeper.cluster.nodes import VisibleGpus
from sweeper.cluster.preflight import DeviceChecks
from sweeper.cluster.surveys import NodeSurveys
from tests.sweeper.cluster.test_gpus import H200, T4, V100, survey

LOST = ray.exceptions.RayActorError()


class Nodes:
    """What Ray tells of the nodes; `answers` has what each says of its GPUs, once it answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.live: list[Mapping[str, Any]] = []
        self.answers: dict[str, VisibleGpus | Exception | None] = {}
        self.asked: list[str] = []
        for module in (nodes, surveys):
            monkeypatch.setattr(module, "live_ray_nodes", lambda: self.live)
        monkeypatch.setattr(surveys, "call_on_node", self.ask)
        monkeypatch.setattr(ray, "wait", lambda waiting, **_: ([one for one in waiting if one in self.answers], []))
        monkeypatch.setattr(ray, "get", self.answer)

    def ask(self, node: str, function: object, with_gpus: bool) -> str:
        assert (function, with_gpus) == (nodes.visible_survey, True)
        self.asked.append(node)
        return node

    def answer(self, node: str) -> VisibleGpus | None:
        if isinstance(told := self.answers[node], Exception):
            raise told
        return told

    def join(self, node: str, gpus: int) -> None:
        resources = {"CPU": 4.0, "GPU": float(gpus)}
        self.live.append({"NodeID": node, "NodeManagerAddress": f"10.0.0.{node}", "Resources": resources})


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Nodes:
    return Nodes(monkeypatch)


def test_a_node_that_joins_is_asked_once_and_refused_in_one_line(cluster: Nodes) -> None:
    said: list[str] = []
    watched = NodeSurveys(said.append)
    cluster.join("1", 2)
    cluster.join("2", 1)
    cluster.join("3", 0)
    watched.poll()
    assert (cluster.asked, said, watched.selector()) == (["1", "2"], [], "")
    cluster.answers = {"1": VisibleGpus(survey(H200, H200), None), "2": VisibleGpus(survey(V100), None)}
    watched.poll()
    watched.poll()
    watched.refuse("2", "a trial finds out the same")
    (line,) = said
    assert line.startswith("node 10.0.0.2: GPU 0: Tesla V100")
    assert line.endswith("; it gets no trials that reserve a GPU")
    assert watched.selector() == "!in(2)"
    assert watched.nodes() == (
        Node("10.0.0.1", 4, 2, "1", H200),
        Node("10.0.0.2", 4, 0, "2", V100),
        Node("10.0.0.3", 4, 0, "3"),
    )
    assert (watched.selector(("1",)), watched.selector(("1", "3"))) == ("in(1)", "in(1,3)")
    cluster.join("4", 1)
    cluster.answers["4"] = VisibleGpus(GpuSurvey(failure="the driver hangs"), None)
    watched.poll()
    watched.poll()
    assert (cluster.asked, watched.selector()) == (["1", "2", "4"], "!in(2,4)")


def test_a_node_that_joins_without_a_precision_that_trials_name_is_refused(cluster: Nodes) -> None:
    said: list[str] = []
    checks = DeviceChecks("toy", gpus=True, on_gpu=["bf16"], on_cpu=["fp16"], compiled_on_cpu=True)
    watched = NodeSurveys(said.append, find=checks.of_gpus)
    cluster.join("1", 1)
    cluster.join("2", 1)
    cluster.answers = {"1": VisibleGpus(survey(H200), None), "2": VisibleGpus(survey(T4), None)}
    watched.poll()
    watched.poll()
    assert watched.selector() == "!in(2)"  # what trials on a CPU lack counts for none
    (line,) = said
    assert line.startswith("node 10.0.0.2: toy: parameters.precision: Tesla T4 (capability 7.5) has no bf16")


def test_a_node_that_leaves_or_does_not_check_its_gpus_is_not_refused(cluster: Nodes) -> None:
    watched = NodeSurveys(pytest.fail)
    cluster.join("1", 1)
    cluster.join("2", 1)
    cluster.answers = {"1": LOST, "2": None}
    watched.poll()
    assert (cluster.asked, watched.selector()) == (["1", "2"], "")
