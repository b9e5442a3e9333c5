"""Define the commands for data sets: check, convert, sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sweeper.commands.base import data_mistakes, echo_line, main
from sweeper.commands.completion import complete_folder


@main.group()
def data_group() -> None:
    """Check data sets, convert published ones, and write the built-in sample."""


@data_group.command()
@click.argument("location", shell_complete=complete_folder)
@click.option("--tokenizer", metavar="NAME", help="Count lengths in tokens of this backbone too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check_command(location: str, tokenizer: str | None, as_json: bool) -> None:
    """Read a whole data set, describe it, and list every invalid row. Tell what two splits have in common.

    LOCATION is a folder, or `sample`.
    """
    import json

    from jobs.dataset.survey import survey

    with data_mistakes():
        found = survey(location, tokenizer)
    if as_json:
        click.echo(json.dumps(found.as_dict(), ensure_ascii=False, indent=2))
        return
    for line in found.lines():
        echo_line(line)


@data_group.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option(
    "--train",
    multiple=True,
    required=True,
    metavar="FILE",
    help="Read training questions from this JSON file or hub:NAME[:CONFIG][@SPLIT].",
)
@click.option("--valid", multiple=True, metavar="FILE", help="Read validation questions from this file.")
@click.option("--test", multiple=True, metavar="FILE", help="Read test questions from this file; they need no answers.")
@click.option("--valid-share", default=0.0, show_default=True, help="Move this share of train's articles to valid.")
@click.option("--test-share", default=0.0, show_default=True, help="Move this share of train's articles to test.")
@click.option(
    "--distractors",
    type=click.Choice(["article", "bm25"]),
    default="article",
    show_default=True,
    help="Choose wrong paragraphs from the same article or by BM25.",
)
@click.option("--candidates", default=4, show_default=True, help="Give each question this many paragraphs.")
@click.option("--seed", default=0, show_default=True, help="Seed the random choices.")
def convert_command(
    output: Path, train: tuple[str, ...], valid: tuple[str, ...], test: tuple[str, ...], **options: Any
) -> None:
    """Convert published corpora to a data set in the folder OUTPUT, with distractor paragraphs.

    Reads the layouts of SQuAD 1.1 and 2.0, DRCD, CMRC 2018, DuReader-robust and C3, as files or from the Hugging Face
    hub. What is left out, repaired or read from a key of another name is counted. The options of multiple-choice
    questions (C3) are their paragraphs; they get no distractors, and only job mc can be trained on them.
    """
    from jobs.dataset import convert as assignment

    sources = {split: files for split, files in {"train": train, "valid": valid, "test": test}.items() if files}
    with data_mistakes():
        counts = assignment.convert(sources, output, **options)
    for line in counts.lines():
        echo_line(line)
    click.echo(f"next: sweeper data check {output}", err=True)


@data_group.command()
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Write to this new or empty folder.")
def sample_command(output: Path) -> None:
    """Write the built-in sample as a data set."""
    from jobs.dataset.convert import write_sample

    with data_mistakes():
        write_sample(output)
    click.echo(f"next: sweeper data check {output}", err=True)
