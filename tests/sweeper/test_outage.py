"""MLflow goes away while a sweep runs, for a while or for ever: training does not wait, and nothing is lost or
doubled. A real server or a real database; what fails is the way to it.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from jobs import fault_injection
from sweeper.driver import mirroring
from sweeper.driver import run as driver
from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import load_ledger
from sweeper.storage.settings import Stores, read_stores
from sweeper.tracking.mirror import Mirror
from tests.support.commands import invoke
from tests.support.invariants import check
from tests.support.limits import locked
from tests.support.mirrors import SWEEP, history, snapshot
from tests.support.servers import SERVE
from tests.support.trials import asked, evaluated

pytestmark = pytest.mark.filterwarnings("default")  # MLflow's and SQLAlchemy's own
PATIENCE = 100.0
LASTS = float(os.environ.get("SWEEPER_OUTAGE_SECONDS", "0"))  # at least, of each outage


# for ever: a whole sweep, but for Ray


def train(sweep: Any, listeners: Callable[[Any], None], interrupt: Any) -> None:
    """Two trials as Ray would report them."""
    for number in range(2):
        listeners(asked(sweep.ledger, sweep.space))
        listeners(evaluated(sweep.ledger, number, sweep.workdir(number), 4))
        listeners(sweep.ledger.finish(number, "COMPLETE"))


def ran(monkeypatch: pytest.MonkeyPatch, work: Callable[..., None]) -> Result:
    """`sweeper run`, with little patience for MLflow."""
    patient = functools.partial(mirroring.mirror_of, flush_seconds=0.3)
    with monkeypatch.context() as patch:
        patch.setattr(driver, "run_unfinished", work)
        patch.setattr(driver, "mirror_of", patient)
        patch.setattr(mirroring, "FLUSH_SECONDS", 0.3)
        return invoke("run", "toy.yaml", "search.trials=2")


@pytest.mark.timeout(120)
def test_a_sweep_ends_without_mlflow_and_sync_ships_everything(
    stores: Stores, toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.ExitStack() as away:

        def train_without(*arguments: Any) -> None:
            away.enter_context(locked(stores.root / "mlflow.db"))
            train(*arguments)

        result = ran(monkeypatch, train_without)
    for thread in threading.enumerate():  # a driver's process would have ended, and this thread with it
        if thread.name == "mlflow mirror":
            thread.join(PATIENCE)
            assert not thread.is_alive()
    said = [line for line in result.stderr.splitlines() if "the ledger has all results" in line]
    assert len(said) == 1
    assert said[0].startswith(f"MLflow at sqlite:///{stores.root}/mlflow.db: ")
    ledger = load_ledger(open_storage(stores.ledger), "toy")
    assert [(record.state, record.epochs) for record in ledger.records()] == [("COMPLETE", 4.0)] * 2
    with pytest.raises(AssertionError):
        check(ledger, stores)
    synced = invoke("sync", "toy")
    assert (synced.exit_code, synced.stdout.splitlines()[-1]) == (0, "toy: MLflow has all 2 trials")
    check(load_ledger(open_storage(stores.ledger), "toy"), stores)
    assert result.exit_code == 4, result.output


def test_a_sweep_with_mlflow_ends_well(stores: Stores, toy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    monkeypatch.setattr(driver, "run_unfinished", train)
    result = invoke("run", "toy.yaml", "search.trials=2")
    assert result.exit_code == 0, result.output
    assert "the ledger has all results" not in result.stderr
    check(load_ledger(open_storage(stores.ledger), "toy"), stores)


def test_a_driver_that_fails_before_it_tells_mlflow_has_told_the_ledger(
    stores: Stores, toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (toy_folder / "asked").write_text("mirror.put:3:raise")
    monkeypatch.setenv(fault_injection.VARIABLE, str(toy_folder))
    fault_injection._passed.clear()
    monkeypatch.setattr(driver, "run_unfinished", train)
    result = invoke("run", "toy.yaml", "search.trials=2")
    assert result.exit_code == 1
    assert fault_injection.happened(toy_folder) == ["mirror.put:3:raise"]
    monkeypatch.delenv(fault_injection.VARIABLE)
    ledger = load_ledger(open_storage(stores.ledger), "toy")
    assert [(record.state, record.epochs) for record in ledger.records()] == [("COMPLETE", 4.0)]
    assert invoke("sync", "toy").exit_code == 0
    check(load_ledger(open_storage(stores.ledger), "toy"), stores, tidy=False)


# for a while: between Mirror and a real server


class Way(BaseHTTPRequestHandler):
    """Passes requests on to the server, or does what `mode` says."""

    protocol_version = "HTTP/1.1"
    server: Proxy  # type: ignore[assignment]

    def do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        mode = self.server.mode()
        if mode in ("away", "broken"):
            if mode == "away":
                self.close_connection = True
                return
            self.answer(503, b'{"error_code": "TEMPORARILY_UNAVAILABLE", "message": "later"}')
            return
        if mode == "slow":
            time.sleep(0.2)  # what makes it slow
        status, answer = self.server.forward(self.command, self.path, body, dict(self.headers))
        if mode == "lost":
            self.close_connection = True
            return
        self.answer(status, answer)

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = do  # noqa: N815

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: the tests print."""


class Proxy(ThreadingHTTPServer):
    """In a process of its own. The file `mode` says what happens to requests, `happened` has a line for each."""

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(("127.0.0.1", 0), Way)
        self.folder, self.to = folder, port

    def mode(self) -> str:
        mode = (self.folder / "mode").read_text()
        with (self.folder / "happened").open("a") as file:
            file.write(f"{mode}\n")
        return mode

    def forward(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.to, timeout=PATIENCE)
        kept = {key: value for key, value in headers.items() if key.lower() not in ("host", "connection")}
        connection.request(method, path, body, kept)
        response = connection.getresponse()
        return response.status, response.read()


def serve(folder: Path, port: int, told: Any) -> None:
    with Proxy(folder, port) as proxy:
        told.put(proxy.server_address[1])
        proxy.serve_forever()


@dataclass(frozen=True)
class Road:
    """The way to a server. `direct` is the server itself, to see what it holds."""

    folder: Path
    tracking: str
    direct: Stores

    def becomes(self, mode: str) -> None:
        (self.folder / "next").write_text(mode)
        (self.folder / "next").replace(self.folder / "mode")

    def count(self, mode: str) -> int:
        return (self.folder / "happened").read_text().split().count(mode)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    command = [sys.executable, "-c", SERVE, str(tmp_path_factory.mktemp("server")), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield port
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@pytest.fixture
def road(server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Road]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "mode").write_text("fine")
    (tmp_path / "happened").touch()
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    process = context.Process(target=serve, args=(tmp_path, server, told), daemon=True)
    process.start()
    port = told.get(timeout=PATIENCE)
    direct = read_stores(tmp_path, {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{server}"})
    yield Road(tmp_path, f"http://127.0.0.1:{port}", direct)
    process.kill()
    process.join()


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("mode", "moment"), [*product(("away", "broken", "lost"), ("start", "middle", "end")), ("slow", "middle")]
)
def test_an_outage_holds_up_no_training_and_doubles_nothing(road: Road, mode: str, moment: str) -> None:
    sweep = f"{mode} {moment}"
    info = type(SWEEP)(**{**vars(SWEEP), "name": sweep, "key": sweep})
    mirror = Mirror(road.tracking, None, sweep, info, flush_timeout=PATIENCE)
    puts: list[float] = []

    def put(**changes: Any) -> None:
        began = time.monotonic()
        mirror.put(snapshot(**changes))
        puts.append(time.monotonic() - began)

    def outage() -> None:
        before = road.count(mode)
        road.becomes(mode)
        for epochs in (2, 3):
            put(epochs=epochs, state="RUNNING")
        began = time.monotonic()
        until(lambda: road.count(mode) > before and time.monotonic() - began >= LASTS)

    if moment == "start":
        road.becomes(mode)
    with mirror:
        put(epochs=1, state="RUNNING")
        if moment == "start":
            outage()
            road.becomes("fine")
        assert mirror.flush(PATIENCE)
        if moment == "middle":
            outage()
            road.becomes("fine")
        put(epochs=4)
        put(number=1)
        if moment == "end":
            outage()
            put(epochs=4)
            road.becomes("fine")
    assert road.count(mode) >= 1
    assert max(puts) < 1
    assert mirror.failure is None
    check_server(road, sweep)
    with Mirror(road.tracking, None, sweep, info, flush_timeout=PATIENCE) as again:  # as `sync` does
        again.put(snapshot(epochs=4))
        again.put(snapshot(number=1))
    assert again.failure is None
    check_server(road, sweep)


def check_server(road: Road, sweep: str) -> None:
    """The sweep's run and its two trials, each once, with every evaluation."""
    from mlflow import MlflowClient

    client = MlflowClient(road.direct.tracking)
    experiment = client.get_experiment_by_name(sweep)
    found = client.search_runs([experiment.experiment_id])
    assert sorted((run.info.run_name, run.info.status) for run in found) == [
        (sweep, "FINISHED"),
        ("trial 0", "FINISHED"),
        ("trial 1", "FINISHED"),
    ]
    for run in found:
        if run.info.run_name != sweep:
            number = int(run.info.run_name.split()[1])
            assert history(road.direct, run, "exact_match") == [(n, n / 10 + number / 100) for n in (1, 2, 3, 4)]
