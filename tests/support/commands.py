"""Run `sweeper` commands in the test's process."""

from __future__ import annotations

from click.testing import CliRunner, Result

from sweeper.cli import main


def invoke(*arguments: str) -> Result:
    """Run a `sweeper` command and return its exit code and output."""
    return CliRunner().invoke(main, arguments)
