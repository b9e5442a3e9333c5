"""The champion is the best trial promoted, whole and alone, whoever promotes what and when. A real MLflow registry in
SQLite, real ledgers, real files; trials are hand-written, not trained.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from optuna.storages import RDBStorage

from jobs import checkpoint
from jobs.dataset import data
from sweeper.driver.checkpoints import delete_checkpoints, unneeded_checkpoints
from sweeper.errors import ConfigError, DataFailure, EnvironmentFailure
from sweeper.ledger.database import existing_storage
from sweeper.ledger.ledger import Ledger, create_ledger
from sweeper.ledger.lookup import Trial, find_trial
from sweeper.release import promotion
from sweeper.release.champions import Version, champion, open_registry
from sweeper.release.lookup import find_checkpoint
from sweeper.release.promotion import Entrant, Promotion, decide_promotion, promote, read_entrant
from sweeper.space.reading import read_search_space
from sweeper.space.search_space import SearchSpace
from sweeper.storage.settings import Stores, read_stores
from tests.support.commands import invoke
from tests.support.limits import fill, killed_at, mounted

QA = """
name: readers
job: qa
data: sample
objective: exact_match
parameters: {learning_rate: {min: 1e-5, max: 1e-1, log: true}}
search: {trials: 8}
"""
LEDGER = "sqlite:///{}/ledger.db"


def write_checkpoint(folder: Path, content: str, predictions: Any = None) -> Path:
    """What training leaves: weights, something that only training needs, and perhaps answers."""
    unfinished = folder / "unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "model.safetensors").write_text(content)
    (unfinished / "optimizer.pt").write_text("large")
    if predictions is not None:
        checkpoint.write_json(unfinished / checkpoint.PREDICTIONS, predictions)
        checkpoint.write_json(folder / checkpoint.PREDICTIONS, predictions)
    return checkpoint.publish(unfinished, folder, 1)


def finished(
    ledger: Ledger, space: SearchSpace, folder: Path, metrics: dict[str, float], predictions: Any = None
) -> Trial:
    record = ledger.ask(space)
    assert record is not None
    whole = write_checkpoint(folder / ledger.name / str(record.number), f"{ledger.name} {metrics}", predictions)
    ledger.report(record.number, {**metrics, "epoch": 1.0, "seconds": 1.0}, str(whole))
    return Trial(ledger, ledger.finish(record.number, "COMPLETE"))


def climbers(
    storage: RDBStorage, space: SearchSpace, folder: Path, heights: Sequence[float], name: str = "toy"
) -> list[Trial]:
    """The toy's trials that reached these heights."""
    ledger = create_ledger(storage, space, name, {"torch": "2.13.0"})
    return [finished(ledger, space, folder, {"height": height, "eval_loss": 1 - height}) for height in heights]


def readers(storage: RDBStorage, folder: Path, wrong: Sequence[int]) -> list[Trial]:
    """Trials of the qa job, each with so many wrong answers to the sample's validation questions."""
    path = folder / "readers.yaml"
    path.write_text(QA, encoding="utf-8")
    space = read_search_space(path)
    ledger, rows = create_ledger(storage, space, "readers"), data.read_data("sample").valid
    trials = []
    for mistakes in wrong:
        answers = ["＿" if place < mistakes else row.answer for place, row in enumerate(rows)]
        predictions = [{"id": row.id, "answer": answer} for row, answer in zip(rows, answers, strict=True)]
        right = 1 - mistakes / len(rows)
        metrics = {"exact_match": right, "f1": right, "eval_loss": 1.0, "train_loss": 1.0}
        trials.append(finished(ledger, space, folder, metrics, predictions))
    return trials


def champion_version(stores: Stores, job: str) -> Version:
    version = open_registry(stores).champion(job)
    assert version is not None
    return version


def entrant(**changes: Any) -> Entrant:
    return replace(Entrant("a/1", 5, 0.8, "exact_match", "max", "strict", "f" * 64), **changes)


# the rule, without MLflow


def test_the_higher_score_wins_and_the_test_is_told() -> None:
    assert decide_promotion(entrant(), None, None).wins
    better = decide_promotion(entrant(trial="a/2", score=0.82), entrant(), 0.3)
    assert better.wins
    assert better.reason == "exact_match 0.8200 beats 0.8000 of a/1 (paired test: p = 0.3)"
    assert not decide_promotion(entrant(trial="a/2", score=0.78), entrant(), 0.3).wins


def test_where_less_is_better_the_lower_score_wins() -> None:
    loss = entrant(objective="eval_loss", direction="min")
    assert decide_promotion(replace(loss, trial="a/2", score=0.7), loss, None).wins
    assert not decide_promotion(replace(loss, trial="a/2", score=0.9), loss, None).wins


def test_of_equals_the_trial_that_was_known_first_wins() -> None:
    assert not decide_promotion(entrant(trial="a/2", trial_id=6), entrant(), 1.0).wins
    assert decide_promotion(entrant(trial="a/0", trial_id=4), entrant(), 1.0).wins


def test_significance_can_be_asked_for() -> None:
    better = entrant(trial="a/2", score=0.82)
    kept = decide_promotion(better, entrant(), 0.05, significant=True)
    assert kept.reason == "exact_match 0.8200 is not significantly better than 0.8000 of a/1 (paired test: p = 0.05)"
    assert not kept.wins
    assert decide_promotion(better, entrant(), 0.049, significant=True).wins
    with pytest.raises(DataFailure, match="no paired test against the champion a/1"):
        decide_promotion(better, entrant(), None, significant=True)


def test_no_test_is_made_of_scores_that_were_not_reported(stores: Stores, storage: RDBStorage, tmp_path: Path) -> None:
    first, second = readers(storage, tmp_path, [40, 20])
    promote(first, stores)
    other = {**second.record.metrics, "exact_match": second.record.metrics["exact_match"] + 0.01}
    assert promote(Trial(second.ledger, replace(second.record, metrics=other)), stores).p is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data_fingerprint": "e" * 64}, "validation data is eeeeeeeeeeee, that of the champion a/1 is ffffffffffff"),
        ({"objective": "f1"}, "objective is f1, that of the champion a/1 is exact_match"),
        ({"profile": "drcd"}, "metric profile is drcd, that of the champion a/1 is strict"),
    ],
)
def test_what_was_measured_otherwise_needs_force(changes: dict[str, str], words: str) -> None:
    other = entrant(trial="b/1", score=0.9, **changes)
    with pytest.raises(ConfigError, match=words):
        decide_promotion(other, entrant(), None)
    assert decide_promotion(other, entrant(), None, force=True).wins


# in MLflow and on disk


def test_the_first_is_champion_with_its_lineage(
    stores: Stores, storage: RDBStorage, toy_space: Callable[..., SearchSpace], tmp_path: Path
) -> None:
    (trial,) = climbers(storage, toy_space(), tmp_path, [0.5])
    done = promote(trial, stores)
    assert (done.promoted, done.previous, done.version) == (True, None, 1)
    tags = champion_version(stores, "toy").tags
    assert read_entrant(tags) == done.trial
    assert (tags["sweep"], tags["trial"], tags["trial_key"]) == ("toy", "toy/0", trial.record.key)
    assert (tags["metric.eval_loss"], tags["version.torch"], tags["forced"]) == ("0.5", "2.13.0", "false")
    assert json.loads(tags["params"]) == trial.record.params
    assert tags["data_fingerprint"] == data.read_data("sample").fingerprint


def test_the_champion_outlives_its_sweep_and_holds_no_pickle(
    stores: Stores, storage: RDBStorage, toy_space: Callable[..., SearchSpace], tmp_path: Path
) -> None:
    (trial,) = climbers(storage, toy_space(), tmp_path, [0.5])
    promote(trial, stores)
    shutil.rmtree(tmp_path / "toy")
    folder = champion("toy", stores)
    assert folder.parent == stores.root / "champions" / "toy"
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "model.safetensors"]
    assert find_checkpoint("toy@champion", stores) == folder


def test_a_worse_one_replaces_it_only_by_force_and_that_is_noted(
    stores: Stores, storage: RDBStorage, toy_space: Callable[..., SearchSpace], tmp_path: Path
) -> None:
    worse, better = climbers(storage, toy_space(), tmp_path, [0.5, 0.6])
    first = promote(better, stores)
    kept = promote(worse, stores)
    assert (kept.promoted, kept.version, kept.folder) == (False, first.version, first.folder)
    assert kept.reason == "height 0.5000 does not reach 0.6000 of toy/1"
    forced = promote(worse, stores, force=True)
    assert (forced.promoted, forced.version) == (True, 2)
    tags = champion_version(stores, "toy").tags
    assert (tags["trial"], tags["forced"], tags["replaced"]) == ("toy/0", "true", "toy/1")


def test_promoting_the_champion_again_changes_nothing_but_mends_its_folder(
    stores: Stores, storage: RDBStorage, toy_space: Callable[..., SearchSpace], tmp_path: Path
) -> None:
    (trial,) = climbers(storage, toy_space(), tmp_path, [0.5])
    folder = promote(trial, stores).folder
    (folder / "model.safetensors").write_text("flipped")
    with pytest.raises(EnvironmentFailure, match="promote trial toy/0 again"):
        champion("toy", stores)
    again = promote(trial, stores)
    assert (again.promoted, again.version, again.reason) == (False, 1, "is the champion already")
    assert champion("toy", stores) == folder


def test_answers_to_the_same_questions_are_compared(stores: Stores, storage: RDBStorage, tmp_path: Path) -> None:
    good, better, best = readers(storage, tmp_path, [9, 8, 0])
    promote(good, stores)
    kept = promote(better, stores, significant=True)
    assert (kept.promoted, kept.p) == (False, 1.0)
    done = promote(best, stores, significant=True)
    assert (done.promoted, done.p) == (True, 2 / 2**9)  # nine questions that one alone has right
    assert champion_version(stores, "qa").tags["p_value"] == str(2 / 2**9)


def test_a_checkpoint_that_is_gone_or_damaged_is_never_promoted(
    stores: Stores, storage: RDBStorage, toy_space: Callable[..., SearchSpace], tmp_path: Path
) -> None:
    gone, damaged = climbers(storage, toy_space(), tmp_path, [0.5, 0.6])
    shutil.rmtree(gone.checkpoint(tmp_path))
    (damaged.checkpoint(tmp_path) / "model.safetensors").write_text("cut")
    for trial, words in ((gone, "is not kept"), (damaged, "changed since it was written")):
        with pytest.raises(EnvironmentFailure, match=words):
            promote(trial, stores, force=True)
    with pytest.raises(ConfigError, match="has no champion"):
        champion("toy", stores)


def test_a_trial_that_failed_is_never_promoted(
    stores: Stores, storage: RDBStorage, toy_space: Callable[..., SearchSpace], tmp_path: Path
) -> None:
    space = toy_space()
    ledger = create_ledger(storage, space, "toy")
    record = ledger.ask(space)
    assert record is not None
    ledger.finish(record.number, "FAIL", "the hill is closed")
    with pytest.raises(ConfigError, match=r"toy/0: is FAIL \(the hill is closed\)"):
        promote(find_trial("toy/0", storage), stores)


def test_a_job_without_a_champion_is_answered_with_the_nearest_that_has_one(
    stores: Stores, storage: RDBStorage, toy_space: Callable[..., SearchSpace], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"job qa: has no champion; `sweeper promote SWEEP` makes"):
        champion("qa", stores)
    promote(climbers(storage, toy_space(), tmp_path, [0.5])[0], stores)
    with pytest.raises(ConfigError, match=r"job toi: has no champion; did you mean 'toy'\?"):
        champion("toi", stores)
    with pytest.raises(ConfigError, match=r"no alias 'champ'; write toy@champion"):
        find_checkpoint("toy@champ", stores)


def test_a_promotion_cut_short_leaves_the_old_champion(
    stores: Stores, storage: RDBStorage, toy_space: Callable[..., SearchSpace], tmp_path: Path
) -> None:
    old, new = climbers(storage, toy_space(), tmp_path, [0.5, 0.6])
    folder = promote(old, stores).folder

    def cut(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for module, name in (
        ("jobs.checkpoint", "refuse_damaged"),
        ("sweeper.release.champions", "Registry.register"),
        ("sweeper.release.champions", "Registry.make_champion"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"{module}.{name}", cut)
            with pytest.raises(KeyboardInterrupt):
                promote(new, stores)
        assert champion("toy", stores) == folder
    assert promote(new, stores).promoted
    assert champion("toy", stores) != folder
    assert not list((stores.root / "champions" / "toy").glob(".*"))


@pytest.mark.parametrize("point", ["promotion.copy", "promotion.alias"])
def test_a_promotion_that_is_killed_leaves_the_old_champion(
    stores: Stores, storage: RDBStorage, toy_space: Callable[..., SearchSpace], tmp_path: Path, point: str
) -> None:
    old, new = climbers(storage, toy_space(), tmp_path, [0.5, 0.6])
    folder = promote(old, stores).folder
    (folder.parent / f".{folder.name}-abcdefgh.part").mkdir()  # as of one that was killed while it copied
    killed_at(f"{point}:1:kill", tmp_path / "log", lambda: promote(new, stores))
    assert champion("toy", stores) == folder
    done = promote(new, stores)
    assert done.promoted
    assert champion("toy", stores) == done.folder != folder
    (folder / "model.safetensors").unlink()  # the older champion, again and damaged
    promote(old, stores, force=True)
    assert champion("toy", stores) == folder
    assert not list(folder.parent.glob(".*"))


def test_a_checkpoint_that_goes_while_it_is_promoted_leaves_the_old_champion(
    stores: Stores,
    storage: RDBStorage,
    toy_space: Callable[..., SearchSpace],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sweep that runs deletes what it no longer needs whenever it likes."""
    old, early, late = climbers(storage, toy_space(), tmp_path, [0.5, 0.6, 0.7])
    folder = promote(old, stores).folder
    fingerprint, copy = promotion.checkpoint_fingerprint, checkpoint.shutil.copyfile

    def deleted_at_first(path: Path) -> str:
        delete_checkpoints([str(path)])
        return fingerprint(path)

    def deleted_later(source: Path, target: Path) -> Path:
        delete_checkpoints([str(source.parent)])
        return Path(copy(source, target))

    with monkeypatch.context() as patch:
        patch.setattr(promotion, "checkpoint_fingerprint", deleted_at_first)
        with pytest.raises(EnvironmentFailure, match="was deleted, because its sweep found better trials"):
            promote(early, stores)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "copyfile", deleted_later)
        with pytest.raises(EnvironmentFailure, match="nothing was promoted"):
            promote(late, stores)
    assert champion("toy", stores) == folder
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_champion_stays_when_its_sweep_needs_its_checkpoint_no_more(
    stores: Stores, storage: RDBStorage, toy_space: Callable[..., SearchSpace], tmp_path: Path
) -> None:
    worse, better = climbers(storage, toy_space(), tmp_path, [0.5, 0.6])
    folder = promote(worse, stores).folder
    delete_checkpoints(unneeded_checkpoints(worse.ledger.records(), "max", keep=1))
    assert not Path(str(worse.record.checkpoint)).exists()
    assert champion("toy", stores) == folder
    assert promote(better, stores).promoted


def test_a_disk_without_room_for_a_champion_leaves_the_old_one(
    storage: RDBStorage, toy_space: Callable[..., SearchSpace], tmp_path: Path, blank: Path
) -> None:
    with mounted(tmp_path / "disk", "4m") as disk:
        room = read_stores(disk, {})
        room.root.mkdir()
        shutil.copy(blank, room.root / "mlflow.db")
        old, new = climbers(storage, toy_space(), tmp_path, [0.5, 0.6])
        folder = promote(old, room).folder
        filler = fill(disk)
        with pytest.raises(EnvironmentFailure, match=r"No space left on device.*\(0 bytes free\)|full") as caught:
            promote(new, room)
        assert len(caught.value.lines) == 1
        assert champion("toy", room) == folder
        filler.unlink()
        assert promote(new, room).promoted


def test_a_champion_made_elsewhere_is_told_apart(stores: Stores) -> None:
    client = open_registry(stores).client
    client.create_registered_model("toy")
    client.create_model_version("toy", stores.root.as_uri())
    client.set_registered_model_alias("toy", "champion", "1")
    with pytest.raises(EnvironmentFailure, match="version 1 in MLflow was not made by `sweeper promote`"):
        champion("toy", stores)


def test_asking_for_a_champion_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="job qa: has no champion"):
        champion("qa", read_stores(tmp_path, {}))
    assert not list(tmp_path.iterdir())


# several at once


@dataclass(frozen=True)
class Round:
    """An empty registry, and a sweep of eight trials of which some are equally good."""

    stores: Stores
    sweep: str
    heights: list[float]


@pytest.fixture
def rounds(
    storage: RDBStorage, toy_space: Callable[..., SearchSpace], tmp_path: Path, blank: Path
) -> Callable[[int], list[Round]]:
    """Makes so many rounds; after three sweeps the first comes again."""

    def make(count: int) -> list[Round]:
        sweeps = {f"sweep{n}": random.Random(n).choices([0.5, 0.6, 0.7, 0.8], k=8) for n in range(min(count, 3))}
        for name, heights in sweeps.items():
            climbers(storage, toy_space(), tmp_path, heights, name)
        rooms = [read_stores(tmp_path / f"room{n}", {"SWEEPER_LEDGER": LEDGER.format(tmp_path)}) for n in range(count)]
        for room in rooms:
            room.root.mkdir(parents=True)
            shutil.copy(blank, room.root / "mlflow.db")
        return [Round(room, *pair) for room, pair in zip(rooms, cycle(sweeps.items()), strict=False)]

    return make


def promote_all(number: int, rounds: list[Round], barrier: Any, told: Any) -> None:
    """Promote trial NUMBER of every round, each at the same moment as the others do theirs."""
    for place, one in enumerate(rounds):
        trial = find_trial(f"{one.sweep}/{number}", existing_storage(one.stores.ledger))
        barrier.wait(60)
        told.put((place, promote(trial, one.stores)))


def check_round(one: Round, outcomes: list[Promotion]) -> None:
    registry, version = open_registry(one.stores), champion_version(one.stores, "toy")
    assert version.tags["trial"] == f"{one.sweep}/{one.heights.index(max(one.heights))}"
    aliases = registry.client.get_registered_model("toy").aliases
    assert {name: int(number) for name, number in aliases.items()} == {"champion": version.number}
    assert (champion("toy", one.stores) / "model.safetensors").is_file()
    versions = sorted(registry.client.search_model_versions("name = 'toy'"), key=lambda found: int(found.version))
    ranks = [read_entrant(found.tags).rank for found in versions]
    assert ranks == sorted(ranks, reverse=True)  # each champion was better than the one before
    assert sum(done.promoted for done in outcomes) == len(versions)
    assert len(outcomes) == len(one.heights)


def test_promoted_at_once_the_best_is_champion(rounds: Callable[[int], list[Round]]) -> None:
    (one,) = rounds(1)
    barrier, told = threading.Barrier(8), SimpleQueue[tuple[int, Promotion]]()
    threads = [threading.Thread(target=promote_all, args=(number, [one], barrier, told)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check_round(one, [told.get_nowait()[1] for _ in threads])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_promoted_at_once_by_processes_the_best_is_champion(rounds: Callable[[int], list[Round]]) -> None:
    every = rounds(int(os.environ.get("SWEEPER_ROUNDS", "3")))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.sweeper.release.test_promotion", "mlflow.store.tracking.sqlalchemy_store"])
    barrier, told = context.Barrier(8), context.Queue()
    workers = [context.Process(target=promote_all, args=(number, every, barrier, told)) for number in range(8)]
    for worker in workers:
        worker.start()
    outcomes = [told.get(timeout=100) for _ in range(8 * len(every))]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    for number, one in enumerate(every):
        check_round(one, [promotion for place, promotion in outcomes if place == number])


def test_a_champions_folder_is_below_the_others_whatever_mlflow_says(
    stores: Stores, storage: RDBStorage, toy_space: Callable[..., SearchSpace], tmp_path: Path
) -> None:
    """Who can write to MLflow's database must not choose a folder here: it would be answered from, or replaced."""
    (trial,) = climbers(storage, toy_space(), tmp_path, [0.5])
    promote(trial, stores)
    client, version = open_registry(stores).client, champion_version(stores, "toy")
    (tmp_path / "outside").mkdir()
    for place in ("../../outside", "/etc", "toy/../../outside", "toy", "toy/..", "toy/x/y", "toy/.x", "toy/x\n"):
        client.set_model_version_tag("toy", str(version.number), "folder", place)
        with pytest.raises(EnvironmentFailure, match=r"is no folder below champions; promote a trial again"):
            champion("toy", stores)
    with pytest.raises(EnvironmentFailure, match=r"is no folder below champions; promote a trial again"):
        promote(trial, stores)
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="modes are Unix's")
def test_a_promotion_makes_files_for_their_owner_alone(
    stores: Stores,
    storage: RDBStorage,
    toy_space: Callable[..., SearchSpace],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    climbers(storage, toy_space(), tmp_path, [0.5])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SWEEPER_LEDGER", LEDGER.format(tmp_path))
    before = os.umask(0)  # the most careless one there is
    try:
        result = invoke("promote", "toy")
    finally:
        os.umask(before)
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines()[-1] == "next: sweeper best toy/0", "`evaluate` does not know this job"
    made = [stores.root / "champions", *(stores.root / "champions").rglob("*")]
    assert len(made) > 3
    assert {path.name: oct(path.stat().st_mode) for path in made if path.stat().st_mode & 0o077} == {}
