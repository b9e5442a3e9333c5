"""Find out if a trial was killed for want of memory: by the kernel, or by the memory monitor of Ray."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence

from sweeper.process.cgroups import MemoryState
from sweeper.trial.handover import ProcessAddress, TrialFailure

LOW_MEMORY = "running low on memory"  # ray 2.60: in the errors of all tasks whose process its monitor killed
USAGE = re.compile(r"Memory usage (\d+)B exceeded threshold of (\d+)B")  # ray 2.60, in the same errors
PROCESS_USAGE = re.compile(r"^(\d+)\t([\d.]+)\t", re.MULTILINE)  # the same: process id and GiB of the largest processes
HERE = ""  # the only node of a local session
UNEXPLAINED_SECONDS = 60.0  # a kill that explains no trial's death within this time was another process's


def monitor_failure(error: str, places: Sequence[ProcessAddress]) -> TrialFailure | None:
    """Return the failure of a trial that Ray's memory monitor killed; None if `error`, Ray's message, has another
    cause.

    places  processes of the trial; the message may tell how much memory they used
    """
    if LOW_MEMORY not in error:
        return None
    usage = USAGE.search(error)
    numbers = f" when {_gib(int(usage[1]))} were used; its threshold is {_gib(int(usage[2]))}" if usage else ""
    own = sum(float(size) for pid, size in PROCESS_USAGE.findall(error) if int(pid) in {place.pid for place in places})
    share = f"; the trial used {own:.2f} GiB" if own else ""
    reason = f"out of memory: Ray's memory monitor killed its process{numbers}{share}"
    return TrialFailure("memory", reason, killed=True)


def kernel_failure(state: MemoryState) -> TrialFailure:
    """Return the failure of a trial that the kernel killed, with the limit and, if it is known, the use of memory."""
    limit = f"the machine has {_gib(state.total)}"
    if state.limit:
        limit = f"the cgroup limit is {_gib(state.limit)}" + (f", used were {_gib(state.peak)}" if state.peak else "")
    return TrialFailure("memory", f"out of memory: the kernel killed its process; {limit}", killed=True)


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


class KernelKills:
    """Assign the kernel's out-of-memory kills to the trials that died.

    The kernel counts its kills and does not tell which processes they were. Each kill explains one death, so that a
    later death by `kill -9` counts as a crash.

    state_of  returns the present state of a node, by Ray's node id; None if the node does not answer
    local     True if all processes run on this machine, whose Ray gives it a new id in each session
    """

    def __init__(
        self,
        state_of: Callable[[str], MemoryState | None],
        local: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state_of = state_of
        self.local = local
        self.clock = clock
        self.explained: dict[str, int] = {}  # by node: the number of kills that need no explanation any more
        self.seen = (0, clock())  # the number of kills on this machine, and the time of its last change
        if local and (state := state_of(HERE)):
            self.explained[HERE] = state.kills

    def failure(self, places: Sequence[ProcessAddress]) -> TrialFailure | None:
        """Return the failure of a trial with these processes if the kernel killed one of them, else None.

        A process that was killed while it started has no address; it is looked for on this machine only.
        """
        nodes = [(HERE if self.local else place.node, place.kills) for place in places]
        found = [self._killed(*one) for one in nodes or ([(HERE, 0)] if self.local else [])]
        return next((kernel_failure(state) for state in found if state), None)

    def _killed(self, node: str, kills: int) -> MemoryState | None:
        """Return the state of a process's node if a kill there explains the death of the process.

        kills  number of kills when the process began
        """
        state = self.state_of(node)
        before = max(kills, self.explained.get(node, 0))
        if state is None or state.kills <= before:
            return None
        self.explained[node] = before + 1
        return state

    def forget(self) -> None:
        """Drop the kills that have explained no death for UNEXPLAINED_SECONDS. The driver calls this now and then.

        It does so for this machine only, since a question to each node of a cluster would cost too much.
        """
        if not self.local or (state := self.state_of(HERE)) is None:
            return
        if self.seen[0] != state.kills:
            self.seen = (state.kills, self.clock())
        elif self.clock() - self.seen[1] > UNEXPLAINED_SECONDS:
            self.explained[HERE] = state.kills
