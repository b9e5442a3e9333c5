"""Make the program fail at a named point, for tests. Off unless SWEEPER_FAULTS names a folder.

The folder's file `asked` has lines such as `ledger.report:3:kill`: kill the process that passes the point
`ledger.report` for the third time. Each fault happens once, in the first process that reaches it, and is then
recorded in the file `happened`. Standard library only.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

VARIABLE = "SWEEPER_FAULTS"
POINTS = {
    "checkpoint.rename": "all files of a checkpoint are written, its name does not exist yet",
    "checkpoint.report": "a checkpoint is whole, nobody has been told of it",
    "state.manifest": "the new manifest of an ended trial's checkpoint is written beside the old one",
    "state.delete": "a file is in no manifest any more, and still there",
    "database.create": "a new database, the ledger's or MLflow's, is complete, its name does not exist yet",
    "depot.manifest": "all other files of a checkpoint are in its bucket, its manifest is not",
    "identity.write": "the databases of a copied or moved root are adapted, its identity is the old one",
    "ledger.report": "an evaluation is about to be written to the ledger",
    "ledger.finish": "a trial's end is about to be written to the ledger",
    "promotion.copy": "a trial is to be champion, nothing of it is copied yet",
    "promotion.alias": "the new champion's files and version are there, its alias is not",
    "submission.rename": "all answers are written beside their file",
    "export.rename": "an exported folder is complete, its name does not exist yet",
    "retention.delete": "the ledger can do without a checkpoint that is still there",
    "mirror.put": "the ledger has a change, MLflow is about to be told",
}

_passed: Counter[tuple[str, str]] = Counter()


class Fault(NamedTuple):
    """Requests `action` when a process passes `point` for the `nth` time, counted from 1."""

    point: str
    nth: int
    action: str

    def __str__(self) -> str:
        return ":".join(map(str, self))


def parse_faults(text: str) -> list[Fault]:
    """Parse one fault from each line. Raises ValueError for an unknown point or action."""
    return [_fault(line) for line in text.split()]


def _fault(line: str) -> Fault:
    point, nth, action = [*line.split(":"), "", ""][:3]
    if point not in POINTS or action not in ACTIONS or not nth.isdecimal():
        raise ValueError(f"found {line!r}; write POINT:N:ACTION with {'|'.join(POINTS)}, {'|'.join(ACTIONS)}")
    return Fault(point, int(nth), action)


def point(name: str) -> None:
    """Fail here if a test asked for it. Otherwise only read one environment variable."""
    if VARIABLE not in os.environ:
        return
    folder = Path(os.environ[VARIABLE])
    wanted = _file_text(folder / "asked")
    _passed[wanted, name] += 1
    for fault in parse_faults(wanted):
        if fault.point == name and fault.nth == _passed[wanted, name] and _claim(fault, folder):
            ACTIONS[fault.action](name)


def happened(folder: Path) -> list[str]:
    """Return the faults that have happened, in order."""
    return _file_text(folder / "happened").split()


def _claim(fault: Fault, folder: Path) -> bool:
    """Return True for the first process that reaches a fault, and record the fault as happened."""
    if str(fault) in happened(folder):
        return False
    with (folder / "happened").open("a", encoding="utf-8") as file:
        file.write(f"{fault}\n")
    return True


def _file_text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _os_error(name: str) -> None:
    raise RuntimeError(f"fault asked for at {name}")


def _full(_: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # like the error of a failed write, this one names no file


def _memory(name: str) -> None:
    raise RuntimeError(f"CUDA out of memory (fault asked for at {name})")


def _hang(name: str) -> None:
    while True:
        time.sleep(3600)


ACTIONS: dict[str, Callable[[str], None]] = {
    "raise": _os_error,
    "full": _full,
    "memory": _memory,
    "hang": _hang,
    "freeze": lambda _: os.kill(os.getpid(), signal.SIGSTOP),
    "kill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
}
