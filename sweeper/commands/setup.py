"""Define the commands that set up and inspect an installation: ui, schema, params, init, doctor, cluster."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.files import disk_errors
from jobs.suggestions import shown
from sweeper.commands.base import data_mistakes, echo_line, main, show, table_forms
from sweeper.commands.completion import complete_folder, complete_job
from sweeper.errors import ConfigError, EnvironmentFailure

if TYPE_CHECKING:
    from jobs.dataset.survey import Survey
    from jobs.job import Job

DETAIL_COLUMN = 24  # where `doctor` prints a finding's detail


@main.command()
@click.option("--port", type=int, help="Use this port instead of the one in mlflow.ini.")
def ui_command(port: int | None) -> None:
    """Serve the MLflow pages of all sweeps, for this machine only."""
    from sweeper.storage.settings import read_stores
    from sweeper.tracking.server import serve

    serve(read_stores(), port, lambda url: click.echo(f"MLflow is at {url} until Ctrl-C", err=True))


@main.command()
def schema_command() -> None:
    """Print the JSON Schema of search-space files, for editors."""
    from sweeper.space.json_schema import json_schema_text

    click.echo(json_schema_text(), nl=False)


@main.command()
@click.argument("job", metavar="JOB", shell_complete=complete_job)
@table_forms("md", "json", json="Print one JSON array with an object for each parameter.")
def params_command(job: str, form: str) -> None:
    """Print the parameters of a job: type, bounds, default and help.

    JOB is a job's name, or an import path package.module:NAME.
    """
    from sweeper.results import table
    from sweeper.space.parameters import list_parameters, parameter_cells
    from sweeper.space.reading import import_job

    rows = list_parameters(import_job(job))
    if form == "json":
        click.echo(table.json_text(rows), nl=False)
    else:
        columns = list(rows[0])
        show(table.Table(columns, parameter_cells(rows), frozenset(columns)), form=form)


@main.command()
@click.argument("job", default="qa", metavar="[JOB]", shell_complete=complete_job)
@click.option(
    "--data",
    default="sample",
    show_default=True,
    metavar="FOLDER",
    shell_complete=complete_folder,
    help="Choose sizes for this data set.",
)
@click.option("--name", metavar="NAME", help="Name the sweep and its file (default: the job's name).")
def init_command(job: str, data: str, name: str | None) -> None:
    """Write a first search space, and schema.json for editors, into the current folder.

    JOB is a job's name, or an import path package.module:NAME. No file is overwritten.
    """
    from sweeper.cluster.capacity import local_machine
    from sweeper.space import starter
    from sweeper.space.reading import import_job
    from sweeper.space.sections import NAME

    found = import_job(job)
    name = starter.starter_name(found) if name is None else name
    if not re.fullmatch(NAME, name):
        raise ConfigError(f"--name: found {shown(name)}; use 1 to 64 of A-Z a-z 0-9 . _ - and no leading dot")
    refuse_existing(Path(f"{name}.yaml"))
    text = starter.starter_text(name, found, job, data, measured_data(found, job, data), local_machine().gpus > 0)
    with disk_errors(EnvironmentFailure, "run in a folder that can be written", Path(f"{name}.yaml").absolute()):
        current = starter.write_starter(Path(), name, text)
    if not current:
        click.echo("schema.json: this other file stays; `sweeper schema` prints the one of this version", err=True)
    click.echo(f"next: sweeper plan {name}.yaml   or   sweeper run {name}.yaml", err=True)


def refuse_existing(path: Path) -> None:
    """Raise ConfigError if there is a file, or a link to nothing, at `path`."""
    if path.is_symlink() or path.exists():
        raise ConfigError(f"{path}: exists already and is not overwritten; choose another name with --name")


def measured_data(found: Job, job: str, data: str) -> Survey | None:
    """Return the lengths of the data in tokens for a shipped job; only read the data for another job.

    Raises ConfigError if the job cannot read such data.
    """
    from jobs.dataset.data import read_data
    from jobs.dataset.survey import survey
    from sweeper.space.reading import unreadable_options
    from sweeper.space.starter import COUNTER, SIZES

    with data_mistakes():
        if problem := unreadable_options(found, read_data(data)):
            raise ConfigError(f"--data: {problem}")
        return survey(data, COUNTER) if job in SIZES else None


@main.command()
@click.option("--notify", is_flag=True, help="Send a test message to the address of `notify`.")
@click.pass_obj
def doctor_command(changed: dict[str, str], notify: bool) -> None:
    """Check versions, devices, stores and environment variables."""
    from sweeper.doctor import findings
    from sweeper.process.environment import FOREIGN_RAY, foreign_variables
    from sweeper.storage.settings import read_stores

    results = findings(read_stores(), changed | foreign_variables(os.environ, FOREIGN_RAY), notify)
    for finding in results:
        echo_line(f"{'ok  ' if finding.good else 'BAD '} {finding.what:<18} {finding.detail}", DETAIL_COLUMN)
    sys.exit(0 if all(finding.good for finding in results) else 4)


@main.group()
def cluster_group() -> None:
    """Print a commented file that starts a cluster or its stores."""


@cluster_group.command("ray-up")
def ray_up_command() -> None:
    """Print a file for `ray up` that starts AWS nodes on demand."""
    print_file("ray-up.yaml")


@cluster_group.command()
def kuberay_command() -> None:
    """Print a RayJob that runs a sweep on Kubernetes."""
    print_file("kuberay.yaml")


@cluster_group.command()
def slurm_command() -> None:
    """Print a Slurm job that runs a sweep, for `sbatch`."""
    print_file("slurm.sh")


@cluster_group.command()
def compose_command() -> None:
    """Print a file for `docker compose` with PostgreSQL, an S3-compatible server and MLflow."""
    print_file("compose.yaml")


def print_file(file: str) -> None:
    """Print a file of sweeper/cluster/files/. Its first lines explain its use."""
    from importlib.resources import files

    click.echo((files("sweeper.cluster") / "files" / file).read_text(encoding="utf-8"), nl=False)
    click.echo("next: save it as a file, read its first lines, and set the marked values", err=True)
