"""A sweep taken up again, and MLflow made to agree with its ledger. Real stores, no Ray."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.dataset.convert import write_sample
from sweeper.driver import mirroring, opening
from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import Ledger, create_ledger
from sweeper.space.search_space import SearchSpace
from sweeper.storage.settings import Stores
from tests.support.commands import invoke
from tests.support.invariants import check
from tests.support.spaces import TOY
from tests.support.trials import asked, evaluated

Make = Callable[..., SearchSpace]
AWAY = "http://127.0.0.1:9"  # nothing listens there


def one_of_three(stores: Stores, space: SearchSpace) -> Ledger:
    """A sweep in which one trial has ended and one was cut short."""
    ledger = create_ledger(open_storage(stores.ledger), space, "toy", opening.sweep_versions())
    for number, epochs in ((0, 4), (1, 2)):
        evaluated(ledger, asked(ledger, space).number, stores.root / f"toy/trials/{number:04d}", epochs)
    ledger.finish(0, "COMPLETE")
    return ledger


@pytest.mark.filterwarnings("default")  # MLflow's and SQLAlchemy's own
@pytest.mark.timeout(120)
def test_sync_makes_up_for_a_store_that_was_away(stores: Stores, toy_space: Make, here: Path) -> None:
    space = toy_space()
    ledger = create_ledger(open_storage(stores.ledger), space, "toy", opening.sweep_versions())
    records = [asked(ledger, space) for _ in range(3)]
    with mirroring.mirror_of(ledger, space, stores) as mirror:
        mirroring.show_trial(mirror, ledger, records[0])  # and nobody comes to close it
    with mirroring.mirror_of(ledger, space, dataclasses.replace(stores, tracking=AWAY), flush_seconds=0.2) as mirror:
        for record, epochs in zip(records, (4, 3, 2), strict=True):
            mirroring.show_trial(mirror, ledger, evaluated(ledger, record.number, here / str(record.number), epochs))
        ledger.finish(0, "COMPLETE")
        ledger.finish(1, "FAIL", "the hill is closed")
    assert mirror.failure is not None
    with pytest.raises(AssertionError):
        check(ledger, stores, tidy=False)
    done = invoke("sync", "toy")
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "toy: MLflow has all 3 trials")
    assert "trial 1: corrected: its run was missing" in done.stdout
    check(ledger, stores, tidy=False)
    done = invoke("sync", "toy")
    assert (done.exit_code, done.stdout) == (0, "toy: MLflow has all 3 trials; nothing to correct\n")
    check(ledger, stores, tidy=False)


def test_sync_without_an_answer_says_so(stores: Stores, toy_space: Make, here: Path) -> None:
    one_of_three(stores, toy_space())
    (here / "mlflow.ini").write_text(f"[mlflow]\ntracking_uri = {AWAY}\n")
    result = invoke("sync", "toy")
    assert result.exit_code == 4
    assert "Connection refused" in result.stderr


@pytest.mark.parametrize("command", ["run", "resume"])
def test_changed_data_is_refused_with_both_fingerprints(stores: Stores, here: Path, command: str) -> None:
    write_sample(here / "data")
    file = here / "toy.yaml"
    file.write_text(TOY.replace("data: sample", "data: data"), encoding="utf-8")
    from sweeper.space.reading import read_search_space

    space = read_search_space(file)
    one_of_three(stores, space)
    text = (here / "data/context.json").read_text(encoding="utf-8")
    (here / "data/context.json").write_text(text.replace('"]', '", "又一段"]').replace('"\n]', '",\n"又一段"\n]'))
    result = invoke(command, "toy.yaml" if command == "run" else "toy")
    now = read_search_space(file).data_fingerprint
    assert now != space.data_fingerprint
    assert result.exit_code == 3
    assert f"has changed; its fingerprint was {space.data_fingerprint} and is now {now}" in result.stderr


def test_data_that_is_gone_ends_resume_with_exit_3(stores: Stores, here: Path) -> None:
    write_sample(here / "data")
    (here / "toy.yaml").write_text(TOY.replace("data: sample", "data: data"), encoding="utf-8")
    from sweeper.space.reading import read_search_space

    one_of_three(stores, read_search_space(here / "toy.yaml"))
    shutil.rmtree(here / "data")
    result = invoke("resume", "toy")
    assert (result.exit_code, "there is no folder" in result.stderr) == (3, True)


def test_resume_of_an_unknown_sweep_names_the_nearest(stores: Stores, toy_space: Make, here: Path) -> None:
    one_of_three(stores, toy_space())
    result = invoke("resume", "toi")
    assert (result.exit_code, result.stderr.strip()) == (2, "unknown sweep 'toi'; did you mean 'toy'? known here: toy")


def test_more_trials_are_asked_for_and_remembered(stores: Stores, toy_space: Make, here: Path) -> None:
    ledger = one_of_three(stores, toy_space())
    space = opening.resumed_space(ledger, trials=12)
    assert space == dataclasses.replace(toy_space("search.trials=12"))
    opening.open_ledger(open_storage(stores.ledger), space, "toy")
    from sweeper.ledger.ledger import load_ledger

    again = load_ledger(open_storage(stores.ledger), "toy")
    assert opening.resumed_space(again).search.trials == 12
