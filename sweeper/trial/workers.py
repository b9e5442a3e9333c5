"""Run a trial with one or several workers, in the processes that Tune reserves for it.

Worker 0 runs in Tune's own process, the others in Ray actors. Each uses Ray Train's local mode, which forms a process
group as torchrun does (NCCL on GPUs, gloo on CPUs). Tune releases all reservations when the trial ends, so no worker
runs longer than its trial.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil

from sweeper.process.environment import remove_foreign
from sweeper.process.output import output_to
from sweeper.trial.handover import (
    LOG,
    TrialConfig,
    read_processes,
    register_process,
    remove_process_files,
    write_failure,
)
from sweeper.trial.memory import monitor_failure
from sweeper.trial.process import lost_connection, recorded_failure, train_in_process

WORKER_POLL_SECONDS = 0.1
WORKER_ERROR_SECONDS = 3.0  # time for the errors of the other workers after the first one
WORKER_LOSS_SECONDS = 30.0  # Ray detects a lost worker or node within this time


def run_trial(config: Mapping[str, Any]) -> None:
    """Run a trial. Tune calls this trainable in the trial's process; `config` is a TrialConfig as a dict."""
    remove_foreign(os.environ)  # Ray on another machine may have been started by torchrun or MPI
    trial = TrialConfig(**config)
    workdir = Path(trial.workdir)
    with register_process(workdir), recorded_failure(workdir), output_to(workdir / LOG):
        if trial.workers == 1:
            train_in_process(trial)
        else:
            train_together(trial)


@dataclass(frozen=True)
class Rendezvous:
    """Hold the address at which a trial's workers form their process group, as torchrun would give it."""

    host: str
    port: int
    workers: int

    def settings(self, rank: int) -> dict[str, str]:
        """Return a worker's environment variables, those that torchrun sets.

        LOCAL_RANK is always 0, because Ray shows each worker only its own devices.
        """
        return {
            "RANK": str(rank),
            "WORLD_SIZE": str(self.workers),
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
            "MASTER_ADDR": self.host,
            "MASTER_PORT": str(self.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",  # torch 2.x: `rendezvous_store` has opened the store
            "GLOO_SOCKET_IFNAME": gloo_interface(),
        }


def train_together(config: TrialConfig) -> None:
    """Start the other workers, train as rank 0, and kill the other workers at the end."""
    with (
        rendezvous_store(config.workers) as place,
        as_first_worker(place.settings(0)),
        start_others(config, place) as results,
        monitored_workers(results, Path(config.workdir)) as monitor,
    ):
        train_in_process(config)
        monitor.join()


@contextmanager
def rendezvous_store(workers: int) -> Iterator[Rendezvous]:
    """Open a TCPStore on a free port of Ray's address on this node (loopback if Ray uses loopback)."""
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
    """Make this process rank 0 within the block.

    The environment is restored at the end, since Tune may reuse the process for another trial.
    """
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        leave_group()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def leave_group() -> None:
    """Leave the process group after the other workers have ended. NCCL's regular shutdown would wait for them."""
    from torch import distributed

    if not distributed.is_initialized():
        return
    if distributed.get_backend() == "nccl":
        # Private in torch 2.x: the public destroy_process_group waits for workers that are already killed.
        distributed.distributed_c10d._abort_process_group()
    else:
        distributed.destroy_process_group()


def gloo_interface() -> str:
    """Return the network interface with Ray's address.

    By default gloo resolves the host name, which may give another interface.
    """
    import ray

    address = ray.util.get_node_ip_address()
    found = [name for name, of in psutil.net_if_addrs().items() if any(one.address == address for one in of)]
    return os.environ.get("GLOO_SOCKET_IFNAME") or (found[0] if found else "")


class OtherWorker:
    """Run a worker with rank 1 or higher as a Ray actor."""

    def train(self, config: TrialConfig, place: Rendezvous, rank: int) -> None:
        """Train as this rank.

        The actor stays in the process group until worker 0 kills it. Other ranks would see an exit as a failure.
        """
        workdir = Path(config.workdir)
        remove_foreign(os.environ)
        os.environ.update(place.settings(rank))
        with register_process(workdir, rank), recorded_failure(workdir), output_to(workdir / f"log-{rank}.txt"):
            train_in_process(config)


@contextmanager
def start_others(config: TrialConfig, place: Rendezvous) -> Iterator[list[Any]]:
    """Start the workers from rank 1, each in its own bundle, and kill them at the end.

    Yields Ray's references to their results.
    """
    import ray
    from ray.util import get_current_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = get_current_placement_group()
    remote = ray.remote(num_cpus=config.cpus, num_gpus=config.gpus)(OtherWorker)
    ranks = range(1, config.workers)
    actors = [
        remote.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group, rank)).remote() for rank in ranks
    ]
    try:
        yield [actor.train.remote(config, place, rank) for actor, rank in zip(actors, ranks, strict=True)]
    finally:
        for actor in actors:
            ray.kill(actor)
        remove_process_files(Path(config.workdir), ranks)


@contextmanager
def monitored_workers(results: list[Any], workdir: Path) -> Iterator[Thread]:
    """Kill this process if another worker fails, since a collective call may wait for that worker forever.

    Yields the thread that waits for the workers. After a kill, Tune sees a dead process, and the failure record gives
    the reason.
    """
    over = Event()
    monitor = Thread(target=wait_for_workers, args=(results, over, workdir), daemon=True)
    monitor.start()
    try:
        yield monitor
    except Exception as error:
        if lost_connection(error):  # wait until the thread has found the worker that died
            monitor.join(WORKER_LOSS_SECONDS)
        raise
    finally:
        over.set()
        monitor.join()  # a later kill would end the next trial in this process


def wait_for_workers(results: list[Any], over: Event, workdir: Path) -> None:
    """Wait until all workers have ended or `over` is set. Kill this process if one fails.

    A worker that Ray's memory monitor has killed could not record its failure, so this function does. Workers that lost
    the connection to it may end first.
    """
    import ray

    while results and not over.is_set():
        ended, results = ray.wait(results, timeout=WORKER_POLL_SECONDS)
        errors = errors_of(ended)
        if errors and not over.is_set():
            if results:
                ended, _ = ray.wait(results, num_returns=len(results), timeout=WORKER_ERROR_SECONDS)
                errors += errors_of(ended)
            if failure := monitor_failure("\n".join(map(str, errors)), read_processes(workdir)):
                write_failure(workdir, failure)
            os.kill(os.getpid(), signal.SIGKILL)


def errors_of(results: list[Any]) -> list[Exception]:
    """Return the errors of the workers that failed among those that have ended."""
    import ray

    errors = []
    for result in results:
        try:
            ray.get(result)
        except Exception as error:
            errors.append(error)
    return errors
