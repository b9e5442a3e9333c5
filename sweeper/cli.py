"""The command line: parses, calls, prints. Everything heavy is imported inside the command that needs it."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.checkpoint import DISK_ERRORS
from sweeper.errors import ConfigError, DataFailure, EnvironmentFailure, Failure

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from rich.console import Console
    from rich.table import Table

    from sweeper.cluster.capacity import Machine
    from sweeper.ledger.ledger import Ledger
    from sweeper.process.detach import Detachment
    from sweeper.process.signals import Interrupt
    from sweeper.release.teams import Team
    from sweeper.results.table import Sheet
    from sweeper.space.search_space import SearchSpace
    from sweeper.storage.settings import Stores

INTERRUPTED = 130
REFUSALS = (*DISK_ERRORS, errno.EMFILE, errno.ENFILE)


class Commands(click.Group):
    """Ends a command that fails, or is interrupted, with one line for each reason and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Failure as failure:
            from sweeper.storage.settings import redacted

            for line in failure.lines:
                click.echo(redacted(line), err=True)
            ctx.exit(failure.exit_code)
        except OSError as error:
            if error.errno not in REFUSALS:
                raise
            click.echo(f"{error.filename or 'sweeper'}: {error.strerror}; make room or raise the limit", err=True)
            ctx.exit(EnvironmentFailure.exit_code)
        except KeyboardInterrupt as interrupt:
            click.echo("interrupted; nothing that was finished is lost, and the same command goes on", err=True)
            ctx.exit(getattr(interrupt, "exit_code", INTERRUPTED))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sweeper")
def main() -> None:
    """Find the best Chinese question-answering models for a data set.

    Write a search space as one YAML file; `sweeper run` trains its trials side by side, stops weak ones
    early, and ends with a table.
    """
    os.umask(0o077)  # records, checkpoints and logs are their owner's alone


address_option = click.option(
    "--address",
    envvar="RAY_ADDRESS",
    metavar="HOST:PORT",
    help="Use the Ray cluster there, or `auto`: the one this machine is part of. Also from RAY_ADDRESS.",
)


@main.command()
@click.argument("file")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@address_option
@click.option("--new", is_flag=True, help="Run beside a sweep of this name instead of going on with it.")
@click.option("--extend", is_flag=True, help="The file has changed: run beside, beginning with the trials that fit.")
@click.option("--detach", is_flag=True, help="Go on after the terminal is closed; see `status` and `stop`.")
def run(file: str, overrides: tuple[str, ...], address: str | None, new: bool, extend: bool, detach: bool) -> None:
    """Train the trials of a search space and print their table.

    FILE is a path, or a name in search_spaces/. Overrides are dotted: search.trials=2.
    A sweep that was interrupted goes on; one that is finished is not run again.
    """
    from sweeper.space.search_space import find, read_search_space

    if new and extend:
        raise ConfigError("--new and --extend: use one of the two; --extend runs beside the sweep as well")

    def command(detachment: Detachment | None = None) -> None:
        from sweeper.process.signals import Interrupt, catching

        with catching(Interrupt()) as interrupt:
            space = read_search_space(find(file), overrides)
            with machine_at(address) as machine:
                train(space, machine, interrupt, detachment, new=new, extend=extend)

    run_detached(command) if detach else command()


@main.command()
@click.argument("name", metavar="SWEEP")
@address_option
@click.option("--trials", type=click.IntRange(min=1), help="How many there are to be in all; more than before.")
@click.option("--detach", is_flag=True, help="Go on after the terminal is closed; see `status` and `stop`.")
def resume(name: str, address: str | None, trials: int | None, detach: bool) -> None:
    """Go on with a sweep from its ledger alone, without its file.

    What is finished stays; what was cut short goes on from its last checkpoint.
    """

    def command(detachment: Detachment | None = None) -> None:
        from sweeper.process.signals import Interrupt, catching

        with catching(Interrupt()) as interrupt:
            from sweeper.driver.run import resumed

            space = resumed(ledger_of(name), trials)
            with machine_at(address) as machine:
                train(space, machine, interrupt, detachment, name=name)

    run_detached(command) if detach else command()


@main.command()
@click.argument("name", metavar="[SWEEP]", required=False)
@click.option("--json", "as_json", is_flag=True, help="One object; without SWEEP an array.")
def status(name: str | None, as_json: bool) -> None:
    """Show who runs a sweep, its trials so far, and those that run now. Without SWEEP: all sweeps that run.

    Reads the ledger alone, so that it works from every machine that reaches it.
    """
    from sweeper.monitor import status as present

    found = [present.status(ledger_of(name))] if name else present.active(ledger_storage())
    if as_json:
        click.echo(present.json_text(found[0] if name else found), nl=False)
        return
    click.echo("".join(f"{line}\n" for one in found for line in one.lines()), nl=False)
    click.echo(f"next: {found[0].next()}" if found else "no sweep is running; next: sweeper ls", err=True)


@main.command()
@click.argument("name", metavar="SWEEP")
@click.option("--now", is_flag=True, help="At once; trials go on from their last checkpoints.")
def stop(name: str, now: bool) -> None:
    """Ask the process that runs a sweep to end, through the ledger, and wait until it has.

    As with Ctrl-C it ends in good order: running trials save what they have, and `resume` goes on with them. This
    works from every machine that reaches the ledger; when it is interrupted itself, what it has asked for stays asked.
    """
    from sweeper.monitor import status as present

    ledger = ledger_of(name)
    present.stop(ledger, "now" if now else "stop", partial(click.echo, err=True))
    click.echo(f"next: {present.status(ledger).next()}", err=True)


@main.command()
@click.argument("name", metavar="SWEEP")
def sync(name: str) -> None:
    """Make MLflow show what the ledger says, as after an outage or a driver that was killed."""
    from sweeper.driver import run as driver
    from sweeper.storage.settings import read_stores

    outcome = driver.sync(ledger_of(name), read_stores())
    if outcome.mirror_failure:
        raise EnvironmentFailure(f"{outcome.mirror_failure}; the ledger has everything, try again later")
    click.echo(f"{name}: MLflow has its {len(outcome.records)} trials, each once")
    page = f", then open {outcome.page}" if outcome.page else ""
    click.echo(f"next: sweeper ui{page}", err=True)


def run_detached(command: Callable[[Detachment], None]) -> None:
    """Have a command go on without this terminal, and say how it is looked at and ended from now on."""
    from sweeper.process.detach import Detached, detached

    outcome = detached(command)
    if not isinstance(outcome, Detached):
        sys.exit(outcome)
    name = outcome.folder.name
    click.echo(f"{name}: goes on as process {outcome.pid}; what it says goes to {outcome.output}", err=True)
    click.echo(f"next: sweeper status {name}   or   sweeper stop {name}", err=True)


@contextmanager
def machine_at(address: str | None) -> Iterator[Machine]:
    """What trials can have: this machine, or the cluster at an address, of which this process is part meanwhile."""
    if not address:
        from sweeper.cluster.capacity import local_machine

        yield local_machine()
        return
    from sweeper.cluster import nodes
    from sweeper.cluster.ray_session import joined

    with joined(address):
        yield nodes.machine()


def train(
    space: SearchSpace,
    machine: Machine,
    interrupt: Interrupt,
    detachment: Detachment | None = None,
    name: str | None = None,
    new: bool = False,
    extend: bool = False,
) -> None:
    """Run what is left of a sweep, print its table, and exit with what became of it."""
    from sweeper.storage.settings import read_stores

    with terminal(plain=detachment is not None) as console:
        what = (
            f"{name or space.name}: {space.search.trials} trials of {space.job} on {space.data}, by {space.objective}"
        )
        console.print(what, markup=False, soft_wrap=True)
        from sweeper.driver.run import run_sweep
        from sweeper.results import comparison

        begin = partial(detachment.leave, terminal=console.file.fileno()) if detachment else None
        outcome = run_sweep(space, read_stores(), machine, console, interrupt, name, new, extend, begin)
    show(comparison.compared([ledger_of(outcome.name)])[1])
    if outcome.mirror_failure:
        click.echo(f"{outcome.mirror_failure}; the ledger has everything", err=True)
    interrupt.raise_asked()
    if outcome.interrupted:
        raise KeyboardInterrupt
    if outcome.first_cause:
        click.echo(outcome.first_cause, err=True)
    if outcome.mirror_failure and outcome.good:
        click.echo(f"next, once MLflow answers: sweeper sync {outcome.name}", err=True)
        sys.exit(EnvironmentFailure.exit_code)
    page = f", then open {outcome.page}" if outcome.page else ""
    click.echo(f"next: sweeper compare {outcome.name} --md   or   sweeper ui{page}", err=True)
    sys.exit(0 if outcome.good else 1)


@main.command()
@click.argument("file")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@address_option
@click.option(
    "--first", type=click.IntRange(min=0), default=5, show_default=True, help="How many configurations to show."
)
def plan(file: str, overrides: tuple[str, ...], address: str | None, first: int) -> None:
    """Show what `run` would do: branches, trials at once and why, first configurations, disk."""
    from sweeper.monitor.plan import lines
    from sweeper.space.search_space import find, read_search_space

    space = read_search_space(find(file), overrides)
    with machine_at(address) as machine:
        for line in lines(space, machine, first):
            click.echo(line)
    click.echo(f"next: sweeper run {' '.join([file, *overrides])}", err=True)


@main.command()
def ls() -> None:
    """List the sweeps in the ledger."""
    from rich.table import Table

    from sweeper.ledger.database import existing_storage
    from sweeper.monitor.plan import overview
    from sweeper.storage.settings import read_stores

    table = Table(box=None, pad_edge=False)
    for name in ("sweep", "job", "trials", "running", "failed", "objective", "best"):
        table.add_column(name)
    for row in overview(existing_storage(read_stores().ledger)):
        table.add_row(*map(str, row))
    screen(table).print(table)
    click.echo("next: sweeper compare SWEEP", err=True)


@main.command()
@click.argument("names", nargs=-1, required=True, metavar="SWEEP...")
@click.option("--all", "every", is_flag=True, help="Every trial of several sweeps, not each backbone's best.")
@click.option("--sort", metavar="COLUMN", help="By a metric, from the best; or by a parameter.")
@click.option("--reverse", is_flag=True, help="The other way round.")
@click.option("--timing", is_flag=True, help="Where the time of one sweep's trials went, in seconds.")
@click.option("--md", "form", flag_value="md", help="Markdown.")
@click.option("--csv", "form", flag_value="csv", help="Comma-separated values.")
@click.option("--json", "form", flag_value="json", help="One array, best first, a row per trial.")
@click.option("--html", "form", flag_value="html", help="A page with one sweep's table.")
@click.option("--table", "form", flag_value="table", default="table", help="For the terminal (the default).")
def compare(names: tuple[str, ...], every: bool, sort: str | None, reverse: bool, timing: bool, form: str) -> None:
    """Print a sweep's trials, best first; or the models of several sweeps and jobs side by side."""
    from sweeper.results import comparison, report
    from sweeper.results import table as sheet

    ledgers = [ledger_of(name) for name in names]
    if timing:
        show_timing(ledgers, form)
        return
    if form == "html":
        if len(ledgers) > 1:
            raise ConfigError("--html: a page has one sweep; name one")
        click.echo(report.table_html(ledgers[0]), nl=False)
        return
    table, view = comparison.compared(ledgers, every, sort, reverse)
    if form == "json":
        click.echo(sheet.json_text(table), nl=False)
        return
    show(view, form=form)
    if form == "table" and len(ledgers) == 1 and (told := alike(ledgers[0])):
        click.echo(told, err=True)


def show_timing(ledgers: list[Ledger], form: str) -> None:
    from sweeper.results import table as sheet
    from sweeper.results import timing

    if len(ledgers) > 1 or form == "html":
        raise ConfigError("--timing: shows one sweep, for the terminal or as --md, --csv or --json")
    records = ledgers[0].records()
    if form == "json":
        click.echo(sheet.json_text(timing.table(records)), nl=False)
    else:
        show(timing.sheet_of(records), form=form)


@main.command()
@click.argument("name", metavar="SWEEP")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Default: SWEEP.html.")
def report(name: str, output: Path | None) -> None:
    """Write a sweep as one self-contained page: table, curves, importance, cost."""
    from sweeper.driver.repeats import leaders
    from sweeper.ledger.lookup import Trial
    from sweeper.results import report as page
    from sweeper.results.recipe import best_yaml

    ledger = ledger_of(name)
    path = output or Path(f"{name}.html")
    ended = leaders(ledger.records(), ledger.direction)
    text = page.html(ledger, best_yaml(Trial(ledger, ended[0])) if ended else "")
    with writing(path):
        path.write_text(text, encoding="utf-8")
    click.echo(f"next: open {path}", err=True)


@main.command()
@click.argument("name", metavar="TRIAL")
@click.option("--vs", metavar="TRIAL", help="What this one gets right instead.")
@click.option("--examples", type=click.IntRange(min=0), default=3, show_default=True, help="Of each kind.")
@click.option("--md", "form", flag_value="md", help="Markdown.")
@click.option("--json", "form", flag_value="json", help="One object.")
@click.option("--table", "form", flag_value="table", default="table", help="For the terminal (the default).")
def errors(name: str, vs: str | None, examples: int, form: str) -> None:
    """Sort a trial's answers into kinds of mistakes, by type and length of the answer.

    A TRIAL is a sweep, which means its best one, or SWEEP/NUMBER.
    """
    from sweeper.ledger.lookup import find_trial
    from sweeper.results import mistakes
    from sweeper.results import table as sheet

    storage = ledger_storage()
    other = find_trial(vs, storage) if vs else None
    sheets, values = mistakes.errors(find_trial(name, storage), other, examples)
    if form == "json":
        click.echo(sheet.json_text(values), nl=False)
    else:
        show(*sheets, form=form)


@main.command()
@click.argument("name", metavar="TRIAL")
@click.option("--yaml", is_flag=True, help="As a search space; what it prints anyway.")
def best(name: str, yaml: bool) -> None:
    """Print a search space that runs exactly this trial again.

    A TRIAL is a sweep, which means its best one, or SWEEP/NUMBER.
    """
    from sweeper.ledger.lookup import find_trial
    from sweeper.results.recipe import best_yaml

    click.echo(best_yaml(find_trial(name, ledger_storage())), nl=False)


@main.command()
@click.argument("data")
@click.option("--mc", metavar="MODEL", help="Picks the paragraph.")
@click.option("--qa", metavar="MODEL", help="Reads it.")
@click.option("--longformer", metavar="MODEL", help="Does both at once.")
@click.option("--split", type=click.Choice(["valid", "test"]), default="valid", show_default=True)
@click.option("--profile", type=click.Choice(["strict", "drcd", "cmrc2018"]), default="strict", show_default=True)
@click.option("--md", "form", flag_value="md", help="Markdown.")
@click.option("--json", "form", flag_value="json", help="One object, full precision.")
@click.option("--table", "form", flag_value="table", default="table", help="For the terminal (the default).")
def evaluate(data: str, split: str, profile: str, form: str, **named: str | None) -> None:
    """Compare two stages, soft two stages, end to end and BM25 on the labelled questions of DATA.

    A MODEL is JOB@champion, a sweep, which means its best trial, SWEEP/NUMBER, or a checkpoint's folder. With
    --split test, `compare` shows what each trial named so scored by itself.
    """
    from sweeper.ledger.lookup import find_checkpoint
    from sweeper.results import evaluation as systems
    from sweeper.storage.settings import read_stores

    stores = read_stores()
    checkpoints = {job: find_checkpoint(name, stores) for job, name in named.items() if name}
    with data_mistakes():
        from jobs.answering import evaluation
        from jobs.dataset.data import read

        exam = evaluation.exam(read(data), split, profile)
        models = evaluation.load(checkpoints, stores.root / "features")
        rows = list(evaluation.evaluate(exam, models))
        if split == "test":
            note_tests({job: evaluation.alone(exam, job, model) for job, model in models.items()}, named)
    if form == "json":
        click.echo(systems.json_text(rows, split, profile), nl=False)
    else:
        show(systems.sheet_of(rows, split, profile), form=form)


@main.command()
@click.argument("name", metavar="TRIAL")
@click.option("--if-better", is_flag=True, help="On the same data; what it does anyway.")
@click.option("--significant", is_flag=True, help="Only if a paired test tells them apart too.")
@click.option("--force", is_flag=True, help="In any case; it is noted.")
def promote(name: str, if_better: bool, significant: bool, force: bool) -> None:
    """Make a trial's best checkpoint its job's champion, if it is better than the present one.

    A TRIAL is a sweep, which means its best one, or SWEEP/NUMBER.
    """
    from sweeper.ledger.lookup import find_trial
    from sweeper.release.promotion import promote as promoted
    from sweeper.storage.settings import read_stores

    if force and (significant or if_better):
        raise ConfigError("--force: asks for nothing, the other options for something; give one of them")
    stores = read_stores()
    trial = find_trial(name, ledger_storage())
    outcome = promoted(trial, stores, force=force, significant=significant)
    for line in outcome.lines():
        click.echo(line)
    click.echo(f"next: sweeper evaluate {trial.data} --{outcome.job} {outcome.job}@champion", err=True)


def a_number(_: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """Refuses nan, which lies in every range."""
    if value is not None and value != value:
        raise click.BadParameter("nan is no number", param=option)
    return value


def team_options(command: Any) -> Any:
    """Who answers."""
    for option in (
        click.option(
            "--ensemble",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            metavar="K",
            help="The K best readers of --qa SWEEP.",
        ),
        click.option("--end-to-end", metavar="MODEL", is_flag=False, flag_value="longformer@champion"),
        click.option("--qa", metavar="MODEL", default="qa@champion", show_default=True, help="Reads it."),
        click.option("--mc", metavar="MODEL", default="mc@champion", show_default=True, help="Picks the paragraph."),
        click.option(
            "--weight",
            type=click.FloatRange(0, 1),
            callback=a_number,
            help="Of the reader's score; fitted if not given.",
        ),
    ):
        command = option(command)
    return command


@main.command()
@click.option("--context", type=click.Path(path_type=Path), required=True)
@click.option("--test", type=click.Path(path_type=Path), required=True, help="Questions without labels.")
@click.option("--output", "-o", type=click.Path(path_type=Path), default=Path("submission.csv"), show_default=True)
@team_options
def submit(context: Path, test: Path, output: Path, weight: float | None, **named: Any) -> None:
    """Answer the questions of a contest with the champions and write its CSV file.

    A MODEL is JOB@champion, a sweep, which means its best trial, SWEEP/NUMBER, or a checkpoint's folder.
    """
    from sweeper.release import teams
    from sweeper.storage.settings import read_stores

    stores = read_stores()
    with data_mistakes():
        team = team_of(stores=stores, **named)
        answers = teams.submit(team, context, test, output, stores, weight)
    click.echo(f"{output}: {len(answers.rows)} answers, {answers.note}")
    try:
        teams.record(team, answers, output, stores)
    except EnvironmentFailure as failure:
        click.echo(f"{failure}; the file is good, and is not on record", err=True)
    click.echo(f"next: sweeper score {output} SOLUTION.csv", err=True)


@main.command()
@click.argument("submission", type=click.Path(path_type=Path))
@click.argument("solution", type=click.Path(path_type=Path))
@click.option("--profile", type=click.Choice(["strict", "drcd", "cmrc2018"]), default="strict", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One object.")
def score(submission: Path, solution: Path, profile: str, as_json: bool) -> None:
    """Exact match and F1 of a submission against the right answers."""
    import json

    with data_mistakes():
        from jobs.answering import submission as contest

        scores = contest.score(contest.read_answers(submission), contest.read_answers(solution), profile)
    told = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
    click.echo(json.dumps({**scores, "profile": profile}) if as_json else f"{told}  ({profile})")


@main.command()
@click.argument("output", type=click.Path(path_type=Path))
@team_options
def export(output: Path, weight: float | None, **named: Any) -> None:
    """Write a folder OUTPUT that answers questions by itself, offline, without sweeper's stores."""
    from sweeper.release import teams
    from sweeper.storage.settings import read_stores

    stores = read_stores()
    with data_mistakes():
        team = team_of(stores=stores, **named)
        note = teams.export(team, output, stores, weight)
    click.echo(f"{output}: {note}")
    click.echo(f"next: cd {output} && python answer.py CONTEXT TEST SUBMISSION", err=True)


@main.command()
@click.option("--port", type=int, help="Instead of the one in mlflow.ini.")
def ui(port: int | None) -> None:
    """Serve the MLflow pages of all sweeps on this machine's loopback address."""
    from sweeper.storage.settings import read_stores
    from sweeper.tracking.server import serve

    serve(read_stores(), port, lambda url: click.echo(f"MLflow is at {url} until Ctrl-C", err=True))


@main.command()
def schema() -> None:
    """Print the JSON Schema of search-space files, for editors."""
    from sweeper.space.json_schema import json_schema_text

    click.echo(json_schema_text(), nl=False)


@main.command()
def doctor() -> None:
    """Check versions, devices, stores and offline switches."""
    from sweeper.doctor import findings
    from sweeper.storage.settings import read_stores

    results = findings(read_stores())
    for finding in results:
        click.echo(f"{'ok  ' if finding.good else 'BAD '} {finding.what:<18} {finding.detail}")
    sys.exit(0 if all(finding.good for finding in results) else 4)


@main.group()
def cluster() -> None:
    """Print a ready file, with explanations, that starts a cluster or its stores."""


@cluster.command("ray-up")
def ray_up() -> None:
    """Nodes on AWS that come and go with a sweep, for `ray up`."""
    hand_out("ray-up.yaml")


@cluster.command()
def kuberay() -> None:
    """A sweep as a RayJob on Kubernetes."""
    hand_out("kuberay.yaml")


@cluster.command()
def slurm() -> None:
    """A sweep as a Slurm job, for `sbatch`."""
    hand_out("slurm.sh")


@cluster.command()
def compose() -> None:
    """PostgreSQL, an S3-compatible server and MLflow's server, for `docker compose`."""
    hand_out("compose.yaml")


def hand_out(file: str) -> None:
    """Print a file of sweeper/cluster/files/; its head says what to do with it."""
    from importlib.resources import files

    click.echo((files("sweeper.cluster") / "files" / file).read_text(encoding="utf-8"), nl=False)
    click.echo("next: write it to a file, read its first lines, set what is marked there", err=True)


@main.group()
def data() -> None:
    """Look at data sets, convert others', write the built-in one."""


@data.command()
@click.argument("location")
@click.option("--tokenizer", metavar="NAME", help="A backbone's name: lengths in its tokens too.")
@click.option("--json", "as_json", is_flag=True, help="One object.")
def check(location: str, tokenizer: str | None, as_json: bool) -> None:
    """Read a data set in full and describe it; every broken row is named.

    LOCATION is a folder, or the word sample.
    """
    import json

    from jobs.dataset.survey import survey

    with data_mistakes():
        found = survey(location, tokenizer)
    click.echo(json.dumps(found.as_dict(), ensure_ascii=False, indent=2) if as_json else "\n".join(found.lines()))


@data.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--train", multiple=True, required=True, metavar="FILE", help="SQuAD, DRCD or CMRC JSON, or hub:NAME.")
@click.option("--valid", multiple=True, metavar="FILE", help="Likewise.")
@click.option("--test", multiple=True, metavar="FILE", help="Likewise.")
@click.option("--valid-share", default=0.0, show_default=True, help="Of train's questions, by whole articles.")
@click.option("--test-share", default=0.0, show_default=True, help="Likewise.")
@click.option("--distractors", type=click.Choice(["article", "bm25"]), default="article", show_default=True)
@click.option("--candidates", default=4, show_default=True, help="Paragraphs of a question.")
@click.option("--seed", default=0, show_default=True)
def convert(
    output: Path, train: tuple[str, ...], valid: tuple[str, ...], test: tuple[str, ...], **options: Any
) -> None:
    """Write the questions of published corpora to the folder OUTPUT, with distractor paragraphs."""
    from jobs.dataset import convert as assignment

    sources = {split: files for split, files in {"train": train, "valid": valid, "test": test}.items() if files}
    with data_mistakes():
        counts = assignment.convert(sources, output, **options)
    click.echo("\n".join(counts.lines()))
    click.echo(f"next: sweeper data check {output}", err=True)


@data.command()
@click.option("--output", type=click.Path(path_type=Path), required=True, help="A new or empty folder.")
def sample(output: Path) -> None:
    """Write the built-in sample in the assignment's format."""
    from jobs.dataset.convert import write_sample

    with data_mistakes():
        write_sample(output)
    click.echo(f"next: sweeper data check {output}", err=True)


@contextmanager
def data_mistakes() -> Iterator[None]:
    """What a job's own errors are for the command line."""
    from jobs.checkpoint import CheckpointError
    from jobs.dataset.data import DataError
    from jobs.model.backbones import BackboneError

    try:
        yield
    except DataError as error:
        raise DataFailure(error.lines) from None
    except BackboneError as error:
        raise EnvironmentFailure(f"backbone {error}") from None
    except CheckpointError as error:
        raise EnvironmentFailure(f"checkpoint {error}") from None
    except OSError as error:
        raise EnvironmentFailure(
            f"{error.filename}: {error.strerror or error}; free the place or name another"
        ) from None


def show(*sheets: Sheet, form: str = "table") -> None:
    """Print tables in one of their forms."""
    from sweeper.results import table as sheet

    for one in sheets:
        if form == "table":
            view = sheet.rich_table(one)
            screen(view).print(view)
        else:
            click.echo({"md": sheet.markdown, "csv": sheet.csv_text}[form](one), nl=False)


def alike(ledger: Ledger) -> str | None:
    """A line that names the trials which cannot be told from the best, where answers are there to compare."""
    from sweeper.results.scores import alike_line

    return alike_line(ledger)


def note_tests(scores: dict[str, float], named: dict[str, str | None]) -> None:
    """Note test scores with the trials that were named as such; champions and folders are nobody's trial."""
    from sweeper.ledger.lookup import find_trial

    for job, score in scores.items():
        name = named[job] or ""
        if "@" not in name and not Path(name).is_dir():
            trial = find_trial(name, ledger_storage())
            trial.ledger.set_test(trial.record.number, score)


def ledger_storage() -> RDBStorage:
    """The database of all ledgers, which must be there."""
    from sweeper.ledger.database import existing_storage
    from sweeper.storage.settings import read_stores

    return existing_storage(read_stores().ledger)


def ledger_of(name: str) -> Ledger:
    """The ledger of a sweep that exists."""
    from sweeper.ledger.ledger import load_ledger

    return load_ledger(ledger_storage(), name)


def team_of(stores: Stores, mc: str, qa: str, end_to_end: str | None, ensemble: int) -> Team:
    """The checkpoints that options name."""
    from sweeper.ledger.lookup import find_checkpoint
    from sweeper.release import teams

    if end_to_end:
        return teams.Team(end_to_end=find_checkpoint(end_to_end, stores))
    return teams.two_stage_team(mc, qa, ensemble, stores)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the disk says of a file that is written, in one line."""
    try:
        yield
    except OSError as error:
        raise EnvironmentFailure(f"{path}: {error.strerror or error}; name another place") from None


@contextmanager
def terminal(plain: bool = False) -> Iterator[Console]:
    """For talk: standard error, through a copy of its descriptor that stays on the terminal while the
    original is sent to a log. `plain`: as in a file, without colours and live tables."""
    from rich.console import Console

    with os.fdopen(os.dup(2), "w", encoding="utf-8") as stream:
        yield Console(file=stream, highlight=False, force_terminal=False if plain else None)


def screen(view: Table) -> Console:
    """For data: standard output, as wide as the table. A narrow terminal wraps lines, and nothing is cut."""
    from rich.console import Console

    console = Console(highlight=False, width=200)
    return Console(highlight=False, width=max(200, console.measure(view).maximum))
