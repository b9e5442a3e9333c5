"""Show and stop a sweep through its ledger, with a driver that is only written there; test_detach.py has real ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import Ledger, create_ledger, load_ledger
from sweeper.monitor.heartbeat import DRIVER, SILENT_SECONDS, Driver, driver_of, request_stop, write_end
from sweeper.monitor.status import duration_text, running_sweeps, status
from sweeper.space.reading import read_search_space
from sweeper.space.search_space import SearchSpace
from tests.support.commands import invoke
from tests.support.spaces import TOY
from tests.support.trials import asked, evaluated

Make = Callable[..., SearchSpace]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five trials asked for and three repeats: one finished, one stopped early, one failed, one runs since 3 epochs."""
    folder = tmp_path_factory.mktemp("written")
    (folder / "toy.yaml").write_text(TOY, encoding="utf-8")
    space = read_search_space(folder / "toy.yaml", ["search.trials=5", "repeats={top: 1, seeds: [1, 2, 3]}"])
    ledger = create_ledger(open_storage(f"sqlite:///{folder}/ledger.db"), space, "toy")
    for epochs in (4, 2, 0, 3):
        evaluated(ledger, asked(ledger, space).number, folder / str(epochs), epochs)
    ledger.finish(0, "COMPLETE")
    ledger.finish(1, "PRUNED")
    ledger.finish(2, "FAIL", "the hill is closed")
    return folder / "ledger.db"


@pytest.fixture
def ledger(here: Path, written: Path) -> Ledger:
    (here / "sweeps").mkdir()
    shutil.copy(written, here / "sweeps/ledger.db")
    return load_ledger(open_storage(f"sqlite:///{here}/sweeps/ledger.db"), "toy")


def signed(ledger: Ledger, ago: float = 0.0, **changes: object) -> Driver:
    """A driver on another machine, which was seen so many seconds ago."""
    now = ledger.now()
    driver = Driver("a", "node7", 4711, "elsewhere", started=now - ago - 200, seen=now - ago)
    ledger.set_attribute(DRIVER, asdict(replace(driver, **changes)))  # type: ignore[arg-type]
    return driver


def test_status_tells_of_the_driver_and_every_trial(ledger: Ledger) -> None:
    signed(ledger, ago=12)
    result = invoke("status", "toy")
    first, *others = result.stdout.splitlines()
    assert first.startswith("toy: running for 3m3")
    assert "process 4711 on node7, seen 1" in first
    assert first.endswith("s ago by the ledger's clock")
    assert others == [
        "  trials: 1 finished, 1 stopped early, 1 failed, 1 running, 4 left of 8",
        "  best so far: height 0.4000 (trial 0)",
        "  trial 3: epoch 3 of 4 after 1s, best height 0.3000",
    ]
    assert result.stderr == "next: sweeper status toy   or   sweeper stop toy\n"


def test_status_tells_how_far_trials_are_within_an_epoch_and_the_expected_end(ledger: Ledger) -> None:
    signed(ledger)
    ledger.set_attempt(3, 0, {"seconds": 70.0, "gpus": 0.0, "epoch": 3.5})
    shown = invoke("status", "toy").stdout.splitlines()
    assert "  trial 3: epoch 3.5 of 4 after 1m10s, best height 0.3000" in shown
    assert any(line.startswith("  ends in about 6m (at ") for line in shown)  # 10 s, then four more of 80 s
    found = json.loads(invoke("status", "toy", "--json").stdout)
    assert (found["seconds_left"], found["running"][0]["epoch"]) == (330.0, 3.5)
    signed(ledger, ended=ledger.now())
    assert "ends in" not in invoke("status", "toy").stdout


def test_status_as_json_has_the_same(ledger: Ledger) -> None:
    driver = signed(ledger)
    request_stop(ledger, driver, "stop")
    found = json.loads(invoke("status", "toy", "--json").stdout)
    assert (found["state"], found["asked"], found["process"]["pid"]) == ("running", "stop", 4711)
    assert found["trials"] == {"finished": 1, "pruned": 1, "failed": 1, "running": 1, "left": 4, "total": 8}
    assert found["best"] == {"trial": 0, "value": 0.4}
    assert found["running"] == [
        {"trial": 3, "epoch": 3.0, "epochs": 4, "seconds": 1.0, "value": 0.3, "gpu_memory_bytes": None,
         "used_precision": None}
    ]  # fmt: skip
    (again,) = json.loads(invoke("status", "--json").stdout)
    assert again.keys() == found.keys()
    assert again["running"] == found["running"]


def test_status_tells_the_memory_that_a_trial_takes_of_its_gpu(ledger: Ledger) -> None:
    metrics = {"height": 0.2, "eval_loss": 0.1, "epoch": 3.5, "seconds": 2.0}
    ledger.report(3, metrics, None, conditions={"gpu_memory_bytes": 11 * 2**30 + 2**28})
    line = "  trial 3: epoch 3.5 of 4 after 2s, best height 0.3000, 11.2 GiB of GPU memory"
    assert invoke("status", "toy").stdout.splitlines()[-1] == line
    (trial,) = json.loads(invoke("status", "toy", "--json").stdout)["running"]
    assert trial["gpu_memory_bytes"] == 11 * 2**30 + 2**28


@pytest.mark.parametrize(("precision", "told"), [("fp16", ", in fp16"), ("fp32", "")])
def test_status_tells_the_precision_of_a_trial_on_a_gpu(ledger: Ledger, precision: str, told: str) -> None:
    metrics = {"height": 0.2, "eval_loss": 0.1, "epoch": 3.5, "seconds": 2.0}
    ledger.report(3, metrics, None, conditions={"precision": precision, "device": "Tesla T4"})
    line = f"  trial 3: epoch 3.5 of 4 after 2s, best height 0.3000{told}"
    assert invoke("status", "toy").stdout.splitlines()[-1] == line
    (trial,) = json.loads(invoke("status", "toy", "--json").stdout)["running"]
    assert trial["used_precision"] == precision


def test_status_says_that_a_stop_was_asked_for(ledger: Ledger) -> None:
    driver = signed(ledger)
    request_stop(ledger, driver, "stop")
    assert "  asked to stop; running trials save what they have" in status(ledger).lines()
    request_stop(ledger, driver, "now")
    assert "  asked to stop at once" in status(ledger).lines()


def test_status_needs_neither_the_job_nor_the_data(ledger: Ledger) -> None:
    space = {**ledger.attributes["search_space"], "job": "nowhere.at.all:JOB", "data": "/nowhere"}
    ledger.set_attribute("search_space", space)
    ledger.set_attribute("job", "nowhere.at.all:JOB")
    assert invoke("status", "toy").exit_code == 0


def test_a_driver_that_is_silent_or_has_died_is_told_from_one_that_runs(ledger: Ledger) -> None:
    assert status(ledger).lines()[0] == "toy: not running"
    signed(ledger, ago=SILENT_SECONDS + 50)
    assert status(ledger).lines()[0].startswith("toy: silent: process 4711 on node7 was seen 2m3")
    assert "1 cut short" in status(ledger).lines()[1]
    write_end(ledger, signed(ledger))
    assert status(ledger).lines()[0] == "toy: not running"
    assert invoke("status", "toy").stderr == "next: sweeper resume toy\n"


def test_without_a_name_all_sweeps_are_shown_whose_driver_has_not_ended(ledger: Ledger, toy_space: Make) -> None:
    for name in ("ended", "never"):
        create_ledger(ledger.storage, toy_space(), name)
    assert running_sweeps(ledger.storage) == []
    assert invoke("status").stderr == "no sweep is running; next: sweeper ls\n"
    assert invoke("status", "--json").stdout == "[]\n"
    signed(ledger, ago=SILENT_SECONDS + 50)
    assert [one.sweep for one in running_sweeps(ledger.storage)] == ["toy"]


def test_there_is_nothing_to_stop_where_no_driver_runs(ledger: Ledger) -> None:
    result = invoke("stop", "toy")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.splitlines() == [
        "toy: there is nothing to stop, it is not running",
        "next: sweeper resume toy",
    ]


def test_a_driver_that_does_not_answer_is_told_with_the_place_to_look_at(ledger: Ledger) -> None:
    """It is asked all the same: it may only be cut off."""
    driver = signed(ledger, ago=SILENT_SECONDS + 50)
    result = invoke("stop", "toy", "--now")
    assert result.exit_code == 4
    assert "process 4711 on node7 was seen 2m3" in result.stderr
    assert status(ledger).asked == "now"
    assert driver_of(ledger.latest_attributes()) == driver


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "0s"), (41.0, "41s"), (200.4, "3m20s"), (7500.0, "2h5m")])
def test_a_length_of_time_is_told_as_a_file_writes_it(seconds: float, words: str) -> None:
    assert duration_text(seconds) == words


@pytest.mark.parametrize("command", [("status", "toi"), ("stop", "toi")])
def test_a_wrong_name_is_answered_with_the_nearest(ledger: Ledger, command: tuple[str, ...]) -> None:
    result = invoke(*command)
    assert (result.exit_code, result.stderr) == (2, "unknown sweep 'toi'; did you mean 'toy'? known here: toy\n")
