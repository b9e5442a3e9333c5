"""Ask a cluster's nodes about their GPUs while a sweep runs, and keep trials away from GPUs that cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sweeper.cluster.capacity import Node
from sweeper.cluster.gpus import unusable_reason
from sweeper.cluster.nodes import FindReason, call_on_node, live_nodes, live_ray_nodes, named_nodes, visible_survey
from sweeper.cluster.sharing import weakest

NODE_LABEL = "ray.io/node-id"  # Ray gives each node this label


class NodeSurveys:
    """Keep what each node of a cluster tells about its GPUs. Nodes may join at any time.

    say      shows a line for each node whose GPUs trials cannot use
    find     returns the reason, see `gpu_reasons`
    refused  ids of these nodes
    gpus     the weakest GPU of each node that has told of them, by the node's id
    """

    def __init__(
        self, say: Callable[[str], object], known: Sequence[Node] = (), find: FindReason = unusable_reason
    ) -> None:
        self.say = say
        self.find = find
        self.gpus = {node.id: node.gpu for node in known if node.gpu}
        self.refused: set[str] = set()
        self.asked: dict[str, Any] = {}  # by the node's id: Ray's reference to the answer

    def poll(self) -> None:
        """Ask the nodes that have joined, and read the answers that have come."""
        import ray

        for node in live_ray_nodes():
            if node["Resources"].get("GPU") and node["NodeID"] not in self.asked:
                self.asked[node["NodeID"]] = call_on_node(node["NodeID"], visible_survey, with_gpus=True)
        waiting = {answer: node for node, answer in self.asked.items() if answer is not None}
        for answer in ray.wait(list(waiting), num_returns=len(waiting), timeout=0)[0] if waiting else ():
            self.asked[waiting[answer]] = None
            self._read(waiting[answer], answer)

    def _read(self, node: str, answer: Any) -> None:
        """Refuse the node if trials cannot use its GPUs. One that has left, or cannot run our code, tells nothing."""
        import ray

        try:
            told = ray.get(answer)
        except ray.exceptions.RayError:
            return
        if told and (gpu := weakest(told.survey.usable)):
            self.gpus[node] = gpu
        gpus = next((int(one["Resources"].get("GPU", 0)) for one in live_ray_nodes() if one["NodeID"] == node), 0)
        if told and gpus and (reason := self.find(told.survey, gpus, told.visible)):
            self.refuse(node, reason)

    def refuse(self, node: str, reason: str) -> None:
        """Give no more trials that reserve a GPU to a node, and say so once."""
        if node not in self.refused:
            self.refused.add(node)
            name = {str(one["NodeID"]): name for one, name in named_nodes(live_ray_nodes())}.get(node, node)
            self.say(f"node {name}: {reason}; it gets no trials that reserve a GPU")

    def nodes(self) -> tuple[Node, ...]:
        """Return the live nodes with their GPUs, as far as they are known; those that are refused without GPUs."""
        return tuple(replace(node, gpu=self.gpus.get(node.id)) for node in live_nodes(self.refused))

    def selector(self, nodes: Sequence[str] = ()) -> str:
        """Return the condition on NODE_LABEL of the nodes that may run a trial with a GPU; empty for all nodes.

        nodes  ids of the nodes that the trial's reservation is for; empty for all that are not refused
        """
        if nodes:
            return f"in({','.join(nodes)})"
        return f"!in({','.join(sorted(self.refused))})" if self.refused else ""
