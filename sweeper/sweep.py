"""One sweep: its search space, its record, its machine, and where its files lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sweeper.capacity import Machine
from sweeper.ledger import Ledger
from sweeper.search_space import SearchSpace


@dataclass(frozen=True)
class Sweep:
    ledger: Ledger
    space: SearchSpace
    folder: Path
    machine: Machine

    @property
    def log(self) -> Path:
        """What libraries print while the sweep runs."""
        return self.folder / "log.txt"

    @property
    def ray_folder(self) -> Path:
        return self.folder / "ray"

    def workdir(self, number: int) -> Path:
        """A trial's own folder: its checkpoints and its log."""
        return self.folder / "trials" / f"{number:04d}"
