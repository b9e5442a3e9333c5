"""Find what would make Ray hang or crash when it starts on this machine, and describe it in one line."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import socket
from contextlib import suppress
from pathlib import Path

import psutil

from jobs.files import disk_error_line
from sweeper.process import cgroups

PROCESSES = 225  # processes and threads of Ray with two trials on two CPUs, measured with ray 2.60: 215
CONNECT_SECONDS = 5.0
LOOPBACK = "127.0.0.1"
FREE_BYTES = 2**20  # Ray's logs of a small sweep take 300 kB


def start_obstacle(folder: Path) -> str | None:
    """Return cause and cure if Ray cannot start on this machine with its files in `folder`, else None."""
    return disk_obstacle(folder) or loopback_obstacle() or process_obstacle(os.geteuid()) or group_obstacle()


def disk_obstacle(folder: Path) -> str | None:
    """Return cause and cure if the disk of `folder` is nearly full, else None."""
    if shutil.disk_usage(folder).free >= FREE_BYTES:
        return None
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    return disk_error_line(full, "free disk space, or name another folder in TMPDIR")


def loopback_obstacle() -> str | None:
    """Return cause and cure if this machine cannot connect to itself, else None."""
    try:
        with socket.create_server((LOOPBACK, 0)) as server:
            socket.create_connection(server.getsockname(), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        return f"no connection to {LOOPBACK}: {error.strerror or error}; start it with `ip link set lo up`"
    return None


def process_obstacle(user: int) -> str | None:
    """Return cause and cure if the user's process limit is too low, else None. The kernel exempts root.

    First raises the soft limit to the hard one.
    """
    with suppress(OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
    limit = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if user == 0 or limit == resource.RLIM_INFINITY:
        return None
    left = limit - threads_of(user)
    cure = f"raise it with `ulimit -u {limit - left + 2 * PROCESSES}`, or end other processes"
    return _too_few(left, f"the limit of {limit} (`ulimit -u`)", cure)


def threads_of(user: int) -> int:
    """Return the number of threads of a user's processes, which the kernel counts for the limit."""
    counted = 0
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            counted += process.num_threads() if process.uids().real == user else 0
    return counted


def group_obstacle(root: Path = cgroups.ROOT) -> str | None:
    """Return cause and cure if a control group (a container's limit) allows too few processes, else None."""
    left = cgroups.processes_left(root)
    return None if left is None else _too_few(left, "the limit of its control group (pids.max)", "raise that limit")


def _too_few(left: int, limit: str, cure: str) -> str | None:
    if left >= PROCESSES:
        return None
    return f"it needs {PROCESSES} processes and threads, and {limit} leaves {max(0, left)}; {cure}"
