"""Define the commands that turn checkpoints into champions, submissions and exports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sweeper.commands.base import data_mistakes, ledger_storage, main, show, table_forms
from sweeper.commands.completion import complete_folder, complete_sweep
from sweeper.errors import ConfigError, EnvironmentFailure

if TYPE_CHECKING:
    from sweeper.release.teams import Team
    from sweeper.storage.settings import Stores

EVALUATED_JOBS = ("mc", "qa", "longformer")  # each is an option of `evaluate`


# ends the line about a model that marks answers inside paragraphs
READS_OPTIONS = "marks answers inside paragraphs, but these are multiple-choice questions; use --mc alone"


@main.command()
@click.argument("data", shell_complete=complete_folder)
@click.option("--mc", metavar="MODEL", help="Select paragraphs with this model.")
@click.option("--qa", metavar="MODEL", help="Read the selected paragraph with this model.")
@click.option("--longformer", metavar="MODEL", help="Answer end to end with this model.")
@click.option(
    "--split",
    type=click.Choice(["valid", "test"]),
    default="valid",
    show_default=True,
    help="Use the questions of this split.",
)
@click.option(
    "--profile",
    type=click.Choice(["strict", "drcd", "cmrc2018"]),
    default="strict",
    show_default=True,
    help="Compute scores by this metric profile.",
)
@table_forms("md", "json", json="Print one JSON object with full precision.")
def evaluate_command(data: str, split: str, profile: str, form: str, **named: str | None) -> None:
    """Compare two stages, soft two stages, end to end and BM25 on the labelled questions of DATA.

    A MODEL is JOB@champion, SWEEP/NUMBER, SWEEP for its best trial, or a checkpoint's folder. With --split test,
    each named trial's own score is recorded, and `compare` shows it.
    """
    from sweeper.release.lookup import find_answering_checkpoint
    from sweeper.results import evaluation as systems
    from sweeper.storage.settings import read_stores

    stores = read_stores()
    checkpoints = {job: find_answering_checkpoint(name, stores) for job, name in named.items() if name}
    with data_mistakes():
        from jobs.answering import evaluation
        from jobs.dataset.data import read_data

        exam = evaluation.exam(read_data(data), split, profile)
        if exam.data.options and (reading := checkpoints.keys() - {"mc"}):
            raise ConfigError(f"--{min(reading)}: {READS_OPTIONS}")
        models = evaluation.load_models(checkpoints, stores.root / "features")
        rows = list(evaluation.evaluate_systems(exam, models))
        if split == "test":
            record_test_scores({job: evaluation.alone(exam, job, model) for job, model in models.items()}, named)
    if form == "json":
        click.echo(systems.systems_json(rows, split, profile), nl=False)
    else:
        show(systems.systems_table(rows, split, profile), form=form, everything="--json")


@main.command()
@click.argument("name", metavar="TRIAL", shell_complete=complete_sweep)
@click.option("--if-better", is_flag=True, help="Promote only if better on the same data (the default).")
@click.option("--significant", is_flag=True, help="Promote only if a paired test finds the difference significant.")
@click.option("--force", is_flag=True, help="Promote in any case, and record that it was forced.")
def promote_command(name: str, if_better: bool, significant: bool, force: bool) -> None:
    """Make a trial's best checkpoint its job's champion if it is better than the current one.

    TRIAL is SWEEP/NUMBER, or SWEEP for its best trial.
    """
    from sweeper.ledger.lookup import find_trial
    from sweeper.release.promotion import promote as promoted
    from sweeper.storage.identity import stores_in_use
    from sweeper.storage.settings import read_stores

    if force and (significant or if_better):
        raise ConfigError("--force: cannot be combined with --if-better or --significant; give one of them")
    find_trial(name, ledger_storage())  # raises an error if there is no such trial, before anything is written
    stores = stores_in_use(read_stores())
    trial = find_trial(name, ledger_storage())
    outcome = promoted(trial, stores, force=force, significant=significant)
    for line in outcome.lines():
        click.echo(line)
    evaluated = trial.job in EVALUATED_JOBS
    command = f"evaluate {trial.data} --{outcome.job} {outcome.job}@champion" if evaluated else f"best {trial.name}"
    click.echo(f"next: sweeper {command}", err=True)


def a_number(_: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """Return the number. Raises BadParameter for NaN, since click's range checks accept it."""
    if value is not None and value != value:
        raise click.BadParameter("nan is not a number", param=option)
    return value


def team_options(command: Any) -> Any:
    """Add the options that name the models that answer questions."""
    for option in (
        click.option(
            "--ensemble",
            type=click.IntRange(min=1),
            default=1,
            show_default=True,
            metavar="K",
            help="Use the K best readers of --qa SWEEP.",
        ),
        click.option(
            "--end-to-end",
            metavar="MODEL",
            is_flag=False,
            flag_value="longformer@champion",
            help="Answer end to end with this model.",
        ),
        click.option(
            "--qa", metavar="MODEL", default="qa@champion", show_default=True, help="Read paragraphs with this model."
        ),
        click.option(
            "--mc", metavar="MODEL", default="mc@champion", show_default=True, help="Select paragraphs with this model."
        ),
        click.option(
            "--weight",
            type=click.FloatRange(0, 1),
            callback=a_number,
            help="Weight the reader's score by this number (default: fitted).",
        ),
    ):
        command = option(command)
    return command


@main.command()
@click.option("--context", type=click.Path(path_type=Path), required=True, help="Read the paragraphs from this file.")
@click.option(
    "--test",
    type=click.Path(path_type=Path),
    required=True,
    help="Read the questions, which need no labels, from this file.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    default=Path("submission.csv"),
    show_default=True,
    help="Write to this file.",
)
@team_options
def submit_command(context: Path, test: Path, output: Path, weight: float | None, **named: Any) -> None:
    """Answer the questions of a contest with the champions and write its CSV file.

    Every question gets an answer; answers that a contest would refuse are corrected, and counted on stderr.
    A MODEL is JOB@champion, SWEEP/NUMBER, SWEEP for its best trial, or a checkpoint's folder. Multiple-choice
    questions, whose folder `data convert` has written, are answered by --mc alone.
    """
    from jobs.dataset.data import has_options
    from sweeper.release.submit import record_submission, submit_answers
    from sweeper.storage.settings import read_stores

    stores = read_stores()
    with data_mistakes():
        team = team_of(stores=stores, options=has_options(context.parent), **named)
        say_fitting(team, weight)
        answers = submit_answers(team, context, test, output, stores, weight)
    click.echo(f"{output}: {len(answers.rows)} answers, {answers.note}")
    for line in answers.corrections:
        click.echo(f"{output}: {line}", err=True)
    try:
        record_submission(team, answers, output, stores)
    except EnvironmentFailure as failure:
        click.echo(f"{failure}; the submission file is complete, but the submission was not recorded", err=True)
    click.echo(f"next: sweeper score {output} SOLUTION.csv", err=True)


@main.command()
@click.argument("submission", type=click.Path(path_type=Path))
@click.argument("solution", type=click.Path(path_type=Path))
@click.option(
    "--profile",
    type=click.Choice(["strict", "drcd", "cmrc2018"]),
    default="strict",
    show_default=True,
    help="Compute scores by this metric profile.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def score_command(submission: Path, solution: Path, profile: str, as_json: bool) -> None:
    """Print exact match and F1 of a submission against the right answers."""
    import json

    with data_mistakes():
        from jobs.answering import submission as contest

        scores = contest.score_submission(contest.read_answers(submission), contest.read_answers(solution), profile)
    told = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
    click.echo(json.dumps({**scores, "profile": profile}) if as_json else f"{told}  ({profile})")


@main.command()
@click.argument("output", type=click.Path(path_type=Path))
@team_options
def export_command(output: Path, weight: float | None, **named: Any) -> None:
    """Write a folder OUTPUT that answers questions offline, without sweeper."""
    from sweeper.release.export import export_team
    from sweeper.storage.settings import read_stores

    stores = read_stores()
    with data_mistakes():
        team = team_of(stores=stores, **named)
        say_fitting(team, weight)
        note = export_team(team, output, stores, weight)
    click.echo(f"{output}: {note}")
    click.echo(f"next: cd {output} && python answer.py CONTEXT TEST SUBMISSION", err=True)


def say_fitting(team: Team, weight: float | None) -> None:
    """Say that the validation questions are answered first, which takes minutes, unless the weight is given."""
    if team.readers and weight is None:
        click.echo("answering the validation questions to fit the weight of the reader; --weight skips this", err=True)


def record_test_scores(scores: dict[str, float], named: dict[str, str | None]) -> None:
    """Record the test score of each model that was named as a trial. Champions and folders belong to no trial."""
    from sweeper.ledger.lookup import find_trial
    from sweeper.release.lookup import checkpoint_folder

    for job, score in scores.items():
        name = named[job] or ""
        if "@" not in name and not checkpoint_folder(name):
            trial = find_trial(name, ledger_storage())
            trial.ledger.set_test(trial.record.number, score)


def team_of(stores: Stores, mc: str, qa: str, end_to_end: str | None, ensemble: int, options: bool = False) -> Team:
    """Return the checkpoints that the options name, as a Team; with `options`, the selector alone.

    Raises ConfigError if a model that reads is asked for multiple-choice questions.
    """
    from sweeper.release import teams
    from sweeper.release.lookup import find_checkpoint

    if options and end_to_end:
        raise ConfigError(f"--end-to-end: {READS_OPTIONS}")
    if options:
        return teams.Team(selector=find_checkpoint(mc, stores))
    if end_to_end:
        return teams.Team(end_to_end=find_checkpoint(end_to_end, stores))
    return teams.make_two_stage_team(mc, qa, ensemble, stores)
