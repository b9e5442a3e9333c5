"""Make a folder with the files of `/proc` and `/sys` that describe control groups."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

TOTAL_KIB = 8 * 2**20  # 8 GiB
V1 = "31 30 0:29 {group} {folder} rw,relatime - cgroup cgroup rw,{controller}\n"
V2 = "38 31 0:38 {group} {folder} rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n"


def machine(folder: Path, groups: str, mounts: str, files: Mapping[str, str] | None = None) -> Path:
    """Return `folder` as the root of a machine with 8 GiB.

    groups  content of /proc/self/cgroup
    mounts  content of /proc/self/mountinfo
    files   contents by path, such as sys/fs/cgroup/cpu.max
    """
    proc = {
        "proc/self/cgroup": groups,
        "proc/self/mountinfo": "22 1 0:20 / /proc rw - proc proc rw\n" + mounts,
        "proc/meminfo": f"MemTotal:       {TOTAL_KIB} kB\nMemFree:        1024 kB\n",
        "proc/vmstat": "nr_free_pages 1\noom_kill 40\n",
    }
    for name, content in {**proc, **(files or {})}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def version_1(folder: Path, files: Mapping[str, str], group: str = "/", mounted: str = "/") -> Path:
    """Return a machine with the controllers `cpu` and `memory` of version 1. `mounted` is the group at the mounts."""
    mounts = "".join(
        V1.format(group=mounted, folder=f"/sys/fs/cgroup/{place}", controller=names)
        for place, names in (("cpu,cpuacct", "cpu,cpuacct"), ("memory", "memory"))
    )
    return machine(folder, f"4:memory:{group}\n1:cpu,cpuacct:{group}\n", mounts, prefixed(files))


def version_2(folder: Path, files: Mapping[str, str], group: str = "/", mounted: str = "/") -> Path:
    """Return a machine with version 2. `mounted` is the group at the mount."""
    return machine(folder, f"0::{group}\n", V2.format(group=mounted, folder="/sys/fs/cgroup"), prefixed(files))


def prefixed(files: Mapping[str, str]) -> dict[str, str]:
    return {f"sys/fs/cgroup/{name}": content for name, content in files.items()}
