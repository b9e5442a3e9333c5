"""Provide the `sweeper` command. Importing a module of `commands` registers its commands."""

from sweeper.commands import data, release, results, setup, sweeps
from sweeper.commands.base import main

__all__ = ["data", "main", "release", "results", "setup", "sweeps"]
