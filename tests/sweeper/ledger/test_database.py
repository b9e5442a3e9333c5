"""The ledger's database when it is cut short, locked, full, out of reach, or made by another version."""

from __future__ import annotations

import contextlib
import json
import os
import random
import sqlite3
import stat
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner
from optuna.storages import RDBStorage
from sqlalchemy import event

from sweeper.cli import main
from sweeper.driver import opening
from sweeper.driver.repeats import resume_summary
from sweeper.errors import EnvironmentFailure
from sweeper.ledger import database
from sweeper.ledger.database import existing_storage, open_storage
from sweeper.ledger.ledger import Ledger, create_ledger, load_ledger, sweep_names
from sweeper.results.comparison import comparison_rows
from sweeper.space.search_space import SearchSpace
from tests.support.limits import descriptors_used_up, fill, killed_at, locked, mounted

Make = Callable[..., SearchSpace]
EPOCHS = 4
FIXTURES = sorted((Path(__file__).parents[2] / "ledgers").glob("*.sql"))


def evaluation(epoch: int) -> dict[str, float]:
    return {"height": epoch / 10, "eval_loss": 0.5, "epoch": float(epoch), "seconds": 1.0}


def tried(ledger: Ledger, space: SearchSpace) -> None:
    """A trial from asking to its end."""
    record = ledger.ask(space)
    assert record is not None
    for epoch in range(1, EPOCHS + 1):
        ledger.report(record.number, evaluation(epoch), None)
    ledger.finish(record.number, "COMPLETE")


def tried_for_ever(ledger: Ledger, space: SearchSpace) -> None:
    """Until the database takes no more; its file has some room of its own."""
    while True:
        tried(ledger, space)


@pytest.fixture
def used(storage: RDBStorage, toy_space: Make) -> Ledger:
    """A sweep of two finished trials."""
    ledger = create_ledger(storage, toy_space(), "toy")
    for _ in range(2):
        tried(ledger, toy_space())
    return ledger


def file_of(ledger: Ledger) -> Path:
    return Path(str(ledger.storage.engine.url.database))


# cut short


def test_a_ledger_cut_short_anywhere_has_every_trial_or_is_refused(used: Ledger, tmp_path: Path) -> None:
    """Around every page's boundary and in its middle; an empty file is no new ledger."""
    content, whole, page = file_of(used).read_bytes(), used.records(), 4096
    near = (-1, 0, 1, 100, page // 2)
    cuts = sorted({start + by for start in range(0, len(content), page) for by in near} & set(range(len(content))))
    torn, refused = tmp_path / "torn.db", 0
    for cut in cuts:
        torn.write_bytes(content[:cut])
        with pytest.raises(EnvironmentFailure) as caught:
            load_ledger(existing_storage(f"sqlite:///{torn}"), "toy")
        assert len(caught.value.lines) == 1
        assert str(torn) in caught.value.lines[0]
        assert "restore a backup" in caught.value.lines[0]
        assert torn.read_bytes() == content[:cut]  # whatever can be saved from it is still there
        refused += 1
    assert refused > 100
    torn.write_bytes(content)
    assert load_ledger(existing_storage(f"sqlite:///{torn}"), "toy").records() == whole


@pytest.mark.long
def test_a_ledger_cut_short_at_any_byte_is_known(used: Ledger, tmp_path: Path) -> None:
    content, torn = file_of(used).read_bytes(), tmp_path / "torn.db"
    torn.write_bytes(content)
    assert database.file_damage(torn) is None
    for cut in reversed(range(len(content))):
        os.truncate(torn, cut)
        assert refused(torn), cut


def refused(file: Path) -> bool:
    try:
        return database.file_damage(file) is not None
    except sqlite3.DatabaseError as error:  # `reachable` makes a line of it
        return "malformed" in str(error)


def test_a_ledger_whose_pages_are_swapped_is_refused(used: Ledger, tmp_path: Path) -> None:
    content = file_of(used).read_bytes()
    broken = tmp_path / "broken.db"
    broken.write_bytes(content[:4096] + content[8192:12288] + content[4096:8192] + content[12288:])
    with pytest.raises(EnvironmentFailure, match="malformed"):
        open_storage(f"sqlite:///{broken}")


def test_what_was_being_written_when_a_process_was_killed_is_undone(used: Ledger, tmp_path: Path) -> None:
    """SQLite's journal, as it lies there after a kill in the middle of a transaction."""
    file, before = file_of(used), used.records()
    copy = tmp_path / "copy.db"
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as writer:
        writer.execute("PRAGMA cache_size = 1")
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM trial_user_attributes")
        writer.execute("DELETE FROM trials")
        for suffix in ("", "-journal"):
            Path(f"{copy}{suffix}").write_bytes(Path(f"{file}{suffix}").read_bytes())
        writer.execute("ROLLBACK")
    assert load_ledger(open_storage(f"sqlite:///{copy}"), "toy").records() == before


def test_a_process_killed_while_it_makes_the_database_leaves_none(tmp_path: Path) -> None:
    file = tmp_path / "deep/ledger.db"
    killed_at("database.create:1:kill", tmp_path / "log", lambda: open_storage(f"sqlite:///{file}"))
    assert not file.exists()
    assert sweep_names(open_storage(f"sqlite:///{file}")) == []
    assert not list(file.parent.glob(".*"))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_processes_that_begin_at_once_make_one_database(tmp_path: Path, toy_space: Make) -> None:
    barrier, failed, space = threading.Barrier(8), [], toy_space()

    def begin(number: int) -> None:
        barrier.wait(30)
        try:
            create_ledger(open_storage(f"sqlite:///{tmp_path}/new/ledger.db"), space, f"toy{number}")
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    names = sweep_names(existing_storage(f"sqlite:///{tmp_path}/new/ledger.db"))
    assert sorted(names) == [f"toy{number}" for number in range(8)]


# single bits and rows that are damaged


def changed(ledger: Ledger, statement: str) -> Path:
    """Change a row as a damaged bit does, without the database's own checks."""
    ledger.storage.engine.dispose()
    with contextlib.closing(sqlite3.connect(file_of(ledger))) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        assert connection.execute(statement).rowcount
    return file_of(ledger)


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE trial_user_attributes SET value_json = replace(value_json, ':', ';')", "no JSON"),
        ("UPDATE study_user_attributes SET value_json = '[\"height' WHERE key = 'metrics'", "no JSON"),
        ("UPDATE trial_params SET distribution_json = 'x'", "no JSON"),
        ("UPDATE trials SET state = 'CNMPLETE' WHERE number = 0", "an unknown state"),
        ("UPDATE trials SET datetime_start = '2026-1w-29 10:00:00' WHERE number = 0", "an unknown date"),
        ("UPDATE study_directions SET direction = 'MAXIMIZF'", "an unknown direction"),
        ("UPDATE trial_values SET value_type = 'FINITD'", "an unknown kind of value"),
        ("UPDATE trial_intermediate_values SET intermediate_value_type = 'x'", "an unknown kind of value"),
        ("UPDATE trial_user_attributes SET key = 'pazams' WHERE key = 'params'", "without its parameters"),
        (
            "UPDATE study_user_attributes SET key = 'search_spaca' WHERE key = 'search_space'",
            "without its search space",
        ),
        ("UPDATE trial_user_attributes SET trial_id = 77 WHERE key = 'key' AND trial_id = 1", "belongs to nothing"),
    ],
)
def test_a_damaged_row_is_refused_in_one_line(used: Ledger, statement: str, told: str) -> None:
    file = changed(used, statement)
    with pytest.raises(EnvironmentFailure, match=told) as caught:
        existing_storage(f"sqlite:///{file}")
    assert len(caught.value.lines) == 1
    assert f"ledger {file}: malformed, " in caught.value.lines[0]
    assert "restore a backup" in caught.value.lines[0]


def test_a_damaged_name_in_the_schema_is_refused_in_one_line(used: Ledger) -> None:
    used.storage.engine.dispose()
    content = file_of(used).read_bytes()
    damaged = content.replace(b"tabletrial_valuestrial_values", b"tabletri\xe1l_valuestrial_values")
    assert damaged != content
    file_of(used).write_bytes(damaged)
    with pytest.raises(EnvironmentFailure, match="malformed") as caught:
        existing_storage(used.storage.url)
    assert len(caught.value.lines) == 1


def test_values_that_only_python_reads_as_json_are_no_damage(used: Ledger) -> None:
    used.set_attribute("odd", [float("nan"), float("inf")])
    assert database.file_damage(file_of(used)) is None


def test_an_error_from_a_damaged_sweep_ends_a_command_in_one_line(
    used: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage that is valid in the database: a number became a text."""
    statement = "UPDATE trial_user_attributes SET value_json = '7' WHERE key LIKE 'evaluation:%'"
    file = changed(used, statement)
    monkeypatch.setenv("SWEEPER_LEDGER", f"sqlite:///{file}")
    done = CliRunner().invoke(main, ["compare", "toy"])
    assert done.exit_code == 4, done.output
    line = f"ledger {file}: malformed, sweep toy cannot be read (TypeError); restore a backup"
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1


def test_an_error_that_is_not_the_ledgers_stays_one(used: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPER_LEDGER", used.storage.url)

    def broken(_: object) -> None:
        raise TypeError("a mistake of the program")

    monkeypatch.setattr("sweeper.results.comparison.compare_sweeps", broken)
    assert isinstance(CliRunner().invoke(main, ["compare", "toy"]).exception, TypeError)


def test_a_ledger_that_does_not_exist_yet_is_no_cause_of_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEPER_LEDGER", f"sqlite:///{tmp_path / 'ledger.db'}")

    def broken(_: object) -> None:
        raise TypeError("a mistake of the program")

    monkeypatch.setattr("jobs.answering.submission.read_answers", broken)
    assert isinstance(CliRunner().invoke(main, ["score", "a.csv", "b.csv"]).exception, TypeError)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_flipped_bit_anywhere_is_read_or_refused_in_one_line(
    used: Ledger, monkeypatch: pytest.MonkeyPatch, record_property: Callable[..., None]
) -> None:
    """200 bits drawn by a fixed seed. Each command either works or says one line, and no trial vanishes."""
    used.storage.engine.dispose()
    file, chance = file_of(used), random.Random(15)
    content = file.read_bytes()
    monkeypatch.setenv("SWEEPER_LEDGER", f"sqlite:///{file}")
    refused = 0
    for bit in [chance.randrange(8 * len(content)) for _ in range(200)]:
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        for command in (["status", "toy"], ["ls"], ["compare", "toy", "--json"]):
            file.write_bytes(flipped)
            done = CliRunner().invoke(main, command)
            assert done.exception is None or isinstance(done.exception, SystemExit), (bit, command, done.exception)
            assert done.exit_code in (0, 2, 4), (bit, command, done.output)
            assert done.exit_code == 0 or done.stderr.count("\n") == 1, (bit, command, done.stderr)
            refused += done.exit_code != 0
        if done.exit_code == 0:
            assert len(json.loads(done.stdout)) == 2, bit
    record_property("refused", refused)
    print(f"{refused} of 600 commands refused")


# locked


def test_a_short_lock_is_not_noticed(used: Ledger, toy_space: Make) -> None:
    with used.storage.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 1000 * database.BUSY_SECONDS
    with locked(file_of(used)) as lock:
        release = threading.Timer(0.3, lock.rollback)
        release.start()
        began = time.monotonic()
        tried(used, toy_space())
        assert time.monotonic() - began > 0.2  # it did have to wait
        release.join()
    assert [record.state for record in used.records()] == ["COMPLETE"] * 3


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.long
def test_a_lock_of_seconds_is_not_noticed_and_one_that_stays_is_told(used: Ledger, toy_space: Make) -> None:
    with locked(file_of(used)) as lock:
        release = threading.Timer(5, lock.rollback)
        release.start()
        tried(used, toy_space())
        release.join()
    before = used.records()
    with locked(file_of(used)):
        began = time.monotonic()
        told = pytest.raises(EnvironmentFailure, match="database is locked; end the process")
        with told, database.database_errors(used.storage.url):
            tried(used, toy_space())
        assert time.monotonic() - began < 2 * database.BUSY_SECONDS
    assert used.records() == before
    tried(used, toy_space())
    assert len(used.records()) == len(before) + 1


def test_a_long_lock_is_one_line_and_loses_nothing(used: Ledger, toy_space: Make) -> None:
    before, address = used.records(), f"{used.storage.url}?timeout=0.1"
    ledger = load_ledger(open_storage(address), "toy")
    with locked(file_of(used)):
        for work in (lambda: tried(ledger, toy_space()), lambda: open_storage(address)):
            raised = pytest.raises(EnvironmentFailure, match="database is locked; end the process")
            with raised as caught, database.database_errors(address):
                work()
            assert len(caught.value.lines) == 1
            assert str(file_of(used)) in caught.value.lines[0]
    assert used.records() == before
    tried(ledger, toy_space())
    assert len(used.records()) == 3


def test_what_the_database_says_is_found_in_an_error_around_it(used: Ledger) -> None:
    """Ray Tune puts the traceback of what a callback raises into a TuneError."""
    address = f"{used.storage.url}?timeout=0.1"
    ledger = load_ledger(open_storage(address), "toy")

    def around() -> None:
        try:
            ledger.records()
        except Exception:
            raise RuntimeError("a long traceback")  # noqa: B904

    raised = pytest.raises(EnvironmentFailure, match="database is locked")
    with locked(file_of(used)), raised, database.database_errors(address):
        around()
    with pytest.raises(RuntimeError, match="the hill is closed"), database.database_errors(address):
        raise RuntimeError("the hill is closed")


# full, read-only, no descriptors


def test_a_full_disk_is_one_line_with_the_bytes_free_and_loses_nothing(tmp_path: Path, toy_space: Make) -> None:
    with mounted(tmp_path / "disk", "2m") as disk:
        address = f"sqlite:///{disk}/ledger.db"
        ledger = create_ledger(open_storage(address), toy_space(), "toy")
        tried(ledger, toy_space())
        filler, before = fill(disk), ledger.records()
        raised = pytest.raises(EnvironmentFailure, match=r"disk is full.*\(0 bytes free\)")
        with raised as caught, database.database_errors(address):
            tried_for_ever(ledger, toy_space())
        assert len(caught.value.lines) == 1
        assert str(disk) in caught.value.lines[0]
        assert ledger.records()[: len(before)] == before
        assert database.file_damage(disk / "ledger.db") is None
        filler.unlink()
        ledger.repair(toy_space())
        tried(ledger, toy_space())
        assert ledger.records()[-1].state == "COMPLETE"
        ledger.storage.engine.dispose()


def test_a_disk_without_room_for_a_new_database_gets_none(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "64k") as disk:
        with pytest.raises(EnvironmentFailure, match="full") as caught:
            open_storage(f"sqlite:///{disk}/ledger.db")
        assert len(caught.value.lines) == 1
        assert not (disk / "ledger.db").exists()


def test_a_process_without_descriptors_is_told_the_limit_to_raise(used: Ledger, tmp_path: Path) -> None:
    with descriptors_used_up(), pytest.raises(EnvironmentFailure, match="raise the limit with `ulimit -n") as caught:
        open_storage(f"sqlite:///{tmp_path}/other.db")
    assert len(caught.value.lines) == 1
    assert len(load_ledger(open_storage(used.storage.url), "toy").records()) == 2


def test_no_descriptor_stays_open(used: Ledger) -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = open_files()
    for _ in range(20):
        storage = open_storage(used.storage.url)
        assert len(load_ledger(storage, "toy").records()) == 2
        storage.engine.dispose()
    assert open_files() <= before


# many trials


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_thousand_trials_cost_a_bounded_time_each(
    storage: RDBStorage, toy_space: Make, record_property: Callable[..., None]
) -> None:
    """Without the disk's own time to confirm a write, which is the same for the first trial and the last."""
    storage.engine.dispose()
    event.listen(storage.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    space = toy_space("search.sampler=random", "search.trials=1000")
    ledger, seconds = create_ledger(storage, space, "toy"), []
    for _ in range(10):
        began = time.process_time()
        for _ in range(100):
            record = ledger.ask(space)
            assert record is not None
            ledger.report(record.number, evaluation(1), None)
            ledger.finish(record.number, "PRUNED", "enough")
        seconds.append((time.process_time() - began) / 100)
    began = time.process_time()
    records = load_ledger(open_storage(storage.url), "toy").records()
    took = time.process_time() - began
    told = f"{seconds[0]:.3f} s of work for each of the first 100 trials, {seconds[-1]:.3f} s of the last 100"
    record_property("overhead", told)
    print(f"{told}; {took:.2f} s to open and read all, {file_of(ledger).stat().st_size:,} bytes")
    assert len(records) == len({record.key for record in records}) == 1000
    assert seconds[-1] < 5 * seconds[0]
    assert database.file_damage(file_of(ledger)) is None


# made by another version


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.stem)
def test_the_ledger_of_an_earlier_version_opens_and_goes_on(fixture: Path, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db")) as database:
        database.executescript(fixture.read_text(encoding="utf-8"))
    ledger = load_ledger(existing_storage(f"sqlite:///{tmp_path}/ledger.db"), "toy")
    records = ledger.records()
    assert [record.state for record in records] == ["COMPLETE", "PRUNED", "FAIL", "RUNNING", "RUNNING"]
    assert [len(record.evaluations) for record in records] == [4, 2, 1, 2, 1]
    first, pruned, failed, _, again = records
    assert (first.value, first.epochs, first.run_id, first.test) == (0.4, 4.0, "run-0", 0.25)
    assert (pruned.value, failed.reason) == (0.3, "Diverged: height is nan at epoch 2")
    assert (again.repeat_of, again.params) == (0, {**first.params, "seed": 43})
    assert sorted(row["trial"] for row in comparison_rows(records, ledger.direction)) == [
        0,
        1,
        2,
        3,
    ]  # 4 is 0 again
    assert ledger.attributes["versions"]["sweeper"] == fixture.stem
    space = opening.space_of(ledger)
    assert resume_summary(records, space) == "3 of 6 trials are finished, 2 start again, 1 is new"
    tried(ledger, space)
    assert load_ledger(open_storage(ledger.storage.url), "toy").records()[-1].state == "COMPLETE"


def test_there_is_a_ledger_of_this_version() -> None:
    assert version("sweeper") in [path.stem for path in FIXTURES]


def test_a_ledger_of_another_optuna_says_how_to_migrate(used: Ledger) -> None:
    used.storage.engine.dispose()
    with contextlib.closing(sqlite3.connect(file_of(used))) as database, database:
        database.execute("UPDATE version_info SET schema_version = 99")
        database.execute("UPDATE alembic_version SET version_num = 'v99.0.0'")
    with pytest.raises(EnvironmentFailure, match="optuna storage upgrade --storage") as caught:
        open_storage(used.storage.url)
    assert len(caught.value.lines) == 1
