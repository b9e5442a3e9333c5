"""Commands for data sets: check, convert, sample."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    pass
from sweeper.commands.base import data_mistakes, main


@main.group()
def data_group() -> None:
    """Look at data sets, convert others', write the built-in one."""


@data_group.command()
@click.argument("location")
@click.option("--tokenizer", metavar="NAME", help="A backbone's name: lengths in its tokens too.")
@click.option("--json", "as_json", is_flag=True, help="One object.")
def check_command(location: str, tokenizer: str | None, as_json: bool) -> None:
    """Read a data set in full and describe it; every broken row is named.

    LOCATION is a folder, or the word sample.
    """
    import json

    from jobs.dataset.survey import survey

    with data_mistakes():
        found = survey(location, tokenizer)
    click.echo(json.dumps(found.as_dict(), ensure_ascii=False, indent=2) if as_json else "\n".join(found.lines()))


@data_group.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--train", multiple=True, required=True, metavar="FILE", help="SQuAD, DRCD or CMRC JSON, or hub:NAME.")
@click.option("--valid", multiple=True, metavar="FILE", help="Likewise.")
@click.option("--test", multiple=True, metavar="FILE", help="Likewise.")
@click.option("--valid-share", default=0.0, show_default=True, help="Of train's questions, by whole articles.")
@click.option("--test-share", default=0.0, show_default=True, help="Likewise.")
@click.option("--distractors", type=click.Choice(["article", "bm25"]), default="article", show_default=True)
@click.option("--candidates", default=4, show_default=True, help="Paragraphs of a question.")
@click.option("--seed", default=0, show_default=True)
def convert_command(
    output: Path, train: tuple[str, ...], valid: tuple[str, ...], test: tuple[str, ...], **options: Any
) -> None:
    """Write the questions of published corpora to the folder OUTPUT, with distractor paragraphs."""
    from jobs.dataset import convert as assignment

    sources = {split: files for split, files in {"train": train, "valid": valid, "test": test}.items() if files}
    with data_mistakes():
        counts = assignment.convert(sources, output, **options)
    click.echo("\n".join(counts.lines()))
    click.echo(f"next: sweeper data check {output}", err=True)


@data_group.command()
@click.option("--output", type=click.Path(path_type=Path), required=True, help="A new or empty folder.")
def sample_command(output: Path) -> None:
    """Write the built-in sample in the assignment's format."""
    from jobs.dataset.convert import write_sample

    with data_mistakes():
        write_sample(output)
    click.echo(f"next: sweeper data check {output}", err=True)
