"""Define the commands that run and monitor sweeps: run, resume, status, stop, sync, plan, ls."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sweeper.commands.base import (
    address_option,
    echo_line,
    ledger_of,
    ledger_storage,
    ledger_storage_if_any,
    machine_at,
    main,
    show,
    terminal,
)
from sweeper.commands.completion import complete_space, complete_sweep
from sweeper.errors import ConfigError, EnvironmentFailure

if TYPE_CHECKING:
    from sweeper.cluster.capacity import Machine
    from sweeper.ledger.sampling.learning import Learned
    from sweeper.process.detach import Detachment
    from sweeper.process.signals import Interrupt
    from sweeper.space.search_space import SearchSpace


@main.command()
@click.argument("file", shell_complete=complete_space)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@address_option
@click.option("--new", is_flag=True, help="Start a second sweep under the next free name.")
@click.option("--extend", is_flag=True, help="Start a new sweep for the changed file and reuse the trials that fit.")
@click.option("--detach", is_flag=True, help="Run in the background; see `status` and `stop`.")
def run_command(
    file: str, overrides: tuple[str, ...], address: str | None, new: bool, extend: bool, detach: bool
) -> None:
    """Train the trials of a search space and print their table.

    FILE is a path or a name in search_spaces/. An override is a dotted key: search.trials=2.
    An interrupted sweep is resumed; a finished one is not run again.
    """
    from sweeper.space.reading import find_file, read_search_space

    if new and extend:
        raise ConfigError("--new and --extend: cannot be combined; --extend starts a new sweep too, so leave out --new")

    def command(detachment: Detachment | None = None) -> None:
        from sweeper.process.signals import Interrupt, handle_signals

        with handle_signals(Interrupt()) as interrupt:
            space = read_search_space(find_file(file), overrides)
            with machine_at(address) as machine:
                run_and_print(space, machine, interrupt, detachment, new=new, extend=extend)

    run_detached(command) if detach else command()


@main.command()
@click.argument("name", metavar="SWEEP", shell_complete=complete_sweep)
@address_option
@click.option("--trials", type=click.IntRange(min=1), help="Raise the total number of trials.")
@click.option("--time", "added", metavar="TIME", help="Add time to the sweep's budget: 2h, 30m.")
@click.option("--budget", "limits", multiple=True, metavar="KEY=VALUE", help="Set a key of `budget`: cost=20.")
@click.option("--detach", is_flag=True, help="Run in the background; see `status` and `stop`.")
def resume_command(
    name: str, address: str | None, trials: int | None, added: str | None, limits: tuple[str, ...], detach: bool
) -> None:
    """Resume a sweep from its ledger; its file is not needed.

    Finished trials are kept. Interrupted trials continue from their last checkpoint.
    """

    def command(detachment: Detachment | None = None) -> None:
        from sweeper.process.signals import Interrupt, handle_signals

        with handle_signals(Interrupt()) as interrupt:
            from sweeper.driver.opening import resumed_space

            space = resumed_space(ledger_of(name), trials, added, limits, partial(click.echo, err=True))
            with machine_at(address) as machine:
                run_and_print(space, machine, interrupt, detachment, name=name)

    run_detached(command) if detach else command()


@main.command()
@click.argument("name", metavar="[SWEEP]", required=False, shell_complete=complete_sweep)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, or an array without SWEEP.")
def status_command(name: str | None, as_json: bool) -> None:
    """Show the state of a sweep, its process and its trials, or of all running sweeps.

    Reads only the ledger, so it works from every machine that can reach the ledger.
    """
    from sweeper.monitor import status as present

    found = [present.status(ledger_of(name))] if name else present.running_sweeps(ledger_storage())
    if as_json:
        click.echo(present.status_json(found[0] if name else found), nl=False)
        return
    for line in (line for one in found for line in one.lines()):
        echo_line(line)
    click.echo(f"next: {found[0].next()}" if found else "no sweep is running; next: sweeper ls", err=True)


@main.command()
@click.argument("name", metavar="SWEEP", shell_complete=complete_sweep)
@click.option("--now", is_flag=True, help="Stop at once; `resume` continues from the last checkpoints.")
def stop_command(name: str, now: bool) -> None:
    """Ask a sweep's process to stop, through the ledger, and wait until it has stopped.

    As with Ctrl-C, running trials save a checkpoint, and `resume` continues them. This works from every machine that
    can reach the ledger. If you interrupt `stop`, its request stays valid.
    """
    from sweeper.monitor import status as present

    ledger = ledger_of(name)
    present.stop_sweep(ledger, "now" if now else "stop", partial(click.echo, err=True))
    click.echo(f"next: {present.status(ledger).next()}", err=True)


@main.command()
@click.argument("name", metavar="SWEEP", shell_complete=complete_sweep)
def sync_command(name: str) -> None:
    """Make MLflow agree with a sweep's ledger, for example after an MLflow outage or a killed driver.

    Prints a line for each run that differed: values, parameters, tags, parent, status, times, name, files.
    """
    from sweeper.driver import run as driver
    from sweeper.storage.settings import read_stores

    outcome = driver.sync_mlflow(ledger_of(name), read_stores())
    for line in outcome.corrections:
        click.echo(line)
    if outcome.mirror_failure:
        raise EnvironmentFailure(f"{outcome.mirror_failure}; the ledger has all results; try again later")
    nothing = "" if outcome.corrections else "; nothing to correct"
    click.echo(f"{name}: MLflow has all {len(outcome.records)} trials{nothing}")
    page = f", then open {outcome.page}" if outcome.page else ""
    click.echo(f"next: sweeper ui{page}", err=True)


def run_detached(command: Callable[[Detachment], None]) -> None:
    """Run a command in the background, and print how to see its state and stop it."""
    from sweeper.process.detach import DetachedCommand, start_detached

    outcome = start_detached(command)
    if not isinstance(outcome, DetachedCommand):
        sys.exit(outcome)
    name = outcome.folder.name
    click.echo(
        f"{name}: runs in the background as process {outcome.pid}; its output goes to {outcome.output}", err=True
    )
    click.echo(f"next: sweeper status {name}   or   sweeper stop {name}", err=True)


def run_and_print(
    space: SearchSpace,
    machine: Machine,
    interrupt: Interrupt,
    detachment: Detachment | None = None,
    name: str | None = None,
    new: bool = False,
    extend: bool = False,
) -> None:
    """Run the unfinished trials of a sweep, print its table, and exit with the sweep's exit code."""
    from sweeper.driver.run import run_sweep
    from sweeper.results import comparison
    from sweeper.storage.settings import read_stores

    with terminal(plain=detachment is not None) as console:
        begin = partial(detachment.leave, terminal=console.file.fileno()) if detachment else None
        outcome = run_sweep(space, read_stores(), machine, console, interrupt, name, new, extend, begin)
    show(comparison.compare_sweeps([ledger_of(outcome.name)])[1], everything=f"sweeper compare {outcome.name} --csv")
    if outcome.mirror_failure:
        click.echo(f"{outcome.mirror_failure}; the ledger has all results", err=True)
    interrupt.raise_asked()
    if outcome.interrupted:
        raise KeyboardInterrupt
    if outcome.first_cause:
        click.echo(outcome.first_cause, err=True)
    if outcome.mirror_failure and outcome.good:
        click.echo(f"next, once MLflow answers: sweeper sync {outcome.name}", err=True)
        sys.exit(EnvironmentFailure.exit_code)
    page = f", then open {outcome.page}" if outcome.page else ""
    ended = f"{outcome.ending.line(outcome.name)}   " if outcome.ending else ""
    click.echo(f"{ended}next: sweeper compare {outcome.name} --md   or   sweeper ui{page}", err=True)
    sys.exit(0 if outcome.good else 1)


@main.command()
@click.argument("file", shell_complete=complete_space)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@address_option
@click.option(
    "--first", type=click.IntRange(min=0), default=5, show_default=True, help="Show this many configurations."
)
@click.option("--price", type=click.FloatRange(min=0), help="Of an hour of a GPU, or of a trial without one.")
@click.option("--device", "devices", multiple=True, metavar="GPU", help="Forecast for this GPU too, as A100.")
@click.option("--probe", is_flag=True, help="Train on a few questions first, to forecast by measured seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print the forecast as one JSON object.")
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="Write the configurations to this file.")
def plan_command(
    file: str,
    overrides: tuple[str, ...],
    address: str | None,
    first: int,
    price: float | None,
    devices: tuple[str, ...],
    probe: bool,
    as_json: bool,
    save: Path | None,
) -> None:
    """Show the plan and the forecast of `run`: branches, concurrent trials, first configurations, time, disk space."""
    from sweeper.cluster.preflight import check_gpus, with_trial_memory
    from sweeper.driver.backbones import try_present_backbones
    from sweeper.forecast.estimate import named_device, sweep_forecast
    from sweeper.ledger.lookup import trials_of_job
    from sweeper.monitor import plan
    from sweeper.space.reading import find_file, read_search_space
    from sweeper.storage.settings import read_stores

    space = read_search_space(find_file(file), overrides)
    named = [named_device(name) for name in devices]
    learned = learned_trials(space)
    with machine_at(address) as machine:
        check_gpus(space, machine)
        storage = ledger_storage_if_any()
        machine = with_trial_memory(space, machine, trials_of_job(storage, space.job))
        if save:
            plan.save_configurations(space, first, save, learned)
        say = partial(echo_line, err=True)
        if not as_json:
            try_present_backbones(space, say)
        found = sweep_forecast(space, machine, storage, price, root=read_stores().root, say=say if probe else None)
        if as_json:
            click.echo(plan.plan_json(space, machine, found, price, named), nl=False)
            return
        lines = plan.plan_lines(space, machine, first, learned)
        for line in chain(lines, plan.forecast_lines(space, machine, found, price, named)):
            echo_line(line)
    click.echo(f"next: sweeper run {shlex.join([file, *overrides])}", err=True)


def learned_trials(space: SearchSpace) -> Learned | None:
    """Return the trials of other sweeps from which the sampler would learn; None if it learns from none."""
    if not space.search.learn_from:
        return None
    from sweeper.ledger.sampling.learning import find_sources, learn

    storage = ledger_storage()
    return learn(storage, find_sources(storage, space), space)


@main.command()
def ls_command() -> None:
    """List the sweeps in the ledger."""
    from sweeper.results.overview import sweep_overview
    from sweeper.results.table import Table

    columns = ["sweep", "job", "trials", "running", "failed", "objective", "best"]
    rows = list(sweep_overview(ledger_storage()))
    show(Table(columns, rows, frozenset({"sweep", "job", "objective"})))
    click.echo("next: sweeper compare SWEEP", err=True)
