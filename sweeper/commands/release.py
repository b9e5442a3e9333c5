"""Commands that turn checkpoints into champions, submissions and exports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs import JOBS
from sweeper.errors import ConfigError, EnvironmentFailure

if TYPE_CHECKING:
    from sweeper.release.teams import Team
    from sweeper.storage.settings import Stores
from sweeper.commands.base import data_mistakes, ledger_storage, main, show, table_forms


@main.command()
@click.argument("data")
@click.option("--mc", metavar="MODEL", help="Picks the paragraph.")
@click.option("--qa", metavar="MODEL", help="Reads it.")
@click.option("--longformer", metavar="MODEL", help="Does both at once.")
@click.option("--split", type=click.Choice(["valid", "test"]), default="valid", show_default=True)
@click.option("--profile", type=click.Choice(["strict", "drcd", "cmrc2018"]), default="strict", show_default=True)
@table_forms("md", "json", json="Print one JSON object with full precision.")
def evaluate_command(data: str, split: str, profile: str, form: str, **named: str | None) -> None:
    """Compare two stages, soft two stages, end to end and BM25 on the labelled questions of DATA.

    A MODEL is JOB@champion, a sweep, which means its best trial, SWEEP/NUMBER, or a checkpoint's folder. With
    --split test, `compare` shows what each trial named so scored by itself.
    """
    from sweeper.release.lookup import find_checkpoint
    from sweeper.results import evaluation as systems
    from sweeper.storage.settings import read_stores

    stores = read_stores()
    checkpoints = {job: find_checkpoint(name, stores) for job, name in named.items() if name}
    with data_mistakes():
        from jobs.answering import evaluation
        from jobs.dataset.data import read_data

        exam = evaluation.exam(read_data(data), split, profile)
        models = evaluation.load_models(checkpoints, stores.root / "features")
        rows = list(evaluation.evaluate_systems(exam, models))
        if split == "test":
            note_tests({job: evaluation.alone(exam, job, model) for job, model in models.items()}, named)
    if form == "json":
        click.echo(systems.systems_json(rows, split, profile), nl=False)
    else:
        show(systems.systems_table(rows, split, profile), form=form)


@main.command()
@click.argument("name", metavar="TRIAL")
@click.option("--if-better", is_flag=True, help="On the same data; what it does anyway.")
@click.option("--significant", is_flag=True, help="Only if a paired test tells them apart too.")
@click.option("--force", is_flag=True, help="In any case; it is noted.")
def promote_command(name: str, if_better: bool, significant: bool, force: bool) -> None:
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
    evaluated = trial.job in JOBS and outcome.job in JOBS
    command = f"evaluate {trial.data} --{outcome.job} {outcome.job}@champion" if evaluated else f"best {trial.name}"
    click.echo(f"next: sweeper {command}", err=True)


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
def submit_command(context: Path, test: Path, output: Path, weight: float | None, **named: Any) -> None:
    """Answer the questions of a contest with the champions and write its CSV file.

    A MODEL is JOB@champion, a sweep, which means its best trial, SWEEP/NUMBER, or a checkpoint's folder.
    """
    from sweeper.release.submit import record_submission, submit_answers
    from sweeper.storage.settings import read_stores

    stores = read_stores()
    with data_mistakes():
        team = team_of(stores=stores, **named)
        answers = submit_answers(team, context, test, output, stores, weight)
    click.echo(f"{output}: {len(answers.rows)} answers, {answers.note}")
    try:
        record_submission(team, answers, output, stores)
    except EnvironmentFailure as failure:
        click.echo(f"{failure}; the file is good, and is not on record", err=True)
    click.echo(f"next: sweeper score {output} SOLUTION.csv", err=True)


@main.command()
@click.argument("submission", type=click.Path(path_type=Path))
@click.argument("solution", type=click.Path(path_type=Path))
@click.option("--profile", type=click.Choice(["strict", "drcd", "cmrc2018"]), default="strict", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One object.")
def score_command(submission: Path, solution: Path, profile: str, as_json: bool) -> None:
    """Exact match and F1 of a submission against the right answers."""
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
    """Write a folder OUTPUT that answers questions by itself, offline, without sweeper's stores."""
    from sweeper.release.export import export_team
    from sweeper.storage.settings import read_stores

    stores = read_stores()
    with data_mistakes():
        team = team_of(stores=stores, **named)
        note = export_team(team, output, stores, weight)
    click.echo(f"{output}: {note}")
    click.echo(f"next: cd {output} && python answer.py CONTEXT TEST SUBMISSION", err=True)


def note_tests(scores: dict[str, float], named: dict[str, str | None]) -> None:
    """Note test scores with the trials that were named as such; champions and folders are nobody's trial."""
    from sweeper.ledger.lookup import find_trial

    for job, score in scores.items():
        name = named[job] or ""
        if "@" not in name and not Path(name).is_dir():
            trial = find_trial(name, ledger_storage())
            trial.ledger.set_test(trial.record.number, score)


def team_of(stores: Stores, mc: str, qa: str, end_to_end: str | None, ensemble: int) -> Team:
    """The checkpoints that options name."""
    from sweeper.release import teams
    from sweeper.release.lookup import find_checkpoint

    if end_to_end:
        return teams.Team(end_to_end=find_checkpoint(end_to_end, stores))
    return teams.make_two_stage_team(mc, qa, ensemble, stores)
