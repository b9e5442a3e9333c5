"""Read the limits of CPU, memory and processes of this process's control groups (cgroups), and out-of-memory kills.

Every function reads the files of version 1, version 2 or both below `root`; tests pass a folder with other files. A
file that is missing, unreadable or damaged counts as no limit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

ROOT = Path("/")
UNIFIED = ""  # name of the hierarchy of version 2 in /proc/self/cgroup


class Mount(NamedTuple):
    """Describe a mounted hierarchy: its controllers, the group at its root, and the folder that shows this group."""

    controllers: tuple[str, ...]
    group: str
    folder: Path


class MemoryState(NamedTuple):
    """Hold what is known about the memory of this process's groups and machine; sizes are in bytes.

    kills  processes that the kernel has killed for want of memory
    total  memory of the machine
    limit  lowest limit of the groups; None if the machine has no more than that
    peak   most bytes used in the group with that limit
    """

    kills: int
    total: int
    limit: int | None = None
    peak: int | None = None


def memory_state(root: Path = ROOT) -> MemoryState:
    return MemoryState(kernel_kills(root), machine_memory(root) or 0, memory_limit(root), memory_peak(root))


def cpu_quota(root: Path = ROOT) -> float | None:
    """Return the number of CPUs whose time the groups of this process may use; None without a quota."""
    quotas = [
        *(_quota_v1(folder) for folder in _lineage("cpu", root)),
        *(_quota_v2(folder) for folder in _lineage(UNIFIED, root)),
    ]
    return min((quota for quota in quotas if quota), default=None)


def _quota_v1(folder: Path) -> float | None:
    quota, period = _first_number(folder / "cpu.cfs_quota_us"), _first_number(folder / "cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 else None


def _quota_v2(folder: Path) -> float | None:
    found = re.match(r"(\d+) (\d+)", _group_file(folder / "cpu.max"))
    return int(found[1]) / int(found[2]) if found and int(found[2]) else None


def memory_limit(root: Path = ROOT) -> int | None:
    """Return the bytes that the groups of this process may use; None if the machine has no more than that."""
    limits = [limit for folder in _memory_folders(root) for limit in _limits(folder)]
    lowest, total = min(limits, default=None), machine_memory(root)
    return None if lowest is None or (total and lowest >= total) else lowest


def memory_peak(root: Path = ROOT) -> int | None:
    """Return the most bytes that the group with the lowest limit has used; None without a limit or a record."""
    limit = memory_limit(root)
    folders = (folder for folder in _memory_folders(root) if limit is not None and limit in _limits(folder))
    files = (folder / name for folder in folders for name in ("memory.max_usage_in_bytes", "memory.peak"))
    return next((peak for file in files if (peak := _first_number(file))), None)


def _limits(folder: Path) -> list[int]:
    """Return the limits of one group. Version 1 also records the lowest limit of groups that are not visible here."""
    found = [_first_number(folder / "memory.limit_in_bytes"), _first_number(folder / "memory.max")]
    return [limit for limit in (*found, _field(folder / "memory.stat", "hierarchical_memory_limit")) if limit]


def usable_memory(root: Path = ROOT) -> int | None:
    """Return the bytes of memory that this process may use; None if they are not known."""
    return memory_limit(root) or machine_memory(root)


def machine_memory(root: Path = ROOT) -> int | None:
    """Return the bytes of memory of this machine, without regard to groups."""
    found = _field(root / "proc/meminfo", "MemTotal:")
    return found * 1024 if found else None


def processes_left(root: Path = ROOT) -> int | None:
    """Return how many more processes and threads the groups of this process may have; None without a limit."""
    folders = [*_lineage("pids", root), *_lineage(UNIFIED, root)]
    counts = [(_first_number(folder / "pids.max"), _first_number(folder / "pids.current")) for folder in folders]
    return min((limit - used for limit, used in counts if limit is not None and used is not None), default=None)


def kernel_kills(root: Path = ROOT) -> int:
    """Return the number of processes that the kernel has killed for want of memory.

    Counts those of this process's group if the kernel counts them by group, else those of the machine.
    """
    files = [
        *(folder / "memory.oom_control" for folder in _lineage("memory", root)),
        *(folder / "memory.events" for folder in _lineage(UNIFIED, root)),
        root / "proc/vmstat",
    ]
    counts = (_field(file, "oom_kill") for file in files)
    return next((count for count in counts if count is not None), 0)


def _memory_folders(root: Path) -> list[Path]:
    return [*_lineage("memory", root), *_lineage(UNIFIED, root)]


def _lineage(controller: str, root: Path) -> list[Path]:
    """Return the folders of this process's group and of its ancestors, in the hierarchies with this controller."""
    group = _groups(root).get(controller)
    mounts = [mount for mount in _mounts(root) if controller in mount.controllers]
    return [] if group is None else [folder for mount in mounts for folder in _ancestry(group, mount)]


def _ancestry(group: str, mount: Mount) -> Iterator[Path]:
    """Yield the folders of a group and its ancestors, innermost first.

    In a container, a group may have a name that its mount does not show; then this is the root of the mount.
    """
    path = PurePosixPath(group)
    inside = path.is_relative_to(mount.group) and ".." not in path.parts
    below = path.relative_to(mount.group) if inside else PurePosixPath()
    yield from (mount.folder / step for step in (below, *below.parents))


def _groups(root: Path) -> dict[str, str]:
    """Return this process's group in each hierarchy, by the name of each controller."""
    lines = [line.split(":", 2) for line in _group_file(root / "proc/self/cgroup").splitlines()]
    return {name: fields[2] for fields in lines if len(fields) == 3 for name in fields[1].split(",")}


def _mounts(root: Path) -> list[Mount]:
    lines = _group_file(root / "proc/self/mountinfo").splitlines()
    return [mount for line in lines if (mount := _mount(line, root))]


def _mount(line: str, root: Path) -> Mount | None:
    """Parse a line of /proc/self/mountinfo; see proc(5). Return None for another file system."""
    place, _, source = line.partition(" - ")
    fields, kind = place.split(), source.split()
    if len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
        return None
    controllers = tuple(kind[2].split(",")) if kind[0] == "cgroup" else (UNIFIED,)
    group, folder = (re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), field) for field in fields[3:5])
    return Mount(controllers, group, root / folder.lstrip("/"))


def _field(file: Path, name: str) -> int | None:
    """Return the number after a name in a file with a name and a number in each line."""
    found = re.search(rf"^{re.escape(name)}\s+(\d+)", _group_file(file), re.MULTILINE)
    return int(found[1]) if found else None


def _first_number(file: Path) -> int | None:
    found = re.match(r"-?\d+", _group_file(file))
    return int(found[0]) if found else None


def _group_file(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, ValueError):
        return ""
