"""A trial as Tune runs it: in the process it is given, together with others where it has several workers.

Tune reserves a bundle for each worker and gives all of them back when the trial ends, however it ends; so no worker
outlives its trial. The first worker is Tune's own process. All run Ray Train's local mode, which joins them into a
process group as it does under torchrun: NCCL where PyTorch sees a GPU, and else gloo.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil

from sweeper.process.output import output_to
from sweeper.trial.handover import LOG, TrialConfig, register_process, remove_process_files
from sweeper.trial.process import lost_connection, recorded_failure, train_in_process

WORKER_POLL_SECONDS = 0.1  # seconds between looks at the other workers
WORKER_LOSS_SECONDS = 30.0  # seconds until Ray must have noticed that a worker, or its node, is gone


def run_trial(config: Mapping[str, Any]) -> None:
    """The trainable that Tune calls: `config` is an Assignment as a dict."""
    assignment = TrialConfig(**config)
    workdir = Path(assignment.workdir)
    with register_process(workdir), recorded_failure(workdir), output_to(workdir / LOG):
        if assignment.workers == 1:
            train_in_process(assignment)
        else:
            train_together(assignment)


@dataclass(frozen=True)
class Rendezvous:
    """Where the workers of a trial find each other: what torchrun would tell them."""

    host: str
    port: int
    workers: int

    def settings(self, rank: int) -> dict[str, str]:
        """A worker's environment. Ray shows it its own devices only, as if it were alone on its machine."""
        return {
            "RANK": str(rank),
            "WORLD_SIZE": str(self.workers),
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
            "MASTER_ADDR": self.host,
            "MASTER_PORT": str(self.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is there already, see `rendezvous_store`
            "GLOO_SOCKET_IFNAME": gloo_interface(),
        }


def train_together(assignment: TrialConfig) -> None:
    """The first worker's part. The others are there while it trains, and no longer."""
    with (
        rendezvous_store(assignment.workers) as place,
        as_first_worker(place.settings(0)),
        start_others(assignment, place) as ends,
        monitored_workers(ends) as watch,
    ):
        train_in_process(assignment)
        watch.join()


@contextmanager
def rendezvous_store(workers: int) -> Iterator[Rendezvous]:
    """A store on a free port of the address that Ray uses here, which is loopback where Ray is on loopback alone."""
    import socket

    import ray
    from torch.distributed import TCPStore

    host = ray.util.get_node_ip_address()
    listener = socket.create_server((host, 0))
    port = listener.getsockname()[1]
    store = TCPStore(host, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())
    yield Rendezvous(host, port, workers)
    del store


@contextmanager
def as_first_worker(settings: Mapping[str, str]) -> Iterator[None]:
    """Within, this process is the first of a group; afterwards it can be in another, or train alone."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        leave_group()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def leave_group() -> None:
    """The others are gone already; NCCL's orderly end would wait for them."""
    from torch import distributed

    if not distributed.is_initialized():
        return
    if distributed.get_backend() == "nccl":
        distributed.distributed_c10d._abort_process_group()
    else:
        distributed.destroy_process_group()


def gloo_interface() -> str:
    """The network interface with Ray's address. Gloo would take the one that the host's name leads to."""
    import ray

    address = ray.util.get_node_ip_address()
    found = [name for name, of in psutil.net_if_addrs().items() if any(one.address == address for one in of)]
    return os.environ.get("GLOO_SOCKET_IFNAME") or (found[0] if found else "")


class OtherWorker:
    """Any worker but the first, in a process of its own; a Ray actor."""

    def train(self, config: Mapping[str, Any], place: Rendezvous, rank: int) -> None:
        """It never leaves its group, whose others would take that for a breakdown: the first worker ends it."""
        assignment = TrialConfig(**config)
        workdir = Path(assignment.workdir)
        os.environ.update(place.settings(rank))
        with register_process(workdir, rank), recorded_failure(workdir), output_to(workdir / f"log-{rank}.txt"):
            train_in_process(assignment)


@contextmanager
def start_others(assignment: TrialConfig, place: Rendezvous) -> Iterator[list[Any]]:
    """The other workers, each in its bundle, and what Ray will say of the end of each."""
    import ray
    from ray.util import get_current_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = get_current_placement_group()
    remote = ray.remote(num_cpus=assignment.cpus, num_gpus=assignment.gpus)(OtherWorker)
    ranks = range(1, assignment.workers)
    actors = [
        remote.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group, rank)).remote() for rank in ranks
    ]
    try:
        yield [actor.train.remote(asdict(assignment), place, rank) for actor, rank in zip(actors, ranks, strict=True)]
    finally:
        for actor in actors:
            ray.kill(actor)
        remove_process_files(Path(assignment.workdir), ranks)


@contextmanager
def monitored_workers(ends: list[Any]) -> Iterator[Thread]:
    """A thread that waits for the other workers' ends. When one breaks down within it ends this process, which may
    wait for that worker for ever: Tune then hears of it, and the note tells why."""
    over = Event()
    watch = Thread(target=wait_for_workers, args=(ends, over), daemon=True)
    watch.start()
    try:
        yield watch
    except Exception as error:
        if lost_connection(error):  # by one that died, of whose place the driver then finds word
            watch.join(WORKER_LOSS_SECONDS)
        raise
    finally:
        over.set()
        watch.join()  # so that it never ends this process when Tune has given it another trial


def wait_for_workers(ends: list[Any], over: Event) -> None:
    """Returns when all workers have ended well, or when it is `over`. One that broke down has left word of it,
    unless it died."""
    import ray

    while ends and not over.is_set():
        ended, ends = ray.wait(ends, timeout=WORKER_POLL_SECONDS)
        for end in ended:
            try:
                ray.get(end)
            except Exception:
                if not over.is_set():
                    os.kill(os.getpid(), signal.SIGKILL)
