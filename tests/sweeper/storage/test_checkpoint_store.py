"""Checkpoints away from their sweep: whole or not there, in a shared folder and in a bucket over real HTTP."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.checkpoint import MANIFEST, damage, publish, write_json
from jobs.fault_injection import happened
from sweeper import doctor
from sweeper.driver.mirroring import save_predictions
from sweeper.errors import EnvironmentFailure
from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import create_ledger
from sweeper.ledger.lookup import find_trial
from sweeper.release.lookup import find_checkpoint
from sweeper.space.search_space import SearchSpace
from sweeper.storage import checkpoint_store
from sweeper.storage.checkpoint_store import Damaged, StorageError
from sweeper.storage.settings import read_stores
from sweeper.trial.handover import FAILURE, TrialConfig, read_failure
from sweeper.trial.process import TuneReporter, recorded_failure, store_checkpoint, usable_checkpoint
from tests.support.limits import killed_at
from tests.support.servers import BUCKET, bucket, keys
from tests.support.trials import asked, saved_by_trainer

Make = Callable[..., SearchSpace]
slow = pytest.mark.slow
pytestmark = pytest.mark.filterwarnings("default")  # boto3's own


DEPOSIT = (
    "import sys, pathlib, sweeper.storage.checkpoint_store as d; d.deposit(pathlib.Path(sys.argv[1]), sys.argv[2])"
)


def made(workdir: Path, step: int = 1) -> Path:
    incoming = workdir / "incoming"
    incoming.mkdir(parents=True)
    (incoming / "model.safetensors").write_bytes(bytes([step]) * 100_000)
    (incoming / "optimizer.pt").write_bytes(b"pickled")
    write_json(incoming / "predictions.json", [{"id": "q1", "answer": f"山{step}"}])
    return publish(incoming, workdir, step)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with bucket() as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        checkpoint_store._bucket_files.cache_clear()
        yield
    checkpoint_store._bucket_files.cache_clear()


@pytest.fixture
def away(server: None, request: pytest.FixtureRequest) -> str:
    """A trial's own place in the bucket."""
    return f"s3://{BUCKET}/{request.node.name}/toy/0000"


@pytest.fixture(params=["path", pytest.param("bucket", marks=slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "shared/toy/0000") if request.param == "path" else request.getfixturevalue("away")


def test_a_checkpoint_is_there_whole_once_it_is_deposited_and_gone_once_deleted(place: str, tmp_path: Path) -> None:
    checkpoint = made(tmp_path / "work")
    address = checkpoint_store.deposit(checkpoint, place)
    assert address == checkpoint_store.join_address(place, "checkpoint-000001")
    assert checkpoint_store.stored_damage(address) is None
    assert checkpoint_store.still_stored([address, f"{address}9", None]) == {address}
    assert (
        checkpoint_store.read_address(checkpoint_store.join_address(address, "predictions.json"))
        == (checkpoint / "predictions.json").read_bytes()
    )
    checkpoint_store.delete_stored([address, f"{address}9"])
    assert checkpoint_store.still_stored([address]) == set()
    assert MANIFEST in str(checkpoint_store.stored_damage(address))


def test_a_copy_of_a_copy_has_the_same_content(place: str, tmp_path: Path) -> None:
    checkpoint = made(tmp_path / "work")
    address = checkpoint_store.deposit(checkpoint, place)
    again = checkpoint_store.copy(address, f"{checkpoint_store.parent(place)}/0001")
    back = checkpoint_store.copy(str(again), str(tmp_path / "back"))
    checkpoint_store.delete_stored([address])
    assert content(Path(str(back))) == content(checkpoint)
    assert checkpoint_store.copy(address, str(tmp_path / "none")) is None


def test_the_training_state_of_an_ended_trial_is_removed_and_never_copied(place: str, tmp_path: Path) -> None:
    address = checkpoint_store.deposit(saved_by_trainer(tmp_path / "work", 1), place)
    assert checkpoint_store.is_resumable(address)
    copy = str(checkpoint_store.copy(address, f"{checkpoint_store.parent(place)}/0001"))
    assert checkpoint_store.is_resumable(address)
    for _ in range(2):
        checkpoint_store.remove_stored_state(address)
    checkpoint_store.remove_stored_state(f"{address}9")  # there is none
    kept = {"model.safetensors", "state.json", "trainer_state.json", MANIFEST}
    for one in (address, copy):
        assert checkpoint_store.stored_damage(one) is None
        assert not checkpoint_store.is_resumable(one)
        assert checkpoint_store.still_stored([one]) == {one}
        stored = checkpoint_store._list_folder(checkpoint_store._resolve_address(one))
        assert {info.base_name for info in stored} == kept
        back = checkpoint_store.copy(one, str(tmp_path / checkpoint_store.parent(one)[-4:]))
        assert set(content(Path(str(back)))) == kept


@slow
def test_a_checkpoint_in_a_bucket_is_whole_while_its_training_state_is_removed(
    away: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = checkpoint_store.deposit(saved_by_trainer(tmp_path / "work", 1), away)

    def fail(names: object) -> set[str]:
        raise StorageError("the connection is lost")

    monkeypatch.setattr(checkpoint_store, "state_files", fail)  # after the manifest, before the first file
    checkpoint_store.remove_stored_state(address)
    assert checkpoint_store.stored_damage(address) is None
    assert not checkpoint_store.is_resumable(address)
    assert "optimizer.pt" in {key.rpartition("/")[2] for key in keys(address.removeprefix(f"s3://{BUCKET}/"))}
    monkeypatch.undo()
    checkpoint_store.remove_stored_state(address)
    assert len(keys(address.removeprefix(f"s3://{BUCKET}/"))) == 4


def test_only_the_newest_stays_on_the_machine_that_made_it(place: str, tmp_path: Path) -> None:
    first = store_checkpoint(made(tmp_path / "work", 1), place)
    second = store_checkpoint(made(tmp_path / "work", 2), place)
    assert checkpoint_store.still_stored([first, second]) == {first, second}
    assert [path.name for path in (tmp_path / "work").glob("checkpoint-*")] == ["checkpoint-000002"]


def test_a_checkpoint_that_is_stored_early_is_reported_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[dict[str, object]] = []
    monkeypatch.setattr("ray.tune.report", reported.append)
    reporter = TuneReporter({"height": "max"}, str(tmp_path / "shared"))
    reporter.store(made(tmp_path / "work", 1))
    (tmp_path / "shared/checkpoint-000001/untouched").write_text("")
    reporter({"height": 0.5, "epoch": 1.0}, tmp_path / "work/checkpoint-000001")
    reporter({"height": 0.5, "epoch": 2.0}, made(tmp_path / "work", 2))
    addresses = [str(tmp_path / f"shared/checkpoint-{step:06d}") for step in (1, 2)]
    assert [one["checkpoint"] for one in reported] == addresses
    assert (tmp_path / "shared/checkpoint-000001/untouched").exists()  # it was not stored a second time


def test_without_a_storage_a_checkpoint_stays_where_it_is(tmp_path: Path) -> None:
    checkpoints = [made(tmp_path / "work", step) for step in (1, 2)]
    assert [store_checkpoint(checkpoint, None) for checkpoint in checkpoints] == [str(one) for one in checkpoints]
    assert all(checkpoint.is_dir() for checkpoint in checkpoints)


def test_answers_outlive_their_checkpoint(place: str, tmp_path: Path, toy_space: Make) -> None:
    space = toy_space()
    ledger = create_ledger(open_storage(f"sqlite:///{tmp_path}/ledger.db"), space, "toy")
    number = asked(ledger, space).number
    address = store_checkpoint(made(tmp_path / "work"), place)
    ledger.report(number, {"height": 0.5, "eval_loss": 0.5, "epoch": 1.0, "seconds": 1.0}, address)
    record = ledger.finish(number, "PRUNED", "stopped early")
    kept = save_predictions(record, tmp_path / "work")
    checkpoint_store.delete_stored([address])
    assert kept == save_predictions(record, tmp_path / "work")  # as after a restart
    assert save_predictions(record, tmp_path / "another machine") is not None
    assert find_trial("toy", ledger.storage).predictions() == [{"id": "q1", "answer": "山1"}]


def test_a_place_that_takes_nothing_is_refused_before_a_sweep(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFailure, match=r"file: .*; name another place in \[storage\] checkpoints"):
        checkpoint_store.check_address(str(tmp_path / "file"))
    with pytest.raises(EnvironmentFailure, match="missing or not writable"):
        checkpoint_store.check_readable(str(tmp_path / "nowhere"))
    checkpoint_store.check_address(str(tmp_path / "new"))
    assert list((tmp_path / "new").iterdir()) == []


def test_doctor_says_whether_the_checkpoints_place_is_there(tmp_path: Path) -> None:
    stores = replace(read_stores(tmp_path, {}), checkpoints=str(tmp_path / "shared"))
    (before,) = [finding for finding in doctor.reachable_findings(stores) if finding.what == "checkpoints"]
    (tmp_path / "shared").mkdir()
    (after,) = [finding for finding in doctor.reachable_findings(stores) if finding.what == "checkpoints"]
    assert (before.good, after.good) == (False, True)
    assert "missing or not writable" in before.detail


@pytest.mark.parametrize("address", ["s3://b/x/..", "s3://b/x/", "s3://b/x/checkpoint-1", "http://b/checkpoint-000001"])
def test_an_address_that_names_no_checkpoint_becomes_no_folder(tmp_path: Path, address: str) -> None:
    with pytest.raises(EnvironmentFailure, match="not the address of a checkpoint"):
        checkpoint_store.local(address, tmp_path)
    assert list(tmp_path.iterdir()) == []


@slow
def test_a_copy_from_a_bucket_is_whole_and_made_once(away: str, tmp_path: Path) -> None:
    checkpoint = made(tmp_path / "work")
    address = checkpoint_store.deposit(checkpoint, away)
    copy = checkpoint_store.fetch_checkpoint(address, tmp_path / "copy/checkpoint-000001")
    assert content(copy) == content(checkpoint)
    before = copy.stat().st_ino
    assert checkpoint_store.fetch_checkpoint(address, copy).stat().st_ino == before
    (copy / "model.safetensors").write_bytes(b"cut")
    assert content(checkpoint_store.fetch_checkpoint(address, copy)) == content(checkpoint)


@slow
def test_a_checkpoint_cut_short_on_its_way_is_not_there(away: str, tmp_path: Path) -> None:
    checkpoint = made(tmp_path / "work")

    def work() -> None:
        """In a program of its own: S3's threads do not survive a fork."""
        done = subprocess.run([sys.executable, "-c", DEPOSIT, checkpoint, away], check=False)
        os.kill(os.getpid(), -done.returncode)

    killed_at("depot.manifest:1:kill", tmp_path / "faults", work)
    assert happened(tmp_path / "faults") == ["depot.manifest:1:kill"]
    address = checkpoint_store.join_address(away, checkpoint.name)
    assert len(keys(address.removeprefix(f"s3://{BUCKET}/"))) == 3  # all but the manifest
    assert checkpoint_store.still_stored([address]) == set()
    with pytest.raises(Damaged, match=rf"{address}/manifest\.json: missing or not readable"):
        checkpoint_store.fetch_checkpoint(address, tmp_path / "copy")
    assert checkpoint_store.stored_damage(checkpoint_store.deposit(checkpoint, away)) is None


@slow
def test_a_trial_falls_back_on_the_checkpoint_before_a_damaged_one_and_says_so(
    away: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (checkpoint_store.deposit(made(tmp_path / "made", step), away) for step in (1, 2))
    checkpoint_store.write_address(f"{second}/model.safetensors", bytes(100_000))  # of the right size
    assert checkpoint_store.stored_damage(second) is None
    assignment = TrialConfig(3, "toy", {}, "sample", str(tmp_path / "work"), 1.0, 0.0, second, (first,), away)
    found = usable_checkpoint(assignment)
    assert found == tmp_path / "work/checkpoint-000001"
    assert damage(found) is None
    said = capsys.readouterr().out
    assert f"trial 3: checkpoint {second}/model.safetensors: missing or changed since it was written" in said


@slow
def test_what_was_never_reported_is_tidied_away(away: str, tmp_path: Path) -> None:
    first, second = (checkpoint_store.deposit(made(tmp_path / "made", step), away) for step in (1, 2))
    checkpoint_store.tidy(away, {first})
    assert checkpoint_store.still_stored([first, second]) == {first}


@slow
def test_a_bucket_is_read_through_a_cache_without_pickles(away: str, tmp_path: Path) -> None:
    stores = read_stores(tmp_path, {})
    checkpoint = made(tmp_path / "work")
    address = checkpoint_store.deposit(checkpoint, away)
    copy = find_checkpoint(address, stores)
    assert copy.is_relative_to(stores.root / "cache")
    assert {path.name for path in copy.iterdir()} == {"model.safetensors", "predictions.json", MANIFEST}
    shutil.rmtree(stores.root / "cache")
    assert damage(find_checkpoint(address, stores)) is None
    checkpoint_store.delete_stored([address])
    with pytest.raises(EnvironmentFailure, match=r"manifest\.json: missing or not readable"):
        find_checkpoint(address, stores)


@slow
def test_a_bucket_that_is_not_there_is_no_trials_fault(server: None, tmp_path: Path) -> None:
    nowhere = "s3://sweeper-nowhere/toy/0000"
    for attempt in (checkpoint_store.check_address, checkpoint_store.check_readable):
        with pytest.raises(StorageError, match=r"s3://sweeper-nowhere.*(NO_SUCH_BUCKET|does not exist)"):
            attempt(nowhere)
    checkpoint = made(tmp_path / "work")
    with pytest.raises(RuntimeError), recorded_failure(tmp_path / "work"):
        store_checkpoint(checkpoint, nowhere)
    assert (tmp_path / "work" / FAILURE).is_file()
    failure = read_failure(tmp_path / "work")
    assert failure.kind == "disk"
    assert nowhere in failure.reason
    assert checkpoint.is_dir()


@slow
def test_a_server_that_does_not_answer_is_an_environment_failure(
    server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_store, "MAX_ATTEMPTS", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    checkpoint_store._bucket_files.cache_clear()
    try:
        with pytest.raises(EnvironmentFailure) as refused:
            checkpoint_store.check_address(f"s3://{BUCKET}/x")
    finally:
        checkpoint_store._bucket_files.cache_clear()
    (line,) = refused.value.lines
    assert "Could not connect" in line
    assert line.endswith("check that it can be reached and takes files")
    assert "correct-horse" not in line
