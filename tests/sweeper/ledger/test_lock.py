"""One owner per sweep over all machines, by a lock in a real PostgreSQL."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sweeper.errors import EnvironmentFailure
from sweeper.ledger.database import open_storage
from sweeper.ledger.history import write_values
from sweeper.ledger.ledger import create_ledger, sweep_names
from sweeper.ledger.lock import sweep_lock
from sweeper.storage import postgres
from tests.support.processes import together
from tests.support.servers import PASSWORD, Postgres
from tests.support.servers import postgres as running
from tests.support.trials import asked

PATIENCE = 60.0
pytestmark = pytest.mark.filterwarnings("default")  # SQLAlchemy's own


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with running() as server:
        yield server


@pytest.fixture
def ledger(server: Postgres, request: pytest.FixtureRequest) -> str:
    return server.create(request.node.name[:60])


def machine(tmp_path: Path, name: str) -> Path:
    """The folder of the sweep `toy` on a machine of this name."""
    folder = tmp_path / name / "toy"
    folder.mkdir(parents=True)
    return folder


def own(folder: Path, ledger: str, told: Any) -> None:
    with sweep_lock(folder, ledger):
        told.send(os.getpid())
        signal.pause()


@pytest.mark.slow
def test_evaluations_that_are_made_again_leave_a_postgresql_ledger(ledger: str, toy_space: Any) -> None:
    space, storage = toy_space(), open_storage(ledger)
    sweep = create_ledger(storage, space, "toy")
    number = asked(sweep, space).number
    for epoch in (1.0, 2.0, 3.0):
        sweep.report(number, {"height": epoch / 10, "eval_loss": 0.5, "epoch": epoch, "seconds": epoch}, None)
    sweep.rewind(number, 1.0)
    assert storage.get_all_trials(sweep._study_id)[0].intermediate_values == {1: 0.1}
    assert len(sweep.record(number).evaluations) == 1
    write_values(storage, sweep._id(number), {1: 0.9, 2: float("nan")})
    assert (sweep.correct_values(), sweep.correct_values()) == ([number], [])
    storage.engine.dispose()


@pytest.mark.slow
def test_a_sweep_of_another_machine_is_refused_and_free_once_its_process_is_killed(ledger: str, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=own, args=(machine(tmp_path, "one"), ledger, there), daemon=True)
    process.start()
    pid, other = here.recv(), machine(tmp_path, "two")
    with pytest.raises(EnvironmentFailure) as refused, sweep_lock(other, ledger):
        pass
    told = f"sweep toy: process {pid} on {socket.gethostname()} is running it; wait for it or stop it"
    assert refused.value.lines == (told,)
    assert refused.value.exit_code == 4
    process.kill()
    process.join()
    with taken_within(other, ledger):
        assert (other / "owner").read_text() == str(os.getpid())


def taken_within(folder: Path, ledger: str) -> Any:
    """The server takes a moment to see that a connection has ended."""
    while True:
        claim = sweep_lock(folder, ledger)
        try:
            claim.__enter__()
        except EnvironmentFailure:
            continue
        claim.__exit__(None, None, None)
        return sweep_lock(folder, ledger)


@pytest.mark.slow
def test_a_lock_that_is_lost_is_told_of(server: Postgres, ledger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = threading.Event()
    with postgres.hold_lock(ledger, "sweep toy", lost.set, pulse=0.01):
        with pytest.raises(postgres.LockTaken), postgres.hold_lock(ledger, "sweep toy", lost.set):
            pass
        assert not lost.is_set()
        server.stop()
        assert lost.wait(PATIENCE)
    server.start()
    with postgres.hold_lock(ledger, "sweep toy", lost.set):
        pass


def opened(number: int, barrier: Any, told: Any, url: str) -> None:
    barrier.wait(PATIENCE)
    told.put(sweep_names(open_storage(url)))


@pytest.mark.slow
def test_drivers_that_start_at_once_make_the_tables_once(ledger: str) -> None:
    assert together(6, opened, ledger) == [[]] * 6


@pytest.mark.slow
def test_what_the_server_refuses_is_told_in_a_line_without_the_password(server: Postgres) -> None:
    for url in (server.url("nowhere"), server.url("postgres").replace(PASSWORD, f"{PASSWORD}-not")):
        with pytest.raises(EnvironmentFailure) as refused:
            open_storage(url)
        (line,) = refused.value.lines
        assert line.startswith(f"ledger postgresql://sweeper:***@127.0.0.1:{server.port}/")
        assert "does not exist" in line or "authentication failed" in line
        assert PASSWORD not in line


def test_a_driver_that_is_not_installed_is_named_with_its_cure() -> None:
    with pytest.raises(EnvironmentFailure) as missing:
        open_storage("postgresql+pg8000://me:hunter2@127.0.0.1/x")
    told = "postgresql+pg8000://me:***@127.0.0.1/x: its driver pg8000 is not installed; pip install 'pg8000'"
    assert missing.value.lines == (told,)


def test_what_an_address_says_itself_is_not_overruled() -> None:
    assert postgres.settings("postgresql://h/x?connect_timeout=2").get("connect_timeout") is None
    assert postgres.settings("postgresql://h/x")["connect_timeout"] == 10


def test_sweeps_have_locks_of_their_own() -> None:
    keys = {postgres.lock_number(f"sweep {name}") for name in ("toy", "toy-2", "Toy", "長")}
    assert len(keys) == 4
    assert all(-(2**63) <= key < 2**63 for key in keys)
