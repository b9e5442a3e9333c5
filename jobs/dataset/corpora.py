"""Read questions from published corpora, without verifying where answers occur (see jobs.dataset.labels).

The formats are SQuAD's tree of articles (also DRCD, CMRC 2018 and DuReader-robust), CMRC 2018's flat list of
paragraphs, rows with SQuAD's columns, C3's texts with multiple-choice questions, and data sets on the Hugging Face hub
that have these columns. jobs.dataset.entries describes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError as Invalid

from jobs.dataset.data import DataError, read_json, refuse
from jobs.dataset.entries import (
    Article,
    Asking,
    Choosing,
    CorpusParagraph,
    CorpusRow,
    Entries,
    OptionsRow,
    Reference,
    validation_text,
)

__all__ = ["Asked", "Reference", "hub_rows", "read_corpus"]

HUB = re.compile(r"hub:(?P<name>[^:@]+)(?::(?P<config>[^@]+))?(?:@(?P<split>.+))?")
HUB_SPLITS = {"valid": "validation"}


class Asked(NamedTuple):
    """Holds a question with its paragraph.

    article     the title, or the paragraph itself if there is no title
    origin      identifies the paragraph in its corpus
    options     the options of a multiple-choice question, whose text is `paragraph`; None for any other question
    impossible  the corpus says that the paragraph has no answer
    renamed     keys that were read in place of the usual ones: "`answer` as `answers`"
    hint        what follows "no answer" in messages: the key that may hold one
    """

    place: str
    origin: str
    article: str
    paragraph: str
    id: str
    question: str
    references: tuple[Reference, ...]
    options: tuple[str, ...] | None = None
    impossible: bool = False
    renamed: tuple[str, ...] = ()
    hint: str = ""

    def asked_text(self) -> str:
        """Return the question as a model reads it: with its text in front if it has options."""
        return self.question if self.options is None else f"{self.paragraph}\n{self.question}"


def read_corpus(source: str | Path, split: str = "train") -> list[Asked]:
    """Read the questions of a JSON file or of a hub data set `hub:OWNER/NAME[:CONFIG][@SPLIT]`.

    Without @SPLIT, read the hub split that corresponds to `split`.

    >>> read_corpus("hub:hfl/cmrc2018@validation")[0].id  # doctest: +SKIP
    'DEV_0_QUERY_0'

    Raises DataError with every mistake found.
    """
    match = HUB.fullmatch(str(source))
    if match:
        tree: Any = hub_rows(match["name"], match["split"] or HUB_SPLITS.get(split, split), match["config"])
    else:
        tree = read_json(Path(source))
    asked = list(_asking(str(source), tree))
    if not asked:
        refuse([f"{source}: no questions; at least one is needed"])
    return asked


def hub_rows(name: str, split: str, config: str | None = None) -> list[dict[str, Any]]:
    """Return the rows of a hub data set, or of a local folder that `datasets` can read. Raises DataError."""
    import datasets

    try:
        rows: list[dict[str, Any]] = datasets.load_dataset(name, config, split=split).to_list()
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        cure = "check the name, the split and the network, or give a JSON file"
        raise DataError([f"hub:{name}@{split}: cannot be loaded: {reason}; {cure}"]) from None
    return rows


def _asking(source: str, tree: Any) -> Iterator[Asked]:
    prefix, content = ("data", tree["data"]) if isinstance(tree, dict) and "data" in tree else ("", tree)
    try:
        entries = Entries.validate_python(content)
    except Invalid as error:
        refuse([f"{source}: {_json_path(prefix, one['loc'])}: {validation_text(one)}" for one in error.errors()])
    for number, entry in enumerate(entries):
        place = f"{source}: {prefix}[{number}]"
        if isinstance(entry, CorpusRow):
            yield _corpus_question(place, entry.context, entry.title, entry.context, entry, entry.renamed)
        elif isinstance(entry, CorpusParagraph):
            yield from _corpus_paragraph(place, entry.title, entry)
        elif isinstance(entry, Article):
            for inner, paragraph in enumerate(entry.paragraphs):
                yield from _corpus_paragraph(f"{place}.paragraphs[{inner}]", entry.title or paragraph.title, paragraph)
        elif isinstance(entry, OptionsRow):
            yield _option_question(place, entry.text, str(number), entry)
        else:
            for inner, choosing in enumerate(entry.questions):
                key = f"{number if entry.id is None else entry.id}-{inner}"
                yield _option_question(f"{place}.questions[{inner}]", entry.text, key, choosing)


def _corpus_paragraph(place: str, title: str | None, paragraph: CorpusParagraph) -> Iterator[Asked]:
    for number, asking in enumerate(paragraph.qas):
        renamed = paragraph.renamed + asking.renamed
        yield _corpus_question(f"{place}.qas[{number}]", place, title, paragraph.context, asking, renamed)


def _corpus_question(
    place: str, origin: str, title: str | None, paragraph: str, asking: Asking, renamed: tuple[str, ...]
) -> Asked:
    return Asked(
        place,
        origin,
        title or paragraph,
        paragraph,
        asking.id,
        asking.question,
        asking.answers,
        impossible=bool(asking.impossible),
        renamed=renamed,
        hint=asking.hint,
    )


def _option_question(place: str, text: str, key: str, choosing: Choosing) -> Asked:
    references = (Reference.model_validate({"text": choosing.answer}),) if choosing.answer else ()
    return Asked(
        place,
        text,
        text,
        text,
        key if choosing.id is None else choosing.id,
        choosing.question,
        references,
        choosing.options,
        renamed=choosing.renamed,
    )


def _json_path(prefix: str, path: tuple[int | str, ...]) -> str:
    """Convert ("data", (3, "<article>", "paragraphs", 0, "context")) to data[3].paragraphs[0].context"""
    steps = [step for step in path if not str(step).startswith("<")]
    return (
        prefix + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
        or "top level, or `data` in it"
    )
