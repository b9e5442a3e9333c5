from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from sweeper.cluster import obstacles
from sweeper.cluster.obstacles import PROCESSES, disk_obstacle, group_obstacle, process_obstacle, start_obstacle
from sweeper.cluster.ray_session import start_failure_line, temporary_folder
from sweeper.errors import EnvironmentFailure
from tests.support.cgroups import version_1, version_2
from tests.support.limits import fill, mounted

ROOT = Path(__file__).parents[3]
PRINT = "from sweeper.cluster.obstacles import loopback_obstacle; print(loopback_obstacle())"


def test_this_machine_has_none(tmp_path: Path) -> None:
    assert start_obstacle(tmp_path) is None


def test_a_network_without_loopback_is_one() -> None:
    command = ["unshare", "--net", "--map-root-user", sys.executable, "-c", PRINT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    if "unshare" in done.stderr:
        pytest.skip(done.stderr)
    assert done.stdout.startswith("no connection to 127.0.0.1: ")
    assert "`ip link set lo up`" in done.stdout


def test_a_low_limit_of_processes_is_one_but_not_for_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: None)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (PROCESSES + 99, PROCESSES + 99))
    monkeypatch.setattr(obstacles, "threads_of", lambda user: 100)
    assert "leaves 224" in str(process_obstacle(4242))
    assert "`ulimit -u 550`" in str(process_obstacle(4242))
    assert process_obstacle(0) is None
    monkeypatch.setattr(obstacles, "threads_of", lambda user: 99)
    assert process_obstacle(4242) is None


def test_threads_count_as_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "process_iter", lambda: [psutil.Process()])
    before, over = obstacles.threads_of(os.getuid()), threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    assert obstacles.threads_of(os.getuid()) == before + 1
    over.set()
    assert obstacles.threads_of(os.getuid() + 1) == 0


@pytest.mark.parametrize("machine", [version_1, version_2])
def test_a_containers_limit_of_processes_is_one(tmp_path: Path, machine: object) -> None:
    prefix = "pids/" if machine is version_1 else ""
    root = machine(tmp_path, {f"{prefix}pids.max": "150\n", f"{prefix}pids.current": "6\n"})  # type: ignore[operator]
    if machine is version_1:
        with (root / "proc/self/cgroup").open("a") as groups, (root / "proc/self/mountinfo").open("a") as mounts:
            groups.write("7:pids:/\n")
            mounts.write("31 30 0:29 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n")
    assert "leaves 144" in str(group_obstacle(root))
    (root / f"sys/fs/cgroup/{prefix}pids.max").write_text("max\n")
    assert group_obstacle(root) is None
    (root / f"sys/fs/cgroup/{prefix}pids.max").write_text(f"{PROCESSES + 6}\n")
    assert group_obstacle(root) is None


def test_a_full_disk_for_temporary_files_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mounted(tmp_path / "disk", "4m") as disk:
        assert disk_obstacle(disk) is None
        fill(disk)
        assert f"{disk}: No space left on device (0 bytes free); free disk space" in str(disk_obstacle(disk))
    monkeypatch.setattr("sweeper.cluster.ray_folder.gettempdir", lambda: "/tmp/none")
    with pytest.raises(EnvironmentFailure, match="No such file or directory; make room there"), temporary_folder():
        pass


def test_what_ray_says_at_a_failed_start_is_one_line(tmp_path: Path) -> None:
    line = start_failure_line(Exception("The node timed out.\nTraceback: a long story"), tmp_path)
    assert line.startswith("Ray cannot start; The node timed out. Traceback: a long story; check that memory")
    assert "\n" not in line
    assert "Ray cannot start; KeyError; check" in start_failure_line(KeyError(), tmp_path)
