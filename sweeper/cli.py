"""Provide the `sweeper` command. Importing a module of `commands` registers its commands."""

from sweeper.process.import_path import order_import_path

order_import_path()  # before the imports below, which a file in the working directory could replace

from sweeper.commands import data, release, results, setup, sweeps  # noqa: E402
from sweeper.commands.base import main  # noqa: E402

__all__ = ["data", "main", "release", "results", "setup", "sweeps"]
