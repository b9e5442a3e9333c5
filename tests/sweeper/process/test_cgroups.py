"""Control groups of version 1 and 2, as folders of files, and those of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.process.cgroups import cpu_quota, kernel_kills, machine_memory, memory_limit, memory_peak
from tests.support.cgroups import TOTAL_KIB, V1, V2, machine, prefixed, version_1, version_2

GIB = 2**30
UNLIMITED_V1 = "9223372036854771712\n"
CPU = "cpu,cpuacct"


def quota_v1(quota: int, group: str = "") -> dict[str, str]:
    return {f"{CPU}{group}/cpu.cfs_quota_us": f"{quota}\n", f"{CPU}{group}/cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("quota", "expected"),
    [(50_000, 0.5), (-1, None), (0, None), (250_000, 2.5)],
)
def test_version_1_has_a_quota_and_a_period(tmp_path: Path, quota: int, expected: float | None) -> None:
    assert cpu_quota(version_1(tmp_path, quota_v1(quota))) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [("50000 100000\n", 0.5), ("max 100000\n", None), ("", None), ("nonsense", None), ("150000 0\n", None)],
)
def test_version_2_has_both_in_one_file(tmp_path: Path, content: str, expected: float | None) -> None:
    assert cpu_quota(version_2(tmp_path, {"cpu.max": content})) == expected


def test_the_lowest_quota_of_all_ancestors_counts(tmp_path: Path) -> None:
    files = {
        **quota_v1(-1, "/batch/job"),
        **quota_v1(150_000, "/batch"),
        **quota_v1(400_000),
        **quota_v1(10_000, "/other"),
    }
    assert cpu_quota(version_1(tmp_path / "1", files, "/batch/job")) == 1.5
    files = {"a/b/cpu.max": "max 100000", "a/cpu.max": "25000 50000", "cpu.max": "300000 100000"}
    assert cpu_quota(version_2(tmp_path / "2", files, "/a/b")) == 0.5


@pytest.mark.parametrize(
    ("group", "mounted"),
    [
        ("/", "/"),  # a namespace of its own
        ("/docker/abc", "/docker/abc"),  # no namespace; the mount shows the container's group only
        ("/docker/abc", "/"),  # no namespace, and the folders of the host's names are not there
        ("/", "/../.."),  # the mount comes from outside of the namespace
        ("/../other", "/"),  # the process comes from outside of the namespace
    ],
)
def test_a_container_sees_its_limits_whatever_the_names_of_its_groups(tmp_path: Path, group: str, mounted: str) -> None:
    old = version_1(tmp_path / "1", {**quota_v1(50_000), "memory/memory.limit_in_bytes": f"{GIB}\n"}, group, mounted)
    new = version_2(tmp_path / "2", {"cpu.max": "50000 100000\n", "memory.max": f"{GIB}\n"}, group, mounted)
    for root in (old, new):
        assert (cpu_quota(root), memory_limit(root)) == (0.5, GIB)


def test_a_group_outside_of_the_mount_is_not_read(tmp_path: Path) -> None:
    files = {"cpu.max": "50000 100000\n", "../other/cpu.max": "10000 100000\n", "x/cpu.max": "10000 100000\n"}
    assert cpu_quota(version_2(tmp_path / "1", files, "/../other")) == 0.5
    assert cpu_quota(version_2(tmp_path / "2", files, "/x", mounted="/docker/x")) == 0.5


def test_a_hybrid_machine_is_read_in_both_versions(tmp_path: Path) -> None:
    mounts = V1.format(group="/", folder="/sys/fs/cgroup/memory", controller="memory")
    mounts += V2.format(group="/", folder="/sys/fs/cgroup/unified")
    files = prefixed(
        {
            "memory/job/memory.limit_in_bytes": f"{GIB}\n",
            "memory/job/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
            "unified/job/cpu.max": "150000 100000\n",
        }
    )
    root = machine(tmp_path, "4:memory:/job\n5:name=systemd:/x\n0::/job\n", mounts, files)
    assert (cpu_quota(root), memory_limit(root), kernel_kills(root)) == (1.5, GIB, 3)


def test_the_lowest_memory_limit_counts(tmp_path: Path) -> None:
    files = {"a/b/memory.max": "max\n", "a/memory.max": f"{2 * GIB}\n", "memory.max": f"{4 * GIB}\n"}
    root = version_2(tmp_path / "2", {**files, "a/memory.peak": f"{GIB}\n", "memory.peak": f"{3 * GIB}\n"}, "/a/b")
    assert (memory_limit(root), memory_peak(root)) == (2 * GIB, GIB)
    files = {"memory/a/memory.limit_in_bytes": UNLIMITED_V1, "memory/memory.limit_in_bytes": f"{3 * GIB}\n"}
    root = version_1(tmp_path / "1", {**files, "memory/memory.max_usage_in_bytes": f"{GIB}\n"}, "/a")
    assert (memory_limit(root), memory_peak(root)) == (3 * GIB, GIB)


def test_version_1_tells_of_a_limit_outside_the_container(tmp_path: Path) -> None:
    files = {
        "memory/memory.limit_in_bytes": UNLIMITED_V1,
        "memory/memory.stat": f"rss 5\nhierarchical_memory_limit {GIB}\n",
    }
    assert memory_limit(version_1(tmp_path, files)) == GIB


@pytest.mark.parametrize("limit", ["max\n", UNLIMITED_V1, f"{TOTAL_KIB * 1024}\n"])
def test_a_limit_that_the_machine_does_not_reach_is_none(tmp_path: Path, limit: str) -> None:
    root = version_2(tmp_path, {"memory.max": limit})
    assert (memory_limit(root), memory_peak(root), machine_memory(root)) == (None, None, TOTAL_KIB * 1024)


def test_kills_are_counted_in_the_innermost_group_that_counts_them(tmp_path: Path) -> None:
    counted = {"memory/a/memory.oom_control": "under_oom 0\noom_kill 2\n", "memory/memory.oom_control": "oom_kill 9\n"}
    assert kernel_kills(version_1(tmp_path / "1", counted, "/a")) == 2
    counted = {"a/memory.events": "oom 7\noom_kill 5\noom_group_kill 1\n", "memory.events": "oom_kill 9\n"}
    assert kernel_kills(version_2(tmp_path / "2", counted, "/a/b")) == 5  # b has no memory controller


@pytest.mark.parametrize("events", [{}, {"memory.events": "low 0\nhigh 0\n"}])
def test_without_a_count_of_the_group_the_machines_count_is_taken(tmp_path: Path, events: dict[str, str]) -> None:
    assert kernel_kills(version_2(tmp_path, events)) == 40


def test_missing_and_unreadable_files_are_no_limit(tmp_path: Path) -> None:
    nothing = (None, None, None, None, 0)
    (tmp_path / "empty").mkdir()
    damaged = version_2(tmp_path / "damaged", {})
    for name in ("proc/meminfo", "proc/vmstat"):
        (damaged / name).unlink()
    for name in ("cpu.max", "memory.max", "memory.events"):
        (damaged / "sys/fs/cgroup" / name).mkdir(parents=True)  # reading a folder is an error for root, too
    (damaged / "proc/self/mountinfo").write_bytes(b"1 2\n\xff\xfe - cgroup2\n")
    for root in (tmp_path / "empty", damaged):
        found = (cpu_quota(root), memory_limit(root), memory_peak(root), machine_memory(root), kernel_kills(root))
        assert found == nothing


def test_a_mount_whose_name_has_a_space_is_found(tmp_path: Path) -> None:
    mounts = V2.format(group="/", folder=r"/my\040groups")
    assert cpu_quota(machine(tmp_path, "0::/\n", mounts, {"my groups/cpu.max": "50000 100000"})) == 0.5


def test_this_machine_can_be_read() -> None:
    assert (machine_memory() or 0) > 2**28
    assert kernel_kills() >= 0
    assert (memory_limit() or 1) > 0
    assert (cpu_quota() or 1) > 0
