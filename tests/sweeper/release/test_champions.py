"""With MLflow on a server, a champion's files are there for every machine. A real server."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from optuna.storages import RDBStorage

from jobs import checkpoint
from sweeper.errors import EnvironmentFailure
from sweeper.ledger.ledger import create_ledger
from sweeper.ledger.lookup import Trial, find_trial
from sweeper.release.champions import champion, open_registry
from sweeper.release.promotion import promote
from sweeper.space.search_space import SearchSpace
from sweeper.storage.settings import Stores, read_stores
from tests.support.servers import SERVE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", SERVE, str(tmp_path_factory.mktemp("server")), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143


def machine(folder: Path, address: str) -> Stores:
    folder.mkdir()
    return read_stores(folder, {"MLFLOW_TRACKING_URI": address})


@pytest.fixture
def trial(storage: RDBStorage, toy_space: Callable[..., SearchSpace], tmp_path: Path) -> Trial:
    space = toy_space()
    ledger = create_ledger(storage, space, "toy")
    record = ledger.ask(space)
    assert record is not None
    unfinished = tmp_path / "trial" / "unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "model.safetensors").write_text("weights")
    whole = checkpoint.publish(unfinished, unfinished.parent, 1)
    ledger.report(record.number, {"height": 0.5, "eval_loss": 0.5, "epoch": 1.0, "seconds": 1.0}, str(whole))
    ledger.finish(record.number, "COMPLETE")
    return find_trial("toy", storage)


def test_another_machine_fetches_the_champion(trial: Trial, address: str, tmp_path: Path) -> None:
    here, there = machine(tmp_path / "here", address), machine(tmp_path / "there", address)
    client = open_registry(here).client
    experiment = client.create_experiment("toy")
    trial.ledger.set_run(trial.record.number, client.create_run(experiment).info.run_id)
    known = find_trial("toy", trial.ledger.storage)
    assert promote(known, here).promoted
    fetched = champion("toy", there)
    assert there.root in fetched.parents
    assert (fetched / "model.safetensors").read_text() == "weights"
    assert not list(fetched.parent.glob(".*"))
    assert not promote(known, there).promoted


def test_a_trial_the_server_does_not_know_is_refused(trial: Trial, address: str, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match=r"trial toy/0: MLflow at http.* has no run for its files"):
        promote(trial, machine(tmp_path / "here", address))
