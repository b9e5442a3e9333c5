"""Run MLflow's server on a local store, for a browser on this machine."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

from sweeper.errors import EnvironmentFailure
from sweeper.storage.identity import stores_in_use
from sweeper.storage.settings import Stores
from sweeper.tracking.client import SWITCHES, create_store

STARTUP_SECONDS = 120.0  # usually five seconds are enough, but not on a busy machine


def serve(stores: Stores, port: int | None, announce: Callable[[str], None]) -> None:
    """Run MLflow's server until interrupted; call `announce` with its address when it answers.

    A `remote` store has a server already: only its address is announced. The server's output goes to `mlflow.log`
    in the root folder. Raises EnvironmentFailure when the server does not start or ends by itself.
    """
    if stores.remote:
        announce(stores.address)
        return
    stores = replace(stores, port=port or stores.port)
    _refuse_taken_port(stores)
    stores = stores_in_use(stores)
    create_store(stores.tracking)
    log = stores.root / "mlflow.log"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with private_log(log) as output, _server(stores, output) as process:
        try:
            wait_until_up(stores.address, STARTUP_SECONDS, lambda: process.poll() is None)
            announce(stores.address)
            process.wait()
        except KeyboardInterrupt:
            return
    raise EnvironmentFailure(f"MLflow's server for {stores.address} ended by itself; read {log} for the cause")


def private_log(path: Path) -> IO[bytes]:
    """Open a file for appending, with mode 0600. Raises OSError for a link, which could point to any file."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600), "ab")


@contextlib.contextmanager
def _server(stores: Stores, output: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    command, environment = server_command(stores), server_environment(stores)
    process = subprocess.Popen(command, env=environment, umask=0o077, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _refuse_taken_port(stores: Stores) -> None:
    try:
        socket.create_server((stores.host, stores.port)).close()
    except (OSError, OverflowError) as error:
        cure = "choose another port with --port, or in mlflow.ini: [ui] port"
        raise EnvironmentFailure(f"{stores.address}: {error}; {cure}") from None


def server_command(stores: Stores) -> list[str]:
    """Return the command that serves a local store at `stores.address`; run it with `server_environment`."""
    hosts = ",".join(f"{host},{host}:*" for host in dict.fromkeys((stores.host, "localhost", "127.0.0.1")))
    command = [sys.executable, "-m", "mlflow", "server", "--host", stores.host, "--port", str(stores.port)]
    files = ["--artifacts-destination", stores.artifacts] if stores.artifacts else []
    # By default uvicorn puts the working directory first on the import path; the standard library is there anyway.
    import_path = ["--uvicorn-opts", f"--app-dir {shlex.quote(sysconfig.get_path('stdlib'))}"]
    return [*command, "--workers", "1", "--allowed-hosts", hosts, *import_path, *files]


def server_environment(stores: Stores) -> dict[str, str]:
    """Return the environment for `server_command`, with the database's address.

    The address may contain a password, and every user of the machine can read a command line. Python does not search
    the working directory, whose files may be named like libraries.
    """
    return {**SWITCHES, **os.environ, "PYTHONSAFEPATH": "1", "MLFLOW_BACKEND_STORE_URI": stores.tracking}


def wait_until_up(url: str, timeout: float, alive: Callable[[], bool] = lambda: True) -> None:
    """Wait until an MLflow server answers at `url`.

    Raises EnvironmentFailure after `timeout` seconds, or as soon as `alive` returns False.
    """
    end = time.monotonic() + timeout
    while not _responds(url):
        if not alive():
            raise EnvironmentFailure(
                f"MLflow's server for {url} ended before it answered; read mlflow.log in the root folder for the cause"
            )
        if time.monotonic() > end:
            raise EnvironmentFailure(f"MLflow's server at {url} did not answer within {timeout:.0f} s")
        time.sleep(0.1)


def _responds(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False
