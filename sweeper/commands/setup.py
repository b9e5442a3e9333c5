"""Commands that set up and inspect an installation: ui, schema, doctor, cluster."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    pass
from sweeper.commands.base import main, show, table_forms


@main.command()
@click.option("--port", type=int, help="Instead of the one in mlflow.ini.")
def ui_command(port: int | None) -> None:
    """Serve the MLflow pages of all sweeps on this machine's loopback address."""
    from sweeper.storage.settings import read_stores
    from sweeper.tracking.server import serve

    serve(read_stores(), port, lambda url: click.echo(f"MLflow is at {url} until Ctrl-C", err=True))


@main.command()
def schema_command() -> None:
    """Print the JSON Schema of search-space files, for editors."""
    from sweeper.space.json_schema import json_schema_text

    click.echo(json_schema_text(), nl=False)


@main.command()
@click.argument("job", metavar="JOB")
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
def doctor_command() -> None:
    """Check versions, devices, stores and offline switches."""
    from sweeper.doctor import findings
    from sweeper.storage.settings import read_stores

    results = findings(read_stores())
    for finding in results:
        click.echo(f"{'ok  ' if finding.good else 'BAD '} {finding.what:<18} {finding.detail}")
    sys.exit(0 if all(finding.good for finding in results) else 4)


@main.group()
def cluster_group() -> None:
    """Print a ready file, with explanations, that starts a cluster or its stores."""


@cluster_group.command("ray-up")
def ray_up_command() -> None:
    """Nodes on AWS that come and go with a sweep, for `ray up`."""
    hand_out("ray-up.yaml")


@cluster_group.command()
def kuberay_command() -> None:
    """A sweep as a RayJob on Kubernetes."""
    hand_out("kuberay.yaml")


@cluster_group.command()
def slurm_command() -> None:
    """A sweep as a Slurm job, for `sbatch`."""
    hand_out("slurm.sh")


@cluster_group.command()
def compose_command() -> None:
    """PostgreSQL, an S3-compatible server and MLflow's server, for `docker compose`."""
    hand_out("compose.yaml")


def hand_out(file: str) -> None:
    """Print a file of sweeper/cluster/files/; its head says what to do with it."""
    from importlib.resources import files

    click.echo((files("sweeper.cluster") / "files" / file).read_text(encoding="utf-8"), nl=False)
    click.echo("next: write it to a file, read its first lines, set what is marked there", err=True)
