"""Addresses of clusters at which nobody answers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import invoke
from tests.support.hiding import ROOT

JOIN = """
import sys
from sweeper.cluster import ray_session
ray_session.JOIN_SECONDS = 0.1
with ray_session.joined_cluster(sys.argv[1]):
    print("joined")
"""


@pytest.fixture
def silent() -> Iterator[str]:
    """Return the address of a server that says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_port_at_which_nothing_listens_is_told_in_one_line(
    toy_folder: Path, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", closed)
    result = invoke("plan", "toy.yaml")
    assert result.exit_code == 4
    (line,) = result.stderr.splitlines()
    assert line.startswith(
        f"--address {closed}: no Ray cluster answers; [Errno 111] Connection refused; start one with"
    )
    assert line.endswith("or unset RAY_ADDRESS")


@pytest.mark.slow
def test_a_cluster_that_says_nothing_is_told_in_one_line(silent: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", JOIN, silent],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout) == (4, "")
    assert f"--address {silent}: no Ray cluster answers; it was silent for " in done.stderr
