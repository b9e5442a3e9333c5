"""Read questions from published corpora, without verifying where answers occur (see jobs.dataset.labels).

The formats are SQuAD's tree of articles (also DRCD and CMRC 2018), CMRC 2018's flat list of paragraphs, rows with
SQuAD's columns, and data sets on the Hugging Face hub that have these columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, TypeAdapter
from pydantic import ValidationError as Invalid
from pydantic_core import ErrorDetails

from jobs.dataset.data import MAX_TEXT_CHARS, DataError, read_json, refuse

HUB = re.compile(r"hub:(?P<name>[^:@]+)(?::(?P<config>[^@]+))?(?:@(?P<split>.+))?")
HUB_SPLITS = {"valid": "validation"}

Text = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]


class Reference(BaseModel):
    """Holds one annotator's answer and the index of its first character; None if the corpus does not give the index."""

    model_config = ConfigDict(frozen=True)
    text: str
    start: int | None = Field(None, validation_alias="answer_start")


def _answer_list(answers: Any) -> Any:
    """Convert the hub's object of two lists, or CMRC 2018's strings, to SQuAD's list of objects."""
    if isinstance(answers, dict) and isinstance(answers.get("text"), list):
        texts, starts = answers["text"], answers.get("answer_start") or [None] * len(answers["text"])
        if not isinstance(starts, list):
            raise ValueError("answer_start: a list is expected")
        if len(texts) != len(starts):
            raise ValueError(f"{len(texts)} of text and {len(starts)} of answer_start; give as many of both")
        return [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if isinstance(answers, list):
        return [{"text": answer} if isinstance(answer, str) else answer for answer in answers]
    return () if answers is None else answers


class Asking(BaseModel):
    id: str = Field(validation_alias=AliasChoices("id", "query_id"), coerce_numbers_to_str=True)
    question: Text = Field(validation_alias=AliasChoices("question", "query_text"))
    answers: Annotated[tuple[Reference, ...], BeforeValidator(_answer_list)] = ()


class Titled(BaseModel):
    title: str | None = Field(None, coerce_numbers_to_str=True)


class CorpusRow(Titled, Asking):
    context: Text


class CorpusParagraph(Titled):
    context: Text = Field(validation_alias=AliasChoices("context", "context_text"))
    qas: list[Asking]


class Article(Titled):
    paragraphs: list[CorpusParagraph]


EXPECTED = {
    "missing": "missing",
    "string_type": "text is expected",
    "string_too_long": f"at most {MAX_TEXT_CHARS:,} characters are allowed; split it",
    "list_type": "a list is expected",
    "tuple_type": "a list is expected",
    "model_type": "an object is expected",
}


def _entry_kind(entry: Any) -> str:
    keys = entry if isinstance(entry, dict) else {}
    return "<article>" if "paragraphs" in keys else "<paragraph>" if "qas" in keys else "<row>"


Entries = TypeAdapter(
    list[
        Annotated[
            Annotated[Article, Tag("<article>")]
            | Annotated[CorpusParagraph, Tag("<paragraph>")]
            | Annotated[CorpusRow, Tag("<row>")],
            Discriminator(_entry_kind),
        ]
    ]
)


class Asked(NamedTuple):
    """Holds a question with its paragraph.

    `article` is the title, or the paragraph itself if there is no title. `origin` identifies the paragraph in its
    corpus.
    """

    place: str
    origin: str
    article: str
    paragraph: str
    id: str
    question: str
    references: tuple[Reference, ...]


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
        refuse([f"{source}: {_json_path(prefix, one['loc'])}: {_validation_text(one)}" for one in error.errors()])
    for number, entry in enumerate(entries):
        place = f"{source}: {prefix}[{number}]"
        if isinstance(entry, CorpusRow):
            yield _corpus_question(place, entry.context, entry.title, entry.context, entry)
        elif isinstance(entry, CorpusParagraph):
            yield from _corpus_paragraph(place, entry.title, entry)
        else:
            for inner, paragraph in enumerate(entry.paragraphs):
                yield from _corpus_paragraph(f"{place}.paragraphs[{inner}]", entry.title or paragraph.title, paragraph)


def _corpus_paragraph(place: str, title: str | None, paragraph: CorpusParagraph) -> Iterator[Asked]:
    for number, asking in enumerate(paragraph.qas):
        yield _corpus_question(f"{place}.qas[{number}]", place, title, paragraph.context, asking)


def _corpus_question(place: str, origin: str, title: str | None, paragraph: str, asking: Asking) -> Asked:
    return Asked(place, origin, title or paragraph, paragraph, asking.id, asking.question, asking.answers)


def _json_path(prefix: str, path: tuple[int | str, ...]) -> str:
    """Convert ("data", (3, "<article>", "paragraphs", 0, "context")) to data[3].paragraphs[0].context"""
    steps = [step for step in path if not str(step).startswith("<")]
    return (
        prefix + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
        or "top level, or `data` in it"
    )


def _validation_text(error: ErrorDetails) -> str:
    return EXPECTED.get(error["type"]) or error["msg"].removeprefix("Value error, ")
