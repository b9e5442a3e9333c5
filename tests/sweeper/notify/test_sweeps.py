"""A real sweep in a process of its own tells a webhook what happens, and nobody else can read the webhook's address."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest

from sweeper.secrets import NOTIFY_URL
from tests.support.drivers import Driver
from tests.support.spaces import TOY
from tests.support.webhook import Webhook, webhook

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("default")]
SPACE = (
    "search={sampler: grid, seed: 1}",
    "parameters={trouble: {values: [raise, none]}, learning_rate: {values: [1e-4, 1e-3]}, num_train_epochs: 2}",
    "notify={new_best_every: 1s}",
)


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as found:
        yield found


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for temporary files whose path is short enough for Ray's sockets."""
    with TemporaryDirectory(prefix="n-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def files_with(token: str, *folders: Path) -> list[Path]:
    """Return the files below the folders that hold the token."""
    found = []
    for path in (path for folder in folders for path in folder.rglob("*")):
        try:
            if path.is_file() and token.encode() in path.read_bytes():
                found.append(path)
        except OSError:  # a file of Ray's that is gone again, or a pipe
            continue
    return found


def processes_with(token: str, driver: Driver) -> list[str]:
    """Return the processes of the driver's session, without itself, whose environment or command holds the token."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) != driver.process.pid or process.pid == driver.process.pid:
                continue
            texts = [*process.environ().items(), ("command", " ".join(process.cmdline()))]
            found += [f"{process.name()}: {name}" for name, value in texts if token in value]
        except (psutil.Error, ProcessLookupError):
            continue
    return found


@pytest.mark.slow
def test_a_sweep_tells_a_webhook_and_its_address_is_nowhere_else(
    tmp_path: Path, temporary: Path, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "toy.yaml").write_text(TOY, encoding="utf-8")
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv(NOTIFY_URL, hook.address)
    seen: dict[str, list[Any]] = {"files": [], "processes": [], "running": []}

    def look(message: dict[str, Any]) -> None:
        """While trials run, as Ray's files and processes are there then."""
        seen["files"] += files_with(hook.token, tmp_path, temporary)
        seen["processes"] += processes_with(hook.token, driver)
        seen["running"] += temporary.rglob("raylet*.out")

    hook.look = look
    driver = Driver(project, "run", "toy.yaml", *SPACE)
    try:
        code, said = driver.wait(), driver.said.read_text()
    finally:
        driver.end()
    assert code == 0, said
    assert sum(title.endswith("has failed") for title in hook.titles) == 1  # of two trials that fail
    assert any(title.startswith("toy: new best height") for title in hook.titles)
    assert hook.titles[-1] == "toy: finished"
    assert hook.titles.count("toy: finished") == 1
    assert set(hook.paths) == {f"/{hook.token}"}
    assert seen["running"], "no file of Ray's was there when it was looked"
    assert (seen["files"], seen["processes"], files_with(hook.token, tmp_path, temporary)) == ([], [], [])
    assert hook.token not in said
    assert "could not be sent" not in said


@pytest.mark.long
def test_a_sweep_that_its_budget_ends_tells_so_and_does_not_wait_for_an_answer(
    tmp_path: Path, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its messages wait for an answer for a minute; the sweep does not."""
    (tmp_path / "toy.yaml").write_text(TOY, encoding="utf-8")
    monkeypatch.setenv(NOTIFY_URL, hook.address)
    hook.hold.clear()
    driver = Driver(
        tmp_path, "run", "toy.yaml", "search.trials=4", "budget={target: 0.01}", "notify={events: [budget]}"
    )
    try:
        code, said = driver.wait(), driver.said.read_text()
    finally:
        driver.end()
    assert code == 0, said
    assert said.count("could not be sent") == 1
    assert "ended by budget.target" in said.splitlines()[-1]
    assert hook.titles == ["toy: ended by budget.target"]
