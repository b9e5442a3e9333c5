"""Define the errors that end a command with one line per mistake and an exit code instead of a traceback.

Failure
├── ConfigError        2   command line, search space, overrides
├── DataFailure        3   the data set
└── EnvironmentFailure 4   disk, tracking server, devices, models that cannot be loaded
"""

from __future__ import annotations

from collections.abc import Sequence


class Failure(Exception):
    """End a command with an exit code. Each line states a mistake, its cause and its cure."""

    exit_code = 1

    def __init__(self, lines: str | Sequence[str]) -> None:
        self.lines = (lines,) if isinstance(lines, str) else tuple(lines)
        super().__init__("\n".join(self.lines))


class ConfigError(Failure):
    exit_code = 2


class DataFailure(Failure):
    exit_code = 3


class NoPredictions(DataFailure):
    """Signal that a trial has no stored predictions to evaluate."""


class EnvironmentFailure(Failure):
    exit_code = 4
