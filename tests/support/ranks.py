"""Processes that train together, and what each of them does in a test. Light: every one of them imports it."""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

from jobs.job import ParamError
from jobs.params import TrainingParams

Reports = list[tuple[dict[str, float], Path]]


def on_ranks(work: Callable[..., Any], home: Path, *args: Any, count: int = 2) -> list[Any]:
    """What `work(home, *args)` gives on each rank of `count` new processes, which find each other by gloo."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_on_rank, (count, port, work, home, args), nprocs=count)
    return [pickle.loads((home / f"rank_{rank}").read_bytes()) for rank in range(count)]


def _on_rank(rank: int, count: int, port: int, work: Callable[..., Any], home: Path, args: Sequence[Any]) -> None:
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in where.items()}, MASTER_ADDR="127.0.0.1")
    torch.set_num_threads(1)
    (home / f"rank_{rank}").write_bytes(pickle.dumps(work(home, *args)))
    dist.destroy_process_group()


@dataclass(frozen=True)
class Seen:
    """What one rank did.

    reports    what it reported, of which epoch and checkpoint
    trained    the batches it trained on: rows and weight
    tokenized  how many times it made features
    published  how many checkpoints it wrote
    """

    reports: Reports
    trained: list[tuple[Sequence[int], float]]
    tokenized: int
    published: int


def watched(
    home: Path, name: str, params: TrainingParams, data: str, workdir: str, resume_from: Path | None = None
) -> Seen:
    """A training, by one rank or alone."""
    from jobs import checkpoint, get_job
    from jobs.features import tokens
    from jobs.training import batches

    reports: Reports = []
    trained: list[tuple[Sequence[int], float]] = []
    batch = batches.InputDataset.__getitems__

    def noted(inputs: batches.InputDataset, share: batches.WorkerBatch) -> Any:
        trained.append(tuple(share))
        return batch(inputs, share)

    (home / workdir).mkdir(parents=True, exist_ok=True)
    with (
        patch.object(batches.InputDataset, "__getitems__", noted),
        patch.object(tokens, "tokenize", wraps=tokens.tokenize) as tokenize,
        patch.object(checkpoint, "publish", wraps=checkpoint.publish) as publish,
    ):
        get_job(name).train(params, data, home / workdir, lambda *report: reports.append(report), resume_from)
    return Seen(reports, trained, tokenize.call_count, publish.call_count)


def whole_and_resumed(home: Path, name: str, params: TrainingParams, data: str) -> tuple[Seen, Seen]:
    """A training, and another that goes on from the first one's first checkpoint."""
    whole = watched(home, name, params, data, "whole")
    return whole, watched(home, name, params, data, "resumed", whole.reports[0][1])


def whole_resumed_and_sharded(home: Path, name: str, params: TrainingParams, data: str) -> dict[str, Any]:
    """The same, and once more with fsdp; `held` has what share of the weights the rank held at each checkpoint."""
    whole, resumed = whole_and_resumed(home, name, params, data)
    with sharding_among_cpus() as held:
        sharded, again = whole_and_resumed(home / "sharded", name, replace(params, fsdp=True), data)
    seen = {"whole": whole, "resumed": resumed, "sharded": sharded, "sharded_resumed": again, "held": held}
    return {**seen, "full": on_a_full_disk(home, name, params, data)}


def on_a_full_disk(home: Path, name: str, params: TrainingParams, data: str) -> str:
    """What a rank says when no checkpoint can be published, in the thread of rank 0."""
    from jobs import checkpoint

    def publish(folder: Path, workdir: Path, step: int) -> Path:
        raise OSError(28, "No space left on device")

    with patch.object(checkpoint, "publish", publish):
        try:
            watched(home, name, params, data, "full")
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return ""


@contextmanager
def sharding_among_cpus() -> Iterator[list[float]]:
    """Has accelerate shard on CPUs, where it does nothing of the kind by itself though torch can."""
    from accelerate import Accelerator, state
    from accelerate.utils import DistributedType

    from jobs.training import trainer

    begin, gather, held = state.AcceleratorState.__init__, Accelerator.get_state_dict, []

    def told(self: state.AcceleratorState, *args: Any, fsdp_plugin: Any = None, **options: Any) -> None:
        begin(self, *args, fsdp_plugin=fsdp_plugin, **options)
        if fsdp_plugin is not None:
            self.fsdp_plugin = fsdp_plugin
            self.distributed_type = state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    def noted(self: Accelerator, model: torch.nn.Module, *args: Any) -> dict[str, torch.Tensor]:
        parts = list(model.state_dict().values())  # parameters may still be whole from the last forward pass
        held.append(sum(part.to_local().numel() for part in parts) / sum(part.numel() for part in parts))
        weights: dict[str, torch.Tensor] = gather(self, model, *args)
        return weights

    with (
        patch.object(trainer, "check_sharding"),
        patch.object(state.AcceleratorState, "__init__", told),
        patch.object(Accelerator, "get_state_dict", noted),
    ):
        yield held


def in_a_group_of_others(home: Path, name: str, params: TrainingParams, data: str) -> tuple[Seen, Seen]:
    """The same where whoever started the workers has joined them already."""
    dist.init_process_group("gloo")
    return whole_and_resumed(home, name, params, data)


def refusals(home: Path, params: TrainingParams, data: str, changes: Sequence[dict[str, Any]]) -> list[str]:
    """What a training says of params that workers cannot use."""
    messages = []
    for change in changes:
        try:
            watched(home, "qa", replace(params, **change), data, "refused")
        except ParamError as error:
            messages.append(f"{error.key}: {error}")
    return messages


def meeting(home: Path) -> dict[str, Any]:
    """What one rank sees where all meet."""
    from jobs.training import workers

    def fail() -> None:
        raise OSError(28, "No space left on device")

    workers.join_workers()
    rank, failure = workers.rank(), ""
    try:
        workers.once(fail)
    except (OSError, workers.WorkerError) as error:
        failure = f"{type(error).__name__}: {error}"
    told = workers.once(lambda: f"by rank {workers.rank()}")
    workers.barrier()
    return {"rank": rank, "failure": failure, "told": told, "gathered": workers.gather_on_first(f"of rank {rank}")}
