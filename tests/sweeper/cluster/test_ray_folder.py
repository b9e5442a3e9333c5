from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeper.cluster import ray_folder
from sweeper.cluster.ray_folder import MARK, RAY, locked_folder, private_folder, remove_abandoned, renew
from tests.support.limits import ending_of

ROOT = Path(__file__).parents[3]
DRIVER = """\
import sys, signal
from pathlib import Path
from sweeper.cluster.ray_folder import locked_folder
folder, lock = locked_folder(Path(sys.argv[1]))
(folder / "ray/session_1/logs").mkdir(parents=True)
print(folder, flush=True)
signal.pause()
"""


@pytest.fixture
def temp() -> Iterator[Path]:
    """A folder for temporary files, with a path that is short enough for sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as folder:
        yield Path(folder)


@pytest.fixture
def driver(temp: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that holds a folder, and the folder."""
    command = [sys.executable, "-c", DRIVER, str(temp)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def old_folder(temp: Path, name: str = "sweeper-abcdefgh") -> Path:
    """As a driver of an earlier version leaves it: no mark, nobody's lock, and some hours old."""
    folder = temp / name
    folder.mkdir(mode=0o700)
    (folder / "ray/session_1/sockets").mkdir(parents=True)
    earlier = time.time() - 3 * ray_folder.SETTLED_SECONDS
    os.utime(folder, (earlier, earlier))
    return folder


def test_what_a_dead_driver_left_is_removed_and_a_live_ones_folder_stays(
    temp: Path, driver: tuple[subprocess.Popen[str], Path]
) -> None:
    process, folder = driver
    remove_abandoned(temp)
    assert (folder / RAY / "session_1/logs").is_dir()
    process.send_signal(signal.SIGKILL)
    process.wait()
    remove_abandoned(temp)
    assert not folder.exists()


def test_a_folder_of_an_earlier_version_is_removed_once_nobody_answers_in_it(temp: Path) -> None:
    folder = old_folder(temp)
    with socket.socket(socket.AF_UNIX) as raylet:
        raylet.bind(str(folder / "ray/session_1/sockets/raylet"))
        raylet.listen()
        remove_abandoned(temp)
        assert folder.exists()
    remove_abandoned(temp)
    assert not folder.exists()


def test_nothing_else_is_removed(temp: Path) -> None:
    young = temp / "sweeper-12345678"
    (young / RAY).mkdir(parents=True, mode=0o700)
    young.chmod(0o700)
    (temp / "sweeper-empty000").mkdir(mode=0o700)
    notes = old_folder(temp, "sweeper-notes")  # not a name that `mkdtemp` makes
    foreign = old_folder(temp, "sweeper-foreign0")
    (foreign / "mine.txt").touch()
    shared = old_folder(temp, "sweeper-shared00")
    shared.chmod(0o755)
    target = old_folder(temp, "target")
    (temp / "sweeper-link0000").symlink_to(target)
    (temp / "sweeper-file0000").touch(mode=0o700)
    before = sorted(temp.rglob("*"))
    remove_abandoned(temp)
    assert sorted(temp.rglob("*")) == before
    assert notes.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_folder_of_another_user_stays(temp: Path) -> None:
    folder = old_folder(temp)
    (folder / MARK).touch()
    os.chown(folder, 12345, 12345)
    remove_abandoned(temp)
    assert (folder / RAY).exists()


@pytest.mark.parametrize("left", [(MARK, RAY), (MARK,)])
def test_a_removal_that_was_killed_is_finished_by_the_next_start(temp: Path, left: tuple[str, ...]) -> None:
    folder, lock = locked_folder(temp)
    if RAY in left:
        (folder / "ray/session_1").mkdir(parents=True)
    os.close(lock)
    remove_abandoned(temp)
    assert list(temp.iterdir()) == []


def test_a_start_that_meets_a_removal_gets_a_folder_that_stays(temp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Path] = []
    opening = ray_folder.open_folder

    def removed_once(folder: Path) -> int:
        lock = opening(folder)
        if not taken:
            folder.rmdir()
        taken.append(folder)
        return lock

    monkeypatch.setattr(ray_folder, "open_folder", removed_once)
    folder, lock = locked_folder(temp)
    os.close(lock)
    assert len(taken) == 2
    assert folder == taken[1]
    assert (folder / MARK).is_file()


def test_a_session_removes_its_folder_at_its_end(temp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_folder, "gettempdir", lambda: str(temp))
    with private_folder() as ray:
        (ray / "session_1").mkdir(parents=True)
        assert ray.parent.stat().st_mode & 0o077 == 0
        assert ending_of(lambda: remove_abandoned(temp)) == 0  # another driver starts meanwhile
        assert (ray / "session_1").is_dir()
    assert list(temp.iterdir()) == []


def test_renewed_files_are_not_old(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    for path in (tmp_path / "logs/raylet.out", tmp_path / "logs"):
        path.touch()
        os.utime(path, (0, 0))
    renew(tmp_path)
    assert min(path.stat().st_mtime for path in tmp_path.rglob("*")) > time.time() - 3600
