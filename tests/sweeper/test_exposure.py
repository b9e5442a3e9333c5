"""A real sweep into a real `sweeper ui`, with secrets in its environment and in the server's address: who can reach
its processes, what they tell, and who may read what is left. Toy trials, real Ray, real MLflow.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import shutil
import signal
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import load_ledger
from sweeper.storage.settings import read_stores
from tests.support.canary import VARIABLE
from tests.support.drivers import Driver

TOKEN, PASSWORD = "Zq9canary-of-the-environment", "Zq9canary-of-the-address"
SPACE = """\
name: canary
job: tests.support.canary:JOB
data: sample
objective: height
parameters: {{trouble: {{values: [wait, raise, none]}}, learning_rate: 1e-3, num_train_epochs: 4, folder: {folder}}}
search: {{sampler: grid, seed: 1}}
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(os.name != "posix", reason="reads the sockets and the modes of a Unix"),
]


@dataclass(frozen=True)
class Seen:
    """What could be seen of a sweep and of the pages beside it, while they ran and afterwards.

    sockets   the listening ones of the sweep's processes and of the server's: process, address, port
    replies   what each said to a job that nobody had allowed: an HTTP status, None for none
    commands  what `ps` shows
    modes     of the private folder that Ray works in, and of every file below it
    """

    folder: Path
    sockets: dict[str, list[tuple[str, str, int]]]
    replies: dict[tuple[str, int], int | None]
    commands: list[str]
    ray: Path
    private: Path
    modes: dict[Path, int]
    exit_code: int


def family(driver: Driver) -> list[psutil.Process]:
    process = psutil.Process(driver.process.pid)
    return [process, *process.children(recursive=True)]


def listening(driver: Driver) -> list[tuple[str, str, int]]:
    found = []
    for process in family(driver):
        with suppress(psutil.NoSuchProcess):
            sockets = process.net_connections("inet")
            found += [(process.name(), *s.laddr) for s in sockets if s.status == psutil.CONN_LISTEN]
    return found


def submitted(port: int) -> int | None:
    """What a port says to a job that nobody has allowed; None where it does not speak HTTP."""
    body, headers = b'{"entrypoint": "id"}', {"Content-Type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", "/api/jobs/", body, headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def session_of(driver: Driver) -> Path:
    """Where Ray works, from the command line of its first server."""
    (command,) = (process.cmdline() for process in family(driver) if process.name() == "gcs_server")
    (logs,) = (argument for argument in command if argument.startswith("--log_dir="))
    return Path(logs.partition("=")[2]).parent


def regular(folder: str, names: list[str]) -> list[str]:
    """What `copytree` is to leave out: sockets and pipes."""
    kinds = {name: Path(folder, name).lstat().st_mode for name in names}
    return [name for name, mode in kinds.items() if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder, elsewhere = tmp_path_factory.mktemp("sweep"), tmp_path_factory.mktemp("temp")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "canary.yaml").write_text(SPACE.format(folder=folder), encoding="utf-8")
    drivers = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, TOKEN)
        try:
            drivers.append(ui := Driver(folder, "ui", "--port", str(port)))
            ui.until(lambda: "MLflow is at" in ui.said.read_text())
            ui.said.rename(folder / "ui.txt")
            (folder / "mlflow.ini").write_text(f"[mlflow]\ntracking_uri = http://me:{PASSWORD}@127.0.0.1:{port}\n")
            drivers.append(sweep := Driver(folder, "run", "canary.yaml"))
            sweep.until(lambda: bool(list(folder.glob("here-*"))))
            yield looked_at(folder, elsewhere / "ray", sweep, ui)
            ui.process.send_signal(signal.SIGTERM)
            assert ui.wait() == 143
        finally:
            for driver in drivers:
                driver.end()


def looked_at(folder: Path, copy: Path, sweep: Driver, ui: Driver) -> Seen:
    session = session_of(sweep)
    private = session.parents[1]
    shutil.copytree(session, copy, ignore=regular)
    sockets = {"sweep": listening(sweep), "ui": listening(ui)}
    replies = {(name, port): submitted(port) for one in sockets.values() for name, _, port in one}
    commands = [" ".join(process.cmdline()) for one in (sweep, ui) for process in family(one)]
    modes = {path: path.lstat().st_mode for path in (private, *private.rglob("*"))}
    (folder / "go").touch()
    return Seen(folder, sockets, replies, commands, copy, private, modes, sweep.wait())


def test_the_sweep_ends_well_though_one_trial_failed(seen: Seen) -> None:
    assert seen.exit_code == 0, (seen.folder / "said.txt").read_text()
    ledger = load_ledger(open_storage(read_stores(seen.folder, {}).ledger), "canary")
    assert sorted(record.state for record in ledger.records()) == ["COMPLETE", "COMPLETE", "FAIL"]
    assert [record.reason for record in ledger.records() if record.reason] == [
        "RuntimeError: 401 for Authorization: Bearer ***"
    ]


def test_nobody_outside_this_machine_is_listened_to(seen: Seen) -> None:
    names = {name for name, _, _ in seen.sockets["sweep"]}
    assert {"gcs_server", "raylet"} <= names
    assert len(seen.sockets["ui"]) >= 1
    for name, address, _ in seen.sockets["sweep"] + seen.sockets["ui"]:
        assert ipaddress.ip_address(address.removeprefix("::ffff:")).is_loopback, (name, address)


def test_nobody_takes_a_job_without_a_word(seen: Seen) -> None:
    """Ray's dashboard, where jobs are handed in, is not there, and what is there has no such page."""
    assert 8265 not in {port for _, port in seen.replies}
    assert all(reply is None or 400 <= reply < 500 for reply in seen.replies.values()), seen.replies


def test_no_other_user_reads_what_ray_keeps(seen: Seen) -> None:
    """Ray opens its folders to everyone; the one around them is closed, and so is each file with a content."""
    assert stat.S_IMODE(seen.modes[seen.private]) == 0o700
    exposed = {path: oct(mode) for path, mode in seen.modes.items() if stat.S_ISREG(mode) and mode & 0o077}
    assert exposed == {}
    assert not seen.private.exists()
    token = Path.home() / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def test_no_other_user_reads_what_a_sweep_and_the_pages_leave(seen: Seen) -> None:
    root = read_stores(seen.folder, {}).root
    modes = {path: path.lstat().st_mode for path in (root, *root.rglob("*"))}
    assert {root / name for name in ("ledger.db", "mlflow.db", "mlflow.log", "canary", "artifacts")} <= modes.keys()
    assert {path: oct(mode) for path, mode in modes.items() if mode & 0o077} == {}


def test_secrets_are_in_nothing_that_is_left(seen: Seen) -> None:
    told = {"canary.yaml", "mlflow.ini"}  # what was written by hand
    files = [path for top in (seen.folder, seen.ray) for path in top.rglob("*") if path.is_file()]
    contents = {path: path.read_bytes() for path in files if path.name not in told}
    assert {"ledger.db", "mlflow.db", "said.txt", "ui.txt", "log.txt", "report.html"} <= {
        path.name for path in contents
    }
    assert any(path.is_relative_to(seen.ray) for path in contents)
    assert [path for path, content in contents.items() if b"Zq9canary" in content] == []
    assert [command for command in seen.commands if "Zq9canary" in command] == []
