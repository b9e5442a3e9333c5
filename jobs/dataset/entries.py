"""Describe the entries of published corpora: articles, paragraphs, rows, and texts with multiple-choice questions.

Keys with other names are read where only one of them can be meant; `renamed` tells which.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    model_validator,
)
from pydantic_core import ErrorDetails

from jobs.dataset.data import MAX_TEXT_CHARS
from jobs.suggestions import nearest, short

MAX_KEYS = 8  # keys of an entry that a message names
RENAMED = "<renamed>"  # stands beside the keys of an entry, and is no key that a corpus has
ANSWER_SIMILARITY = 70  # percent; a less similar key is no misspelt `answers`
OPTION_KEYS = ("choice", "choices", "options")
ANSWER_KEYS = ("answer", "answer_text", "answer_texts")
ANSWER_NAME = re.compile("answers?$|答案", re.IGNORECASE)
NO_ANSWER_KEYS = {"plausible_answers", "yesno_answers"}
START_KEYS = ("answer_start", "answer_starts", "start")

Text = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]


class Reference(BaseModel):
    """Holds one annotator's answer and the index of its first character; None if the corpus does not give the index."""

    model_config = ConfigDict(frozen=True)
    text: Annotated[str, BeforeValidator(lambda text: "" if text is None else text)] = Field(
        validation_alias=AliasChoices("text", "answer_text", "answer")
    )
    start: int | None = Field(None, validation_alias=AliasChoices("answer_start", "start"))


class Entry(BaseModel):
    """Holds an entry of a corpus; `others` has the names of keys that are read where the usual key is missing."""

    others: ClassVar[Mapping[str, Sequence[str]]] = {}
    renamed: tuple[str, ...] = Field((), validation_alias=RENAMED)

    @model_validator(mode="before")
    @classmethod
    def _with_usual_keys(cls, entry: Any) -> Any:
        if not isinstance(entry, dict):
            return entry
        usual = {**entry, RENAMED: tuple(entry.get(RENAMED, ()))}
        for name, field in cls.model_fields.items():
            alias = field.validation_alias
            known = alias.choices if isinstance(alias, AliasChoices) else [alias or name]
            found = [key for key in cls.others.get(name, ()) if entry.get(key) is not None]
            if found and all(entry.get(key) is None for key in known) and _one_value(entry, found):
                usual[known[0]] = entry[found[0]]
                usual[RENAMED] += (f"`{found[0]}` as `{known[0]}`",)
        return usual


def _one_value(entry: Mapping[str, Any], keys: Sequence[str]) -> bool:
    return all(entry[key] == entry[keys[0]] for key in keys)


def _answer_list(answers: Any) -> Any:
    """Convert the hub's object of two lists, one object, or CMRC 2018's strings to SQuAD's list of objects."""
    if isinstance(answers, dict) and isinstance(answers.get("text"), list):
        texts = answers["text"]
        starts = next((answers[key] for key in START_KEYS if answers.get(key)), [None] * len(texts))
        if not isinstance(starts, list):
            raise ValueError("answer_start: a list is expected")
        if len(texts) != len(starts):
            raise ValueError(f"{len(texts)} of text and {len(starts)} of answer_start; give as many of both")
        return [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if isinstance(answers, dict):
        return [answers]
    if isinstance(answers, list):
        return [{"text": answer} if isinstance(answer, str) else answer for answer in answers]
    return () if answers is None else answers


class Asking(Entry):
    others = {"id": ("question_id", "qid"), "question": ("query",)}

    id: str = Field(validation_alias=AliasChoices("id", "query_id"), coerce_numbers_to_str=True)
    question: Text = Field(validation_alias=AliasChoices("question", "query_text"))
    answers: Annotated[tuple[Reference, ...], BeforeValidator(_answer_list)] = ()
    impossible: bool | None = Field(None, validation_alias="is_impossible")
    hint: str = Field("", validation_alias="<hint>")

    @model_validator(mode="before")
    @classmethod
    def _with_answers(cls, row: Any) -> Any:
        """Read the answers from another key if `answers` holds none."""
        if not isinstance(row, dict):
            return row
        if row.get("answers"):
            return {**row, "answers": _with_starts(row, row["answers"])}
        found = [key for key in ANSWER_KEYS if row.get(key) is not None]
        if not found:
            return {**row, "<hint>": _answer_hint(row)}
        if not _one_value(row, found):
            raise ValueError(f"`{found[0]}` and `{found[1]}` found, `answers` wanted; give one list `answers`")
        told = (f"`{found[0]}` as `answers`",)
        return {**row, "answers": _named_answers(row, found[0]), RENAMED: (*row.get(RENAMED, ()), *told)}


def _named_answers(row: Mapping[str, Any], key: str) -> Any:
    """Return what a key in place of `answers` holds, in a form of `answers`."""
    answers = row[key]
    if isinstance(answers, str):
        answers = [answers]
    if not isinstance(answers, list | dict):
        raise ValueError(f'`{key}` found, `answers` wanted; write [{{"text": …, "answer_start": …}}]')
    return _with_starts(row, answers)


def _with_starts(row: Mapping[str, Any], answers: Any) -> Any:
    """Return a list of texts together with the starts beside it in the row; anything else as it is."""
    starts = next((row[name] for name in START_KEYS if row.get(name) is not None), None)
    if starts is None or not isinstance(answers, list) or not all(isinstance(one, str) for one in answers):
        return answers
    return {"text": answers, "answer_start": starts if isinstance(starts, list) else [starts]}


def _answer_hint(row: Mapping[str, Any]) -> str:
    """Return ": `anwsers` found, `answers` wanted" if a key resembles `answers` and holds something; else nothing."""
    held = [key for key, value in row.items() if value and isinstance(value, str | list | dict)]
    held = [key for key in held if key not in NO_ANSWER_KEYS]
    near = nearest("answers", held, ANSWER_SIMILARITY) or next((key for key in held if ANSWER_NAME.search(key)), None)
    return f": `{short(near)}` found, `answers` wanted" if near else ""


class Titled(Entry):
    title: str | None = Field(None, coerce_numbers_to_str=True)


TITLES = ("context_title", "article_title", "document_title")
CONTEXTS = ("paragraph", "passage", "document", "article", "content", "text")


class CorpusRow(Titled, Asking):
    others = {**Asking.others, "title": TITLES, "context": CONTEXTS}

    context: Text = Field(validation_alias=AliasChoices("context", "context_text"))


class CorpusParagraph(Titled):
    others = {"title": TITLES, "context": CONTEXTS}

    context: Text = Field(validation_alias=AliasChoices("context", "context_text"))
    qas: list[Asking]


class Article(Titled):
    others = {"title": TITLES}

    paragraphs: list[CorpusParagraph]


def _joined_lines(text: Any) -> Any:
    lines = text if isinstance(text, list) else [text]
    return "\n".join(lines) if all(isinstance(line, str) for line in lines) else text


Lines = Annotated[Text, BeforeValidator(_joined_lines)]  # the paragraphs of a text, or what is said in a dialogue


def _stripped(options: Any) -> Any:
    return [one.strip() if isinstance(one, str) else one for one in options] if isinstance(options, list) else options


def _one_answer(answer: Any) -> Any:
    one = answer[0] if isinstance(answer, list) and len(answer) == 1 else answer
    return one.strip() if isinstance(one, str) else one


class Choosing(Entry):
    """Holds a multiple-choice question. Its answer is empty or missing where it is not published."""

    others = {"answer": ("answers", "answer_text"), "question": ("query",)}

    id: str | None = Field(None, coerce_numbers_to_str=True)
    question: Text
    options: Annotated[tuple[Text, ...], BeforeValidator(_stripped)] = Field(
        validation_alias=AliasChoices(*OPTION_KEYS)
    )
    answer: Annotated[str | None, BeforeValidator(_one_answer)] = None


class OptionsRow(Choosing):
    others = {**Choosing.others, "text": ("document", "documents", "paragraph", "passage", "article")}

    text: Lines = Field(validation_alias="context")


class OptionsText(BaseModel):
    """Holds a text or a dialogue of C3 with its questions."""

    text: Lines = Field(validation_alias="documents")
    questions: list[Choosing]
    id: str | None = Field(None, validation_alias="document_id", coerce_numbers_to_str=True)

    @model_validator(mode="before")
    @classmethod
    def _named(cls, entry: Any) -> Any:
        """Name the places of C3's lists, and turn the hub's object of lists into a list of questions."""
        if isinstance(entry, list):
            if len(entry) not in (2, 3):
                raise ValueError("three entries are expected: the text, its questions and its id")
            return dict(zip(("documents", "questions", "document_id"), entry, strict=False))
        questions = entry.get("questions")
        if isinstance(questions, dict) and all(isinstance(values, list) for values in questions.values()):
            rows = zip(*questions.values(), strict=False)
            return {**entry, "questions": [dict(zip(questions, row, strict=True)) for row in rows]}
        return entry


def _entry_kind(entry: Any) -> str:
    keys = entry if isinstance(entry, dict) else {}
    if isinstance(entry, list) or {"documents", "questions"} <= set(keys):
        return "<text>"
    if any(key in keys for key in OPTION_KEYS):
        return "<options>"
    return "<article>" if "paragraphs" in keys else "<paragraph>" if "qas" in keys else "<row>"


Entries = TypeAdapter(
    list[
        Annotated[
            Annotated[Article, Tag("<article>")]
            | Annotated[CorpusParagraph, Tag("<paragraph>")]
            | Annotated[CorpusRow, Tag("<row>")]
            | Annotated[OptionsRow, Tag("<options>")]
            | Annotated[OptionsText, Tag("<text>")],
            Discriminator(_entry_kind),
        ]
    ]
)
EXPECTED = {
    "string_type": "text is expected",
    "string_too_long": f"at most {MAX_TEXT_CHARS:,} characters are allowed; split it",
    "list_type": "a list is expected",
    "tuple_type": "a list is expected",
    "model_type": "an object is expected",
    "bool_parsing": "true or false is expected",
    "bool_type": "true or false is expected",
}


def validation_text(error: ErrorDetails) -> str:
    """Return what is wrong with an entry, as the end of a line that names its place."""
    if error["type"] == "missing":
        keys = [short(str(key)) for key in error["input"] if not str(key).startswith("<")]
        more = ", …" if len(keys) > MAX_KEYS else ""
        return f"missing; found: {', '.join(keys[:MAX_KEYS]) or 'nothing'}{more}"
    return EXPECTED.get(error["type"]) or error["msg"].removeprefix("Value error, ")
