"""Ray for one sweep: one of our own on this machine, or a cluster that is there already."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

from sweeper.cluster.capacity import Machine
from sweeper.errors import ConfigError, EnvironmentFailure
from sweeper.process.signals import descendants, kill_processes, signals_blocked
from sweeper.secrets import redacted_values

OBJECT_STORE_BYTES = 100 * 2**20  # trials exchange paths and numbers only
TEMP_PATH_BYTES = 20  # bytes of a path that leave room for those of Ray's sockets, which have 104 in all

# Read by Ray when it is imported or started; its processes inherit them.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # signals are ours, see sweeper/interrupt.py
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # processes start side by side; LedgerSearcher keeps to the room there is
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # Tune's own state files are not needed
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # for a process to end a trial that is stopped, and take another
    "TOKENIZERS_PARALLELISM": "false",
}
LOCAL = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # without a cluster Ray listens on loopback alone, on Linux as well
    "HF_HUB_OFFLINE": "1",  # the driver has fetched what trials need
    "HF_DATASETS_OFFLINE": "1",
}
# Of a driver's environment, to a cluster.
SENT_PREFIXES = ("HF_", "SWEEPER_", "TUNE_FUNCTION_", "TOKENIZERS_PARALLELISM", "OMP_NUM_THREADS")


@contextmanager
def ray_session(machine: Machine) -> Iterator[None]:
    """A Ray of our own on this machine, or the one that is already there.

    `address="local"` keeps Ray from joining a stranger's cluster that it finds here. Ray asks whoever calls it for
    its token unless RAY_AUTH_MODE says otherwise, and is reached through loopback only.
    """
    import ray
    from ray._private import ray_constants

    if ray.is_initialized():
        yield
        return
    os.environ.update(QUIET | LOCAL)
    os.environ.pop("RAY_AUTH_MODE", None)
    ray_constants.ENABLE_RAY_CLUSTER = False  # made from the environment when Ray was imported
    strangers = descendants()
    with private_folder() as folder:
        with signals_blocked():
            ray.init(
                address="local",
                num_cpus=machine.cpus,
                num_gpus=machine.gpus,
                include_dashboard=False,
                log_to_driver=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=str(folder),
            )
        restrict_token()
        try:
            yield
        finally:
            family = [process for process in descendants() if process not in strangers]
            kill_without_waiting(ray._private.worker._global_node)
            ray.shutdown()
            kill_processes(family)  # its agents would outlive it by a minute


def kill_without_waiting(node: Any) -> None:
    """Have Ray kill its processes without waiting a second for each to hear SIGTERM: it is blocked in them, see
    `handlers_kept`."""
    kill = node.kill_all_processes
    node.kill_all_processes = lambda **asked: kill(**{**asked, "allow_graceful": False})


@contextmanager
def joined_cluster(address: str) -> Iterator[None]:
    """The cluster at `address`, HOST:PORT, or `auto` for the one this machine belongs to, for as long as it takes.

    Raises ConfigError for a Ray client's address, since the driver must be part of the cluster; EnvironmentFailure
    when nothing answers there.
    """
    os.environ.update(QUIET)
    if "://" in address:
        raise ConfigError(f"--address {address}: is for Ray's client; run on the cluster's head, with --address auto")
    import ray

    with signals_blocked():
        try:
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.WARNING,
                runtime_env=runtime_env(),
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            cause = str(error).strip().splitlines()[0]
            cure = "start it with `ray start --head`, or name HOST:PORT of one that runs"
            raise EnvironmentFailure(f"--address {address}: no Ray cluster answers; {cause}; {cure}") from error
    try:
        yield
    finally:
        ray.shutdown()


def runtime_env() -> dict[str, Any]:
    """What travels to a cluster's trials: some of our environment, and both packages unless they are installed.

    Ray shows it to whoever sees the cluster, so secrets stay: trials need no ledger, nodes have their own logins.
    """
    wanted = {name: value for name, value in os.environ.items() if name.startswith(SENT_PREFIXES)}
    hidden = redacted_values(wanted)
    environment = {name: value for name, value in wanted.items() if hidden[name] == value}
    return {"env_vars": environment} | ({} if is_installed() else {"py_modules": package_folders()})


def package_folders() -> list[str]:
    """The folders of both packages."""
    return [str(Path(str(sys.modules[name].__file__)).parent) for name in ("sweeper", "jobs")]


def is_installed() -> bool:
    """Whether our packages come from where pip puts them, rather than from a source tree."""
    return not (Path(package_folders()[0]).parent / "pyproject.toml").is_file()


@contextmanager
def private_folder() -> Iterator[Path]:
    """For Ray's sockets and logs, gone afterwards. Ray opens its own folder to everyone, so that it needs another
    around it."""
    temp = gettempdir() if len(os.fsencode(gettempdir())) <= TEMP_PATH_BYTES else "/tmp"
    with TemporaryDirectory(prefix="sweeper-", dir=temp, ignore_cleanup_errors=True) as folder:
        yield Path(folder) / "ray"


def restrict_token() -> None:
    """Ray's token is its owner's alone. An older Ray, or one under another umask, made it readable by everyone."""
    with suppress(OSError):
        (Path.home() / ".ray" / "auth_token").chmod(0o600)
