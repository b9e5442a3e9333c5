"""Servers of a test's own on loopback: a PostgreSQL, and one that speaks S3."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import pytest

USER, PASSWORD = "sweeper", "correct-horse-battery"
BUCKET = "sweeper-tests"
PLACES = ("/usr/lib/postgresql/*/bin", "/usr/local/pgsql/bin", "/opt/homebrew/opt/postgresql*/bin")


@dataclass(frozen=True)
class Postgres:
    """A cluster with its own data, which can be stopped as a crash would and started again."""

    programs: Path
    folder: Path
    port: int

    def url(self, database: str) -> str:
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """The address of a new, empty database."""
        with closing(psycopg.connect(self.url("postgres"), autocommit=True)) as connection:
            connection.execute(f'CREATE DATABASE "{database}"')  # type: ignore[arg-type]
        return self.url(database)

    def start(self) -> None:
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -k {self.folder} -c fsync=off"
        self._run("pg_ctl", "-D", "data", "-w", "-t", "60", "-l", "log", "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", "data", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        """PostgreSQL does not run as root."""
        user = "postgres" if os.geteuid() == 0 else None
        command = [str(self.programs / program), *arguments]
        subprocess.run(command, cwd=self.folder, user=user, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A running one; the test skips where PostgreSQL is not installed."""
    with TemporaryDirectory(prefix="sweeper-pg-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        server = Postgres(programs(), Path(folder), free_port())
        (server.folder / "password").write_text(PASSWORD)
        if os.geteuid() == 0:
            for path in (server.folder, server.folder / "password"):
                shutil.chown(path, "postgres")
        server._run("initdb", "-D", "data", "-U", USER, "-A", "scram-sha-256", "--pwfile", "password", "--no-sync")
        server.start()
        try:
            yield server
        finally:
            server.stop()


def programs() -> Path:
    found = shutil.which("initdb")
    places = [Path(found).resolve()] if found else [path for place in PLACES for path in Path("/").glob(place[1:])]
    if not places:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    return places[-1].parent if found else places[-1]


@contextmanager
def bucket() -> Iterator[Mapping[str, str]]:
    """The environment in which `s3://BUCKET` is an empty bucket of a server that speaks S3 over HTTP."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    environment = {
        "AWS_ENDPOINT_URL": address,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "correct-horse-bucket",
    }
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(port, process)
            with pytest.MonkeyPatch.context() as patch:
                for name, value in environment.items():
                    patch.setenv(name, value)
                client().create_bucket(Bucket=BUCKET)
            yield environment
        finally:
            process.kill()


def client() -> Any:
    """Amazon's own client, for the server that the environment names."""
    import boto3

    return boto3.client("s3")


def keys(prefix: str = "") -> list[str]:
    """The names of all objects below a prefix."""
    pages = client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return [entry["Key"] for page in pages for entry in page.get("Contents", ()) if not entry["Key"].endswith("/")]


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert process.poll() is None, "the S3 server has ended"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


SERVE = """
import sys
from pathlib import Path
from sweeper.tracking.server import serve
from sweeper.storage.settings import read_stores
serve(read_stores(Path(sys.argv[1]), {}), int(sys.argv[2]), lambda address: print(address, flush=True))
"""
