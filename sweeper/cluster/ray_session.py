"""Start Ray on this machine for one sweep, or connect to a running Ray cluster."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from psutil import Process

from jobs.files import disk_errors, disk_trouble
from sweeper.cluster.capacity import Machine
from sweeper.cluster.obstacles import start_obstacle
from sweeper.cluster.ray_folder import private_folder
from sweeper.cluster.watchdog import START_SECONDS, STOP_SECONDS, RayParts, parts_of, watchdog
from sweeper.errors import ConfigError, EnvironmentFailure
from sweeper.process.import_path import library_path
from sweeper.process.signals import Interrupt, adopt_orphans, descendants, kill_processes, signals_blocked
from sweeper.secrets import PRIVATE, redacted_values

CAUSE_CHARS = 300
OBJECT_STORE_BYTES = 100 * 2**20  # trials exchange only paths and numbers
PORT_SECONDS = 10.0  # time in which a cluster's port must answer
JOIN_SECONDS = 50.0  # limit of joining a cluster

# Environment variables that Ray reads when it is imported or started. Its processes inherit them.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # we handle signals, see sweeper/process/signals.py
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # start processes in parallel; LedgerSearcher limits their number
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # Tune's state files are not used
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # time for a stopped trial to end before Tune reuses its process
    "TOKENIZERS_PARALLELISM": "false",
}
LOCAL = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # private in ray 2.60: also on Linux, Ray listens on loopback only
    "HF_HUB_OFFLINE": "1",  # the driver has downloaded the backbones
    "HF_DATASETS_OFFLINE": "1",
}
# Ray 2.60 shows all GPUs to a trial that reserves none, unless this says otherwise.
HIDE_GPUS = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"}
# Names or prefixes of the environment variables that the driver sends to a cluster.
SENT_PREFIXES = ("HF_", "SWEEPER_", "TUNE_FUNCTION_", "TOKENIZERS_PARALLELISM", "OMP_NUM_THREADS")


@contextmanager
def ray_session(
    machine: Machine,
    sweep: str = "",
    interrupt: Interrupt | None = None,
    say: Callable[[str], object] = print,
) -> Iterator[None]:
    """Start Ray on this machine and stop it at the end; use the connected cluster if there is one.

    `address="local"` keeps Ray from joining another user's cluster on this machine. Ray listens on loopback only and
    requires its token from each caller unless RAY_AUTH_MODE changes that. If Ray is lost, `interrupt` stops the sweep;
    `say` shows the cause if the main thread cannot. Raises EnvironmentFailure if Ray does not start.
    """
    import ray
    from ray._private import ray_constants

    if ray.is_initialized():
        yield
        return
    os.environ.update(QUIET | LOCAL | HIDE_GPUS)
    os.environ.pop("RAY_AUTH_MODE", None)
    # Private in ray 2.60: Ray reads LOCAL's variable only when it is imported, and it may be imported already.
    ray_constants.ENABLE_RAY_CLUSTER = False
    earlier = descendants()
    adopt_orphans()
    with temporary_folder() as folder, watchdog(sweep, interrupt or Interrupt(), say) as watcher:
        try:
            with watcher.limit(START_SECONDS, "start"):
                watcher.parts = start_ray(machine, folder)
            yield
        finally:
            watcher.parts = None
            with watcher.limit(STOP_SECONDS, "stop"):
                stop_ray([process for process in descendants() if process not in earlier])


def start_ray(machine: Machine, folder: Path) -> RayParts:
    """Start Ray with its files in `folder` and return what the watchdog needs to know of it.

    Raises EnvironmentFailure when it does not start.
    """
    import ray

    if obstacle := start_obstacle(folder.parent):
        raise EnvironmentFailure(f"Ray cannot start; {obstacle}")
    try:
        with signals_blocked():
            ray.init(
                address="local",
                num_cpus=machine.cpus,
                num_gpus=machine.gpus,
                include_dashboard=False,
                log_to_driver=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=str(folder),  # undocumented in ray 2.60: the only way to set the folder of its sockets
                job_config=job_config(),
            )
    except Exception as error:
        raise EnvironmentFailure(start_failure_line(error, folder)) from error
    restrict_token()
    return parts_of(ray._private.worker._global_node)  # private in ray 2.60


def start_failure_line(error: Exception, folder: Path) -> str:
    """Describe in one line why Ray has not started: a full disk, or what Ray says."""
    if trouble := disk_trouble(error, folder):
        return f"Ray cannot start; {trouble}; free disk space, or name another folder in TMPDIR"
    text = " ".join(str(error).split())[:CAUSE_CHARS] or type(error).__name__
    cure = "check that memory, processes (`ulimit -u`) and files (`ulimit -n`) are free; then run it again"
    return f"Ray cannot start; {text}; {cure}"


def stop_ray(started: list[Process]) -> None:
    """Disconnect from Ray and kill the processes that its start has brought."""
    import ray

    if node := ray._private.worker._global_node:  # private in ray 2.60
        # Private in ray 2.60: `ray.shutdown` has no option to kill its processes at once.
        kill_without_waiting(node)
    ray.shutdown()
    kill_processes(started)  # else Ray's agents would run for another minute


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a path for Ray's files as `private_folder` does. Raises EnvironmentFailure when there can be none."""
    with ExitStack() as stack:
        with disk_errors(EnvironmentFailure, "make room there, or name another folder in TMPDIR"):
            folder = stack.enter_context(private_folder())
        yield folder


def kill_without_waiting(node: Any) -> None:
    """Make Ray kill its processes at once.

    By default Ray sends SIGTERM and waits a second for each process, but its processes block SIGTERM (see
    `signals_blocked`). `kill_all_processes` is private in ray 2.60.
    """
    kill = node.kill_all_processes
    node.kill_all_processes = lambda **asked: kill(**{**asked, "allow_graceful": False})


@contextmanager
def joined_cluster(address: str) -> Iterator[None]:
    """Connect to the cluster at `address`: HOST:PORT, or `auto` for the cluster of this machine. Disconnect at the end.

    Raises ConfigError for the address of a Ray client, since the driver must run in the cluster. Raises
    EnvironmentFailure when no cluster answers.
    """
    os.environ.update(QUIET)
    # A job of Ray's may set the same variables as `runtime_env`; without this switch, Ray refuses that (ray 2.60).
    os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")
    if "://" in address:
        raise ConfigError(
            f"--address {address}: is an address for Ray's client; run on the cluster's head node with --address auto"
        )
    import ray

    refuse_closed_port(address)
    with signals_blocked(), answer_limit(address):
        try:
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.WARNING,
                runtime_env=runtime_env(),
                job_config=job_config(),
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise EnvironmentFailure(unanswered(address, str(error).strip().splitlines()[0])) from error
    try:
        yield
    finally:
        ray.shutdown()


def unanswered(address: str, cause: str) -> str:
    """Return the message that no cluster answers at `address`, which may come from RAY_ADDRESS."""
    cure = "start one with `ray start --head`, give HOST:PORT of a running one, or unset RAY_ADDRESS"
    return f"--address {address}: no Ray cluster answers; {cause}; {cure}"


def refuse_closed_port(address: str) -> None:
    """Raise EnvironmentFailure if no program listens at HOST:PORT, where Ray would wait for ever."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PORT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise EnvironmentFailure(unanswered(address, str(error))) from None


@contextmanager
def answer_limit(address: str) -> Iterator[None]:
    """End this process with one line and exit code 4 if the block, which waits inside Ray, takes too long."""
    line = unanswered(address, f"it was silent for {JOIN_SECONDS:g} s")
    timer = threading.Timer(JOIN_SECONDS, end_unanswered, [line])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def end_unanswered(line: str) -> None:
    os.write(2, f"{line}\n".encode())
    os._exit(EnvironmentFailure.exit_code)


class FixedPath(list[str]):
    """Hold the import path that Ray sends to trials, and refuse additions.

    Ray adds the working directory and the folder of the program. There they would come first and hide libraries.
    """

    def extend(self, added: Iterable[str]) -> None:
        pass


def job_config() -> Any:
    """Return Ray's settings that give trials the import path of this process.

    Private in ray 2.60: `_py_driver_sys_path`, since Ray has no public setting for the path. Its processes insert the
    entries one by one at the front.
    """
    from ray.job_config import JobConfig

    return JobConfig(_py_driver_sys_path=FixedPath(reversed(library_path())))


def runtime_env() -> dict[str, Any]:
    """Return the environment variables that Ray sends to a cluster's trials, and both packages if not installed.

    Ray shows these values to all users of the cluster, so variables with secrets are left out. Trials do not need the
    ledger's password, and nodes have their own logins.
    """
    sent = (name for name in os.environ if name.startswith(SENT_PREFIXES) and name not in PRIVATE)
    wanted = {name: os.environ[name] for name in sent}
    hidden = redacted_values(wanted)
    environment = {name: value for name, value in wanted.items() if hidden[name] == value}
    return {"env_vars": environment | HIDE_GPUS} | ({} if is_installed() else {"py_modules": package_folders()})


def package_folders() -> list[str]:
    """Return the source folders of the packages `sweeper` and `jobs`."""
    return [str(Path(str(sys.modules[name].__file__)).parent) for name in ("sweeper", "jobs")]


def is_installed() -> bool:
    """Return True if the packages were installed with pip, False if they run from a source tree."""
    return not (Path(package_folders()[0]).parent / "pyproject.toml").is_file()


def restrict_token() -> None:
    """Make Ray's token readable by its owner only. Older Ray versions, or another umask, left it readable by
    everyone."""
    with suppress(OSError):
        (Path.home() / ".ray" / "auth_token").chmod(0o600)
