"""Write a first search space for a job and a data set, with sizes that fit the data and the machine.

Lengths are counted in characters of the data. A Chinese tokenizer makes at most one token of a character, so a length
that is enough here is enough for every backbone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import TypeAdapter

from jobs.dataset.data import SAMPLE
from jobs.files import atomic
from jobs.job import REPLACED_BY, Job
from sweeper.errors import ConfigError
from sweeper.space.document import plain_scalar
from sweeper.space.domains import literal_text
from sweeper.space.json_schema import json_schema_text
from sweeper.space.reading import read_search_space

if TYPE_CHECKING:
    from jobs.dataset.survey import Lengths, Survey, TokenLengths

SCHEMA = "schema.json"
COUNTER = "scratch:1x64x1"  # its tokenizer makes one token of each character of the data
LINE_CHARS = 120
SPECIAL_TOKENS = 3  # [CLS] and two [SEP] around a question and a paragraph
LENGTH_STEP = 32  # tokens
BATCH_TOKENS = 4096  # tokens of a batch without a GPU, where a search for the largest one would take long
BATCH_BY_QUESTIONS = ((100_000, 32), (20_000, 16), (0, 8))  # training questions and windows per step
CPU_WINDOWS = 10_000  # windows of a trial that two cores train in minutes
FEW_QUESTIONS = 5_000  # training questions; fewer need more epochs


@dataclass(frozen=True)
class Sizes:
    """Hold what differs between the shipped jobs.

    scratch      backbones for a machine without GPU
    pretrained   backbones for a machine with a GPU
    cpu_length   longest input in tokens without a GPU
    gpu_length   longest input in tokens that the pretrained backbones read
    """

    scratch: tuple[str, ...]
    pretrained: tuple[str, ...]
    cpu_length: int
    gpu_length: int


BERTS = ("bert-base-chinese", "hfl/chinese-roberta-wwm-ext", "hfl/chinese-lert-base")
SIZES = {
    "qa": Sizes(("scratch:1x64x1", "scratch:2x128x2"), BERTS, 384, 512),
    "mc": Sizes(("scratch:1x32x2", "scratch:1x64x4"), BERTS, 512, 512),
    "longformer": Sizes(("scratch:1x64x4", "scratch:2x64x4"), ("schen/longformer-chinese-base-4096",), 1024, 4096),
}


@dataclass(frozen=True)
class Line:
    """Hold one line of the file: a key, its value as YAML, and the comment that explains it."""

    key: str
    value: str
    why: str = ""


def write_starter(folder: Path, name: str, text: str) -> bool:
    """Write NAME.yaml, and schema.json if there is none; return False if another schema.json was there.

    The file is checked as `sweeper plan` checks it, and written only if it is right. Raises FileExistsError if
    NAME.yaml exists, OSError, ConfigError and DataFailure.
    """
    target, schema = folder / f"{name}.yaml", folder / SCHEMA
    if target.is_symlink() or target.exists():
        raise FileExistsError(target)
    with atomic(target) as part:
        part.write_text(text, encoding="utf-8")
        try:
            read_search_space(part)
        except ConfigError as error:
            raise ConfigError([line.replace(str(part), target.name) for line in error.lines]) from None
        if not (schema.is_symlink() or schema.exists()):
            with atomic(schema) as described:
                described.write_text(json_schema_text(), encoding="utf-8")
    return schema.is_file() and schema.read_bytes() == json_schema_text().encode()


def starter_name(job: Job) -> str:
    """Return a name for the search space of a job: the job's name, in characters that a sweep's name may have."""
    return re.sub("[^A-Za-z0-9_-]+", "-", job.name).strip("-")[:64] or "sweep"


def starter_text(name: str, job: Job, path: str, data: str, found: Survey | None, gpus: bool) -> str:
    """Return the text of a search space.

    path   the job as a search space names it
    data   the data set as a search space names it
    found  the measurements of the data with the tokenizer COUNTER, for a job in SIZES; None for another job
    gpus   True if trials can use a GPU
    """
    lines = shipped_lines(path, found, gpus) if found else own_lines(job)
    objective, *others = job.metrics or ["none"]
    searched = [line.key for line in lines if line.value.startswith("{")]
    sample = "replace by a folder with context.json, train.json, valid.json" if data == SAMPLE else ""
    top = [
        Line("name", name),
        Line("job", yaml_scalar(path)),
        Line("data", yaml_scalar(data), sample),
        Line("objective", objective, f"or {', '.join(others)}" if others else ""),
    ]
    epochs = next((int(line.value) for line in lines if line.key == "num_train_epochs"), 1)
    return "\n".join(
        [
            f"# yaml-language-server: $schema=./{SCHEMA}",
            f"# Which {names_in_words(searched)} {'give' if len(searched) > 1 else 'gives'} the best {objective}?",
            f"#   sweeper plan {name}.yaml        show the plan, run nothing",
            f"#   sweeper run  {name}.yaml",
            f"#   sweeper run  {name}.yaml search.trials=2 parameters.num_train_epochs=1 name=glimpse",
            f"# `sweeper params {path}` prints all parameters of the job with bounds, default and help.",
            *_written(top, ""),
            "parameters:",
            *_written(lines, "  "),
            *(default_lines(job, [line.key for line in lines]) if not found else []),
            "search: {sampler: tpe, trials: 8, seed: 42}",
            *(["early_stopping: {scheduler: asha, grace_period: 1, reduction_factor: 2}"] if epochs > 1 else []),
            "",
        ]
    )


def names_in_words(names: Sequence[str]) -> str:
    """Return names as a list in words: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def yaml_scalar(value: str) -> str:
    """Return text as a YAML scalar on one line, in quotes where they are needed.

    >>> yaml_scalar("data/hw"), yaml_scalar("2024"), yaml_scalar("my data")
    ('data/hw', '"2024"', '"my data"')
    """
    if re.fullmatch(r"[\w./][\w./:-]*(?<!:)", value) and not value[0].isdigit() and plain_scalar(value) == value:
        return value
    quoted = json.dumps(value, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in quoted)


def _written(lines: Iterable[Line], indent: str) -> Iterator[str]:
    """Yield the lines with their comments behind them, or above them if a line would be longer than LINE_CHARS."""
    for line in lines:
        text = f"{indent}{line.key}: {line.value}"
        beside = f"{text:<38}  # {line.why}"
        if line.why and len(beside) > LINE_CHARS:
            yield f"{indent}# {line.why}"
        yield beside if line.why and len(beside) <= LINE_CHARS else text


# a job of one's own


def own_lines(job: Job) -> list[Line]:
    """Return the parameters of any job: its backbone, its epochs, and a learning rate or seeds to search."""
    defaults = {field.name: field.default for field in fields(job.params)}
    return [
        Line("backbone", yaml_scalar(str(defaults["backbone"]))),
        rate_line(job, defaults.get("learning_rate"))
        or Line("seed", "{values: [42, 43, 44]}", "shows how much of a result is chance"),
        Line("num_train_epochs", str(defaults["num_train_epochs"])),
    ]


def rate_line(job: Job, default: Any) -> Line | None:
    """Return a range around the default learning rate, as far as the job accepts its ends; None if it has none."""
    if not isinstance(default, float) or default <= 0:
        return None
    ends = [end for factor in (0.1, 10) if _accepts(job, end := float(f"{default * factor:.3g}"))]
    low, high = min([default, *ends]), max([default, *ends])
    if low == high:
        return None
    domain = f"{{min: {literal_text(low)}, max: {literal_text(high)}, log: true}}"
    return Line("learning_rate", domain, f"the default is {literal_text(default)}")


def _accepts(job: Job, rate: float) -> bool:
    try:
        TypeAdapter(get_type_hints(job.params, include_extras=True)["learning_rate"]).validate_python(rate)
        job.params(learning_rate=rate)
    except ValueError:  # pydantic's ValidationError and ParamError are ValueErrors
        return False
    return True


def default_lines(job: Job, written: Container[str]) -> Iterator[str]:
    """Yield the other parameters with their defaults and help, as comments."""
    for field in fields(job.params):
        if field.name not in written and REPLACED_BY not in field.metadata:
            told = " ".join(str(field.metadata.get("help", "")).split())
            yield f"{f'  # {field.name}: {literal_text(field.default)}':<40}  {told}".rstrip()


# a shipped job


def shipped_lines(job: str, found: Survey, gpus: bool) -> list[Line]:
    """Return the parameters of a job in SIZES, with sizes for this data and machine."""
    sizes, tokens = SIZES[job], _tokens(found)
    questions = found.questions["train"]
    length = input_length(job, tokens, sizes.gpu_length if gpus else sizes.cpu_length)
    batch = next(size for least, size in BATCH_BY_QUESTIONS if questions >= least)
    lines = [
        backbone_line(sizes, gpus),
        Line("learning_rate", f"{{min: {'2e-5, max: 8e-5' if gpus else '2e-4, max: 4e-3'}, log: true}}"),
        Line("warmup_ratio", "{min: 0.0, max: 0.2}"),
        Line("effective_batch_size", str(batch), f"about {ceil(questions / batch):,} steps an epoch"),
        *([] if gpus else [device_line(job, found, int(length.value), batch)]),
        epochs_line(questions, gpus),
        length,
    ]
    if job != "mc":
        lines += answer_lines(tokens.answer, int(length.value))
    return lines + (long_lines(int(length.value), gpus) if job == "longformer" else [])


def _tokens(found: Survey) -> TokenLengths:
    assert found.tokens is not None
    return found.tokens


def backbone_line(sizes: Sizes, gpus: bool) -> Line:
    names = ", ".join(f'"{name}"' if ":" in name else name for name in (sizes.pretrained if gpus else sizes.scratch))
    if gpus:
        return Line("backbone", f"{{values: [{names}]}}", "pretrained base models, downloaded once")
    return Line("backbone", f"{{values: [{names}]}}", "without a GPU: small models with random weights")


def input_length(job: str, tokens: TokenLengths, limit: int) -> Line:
    """Return the line of max_length: as long as the longest input, up to `limit` tokens."""
    longest, longer = {
        "qa": (tokens.relevant.largest, tokens.relevant_longer),
        "mc": (tokens.question.largest + tokens.paragraph.largest + SPECIAL_TOKENS, tokens.relevant_longer),
        "longformer": (tokens.joined.largest, tokens.joined_longer),
    }[job]
    what = "question with all its paragraphs" if job == "longformer" else "question with its paragraph"
    if longest <= limit:
        fitting = max(2 * LENGTH_STEP, ceil(longest / LENGTH_STEP) * LENGTH_STEP)
        return Line("max_length", str(min(fitting, limit)), f"the longest {what} has {longest:,} tokens at most")
    how = "their ends are cut off" if job == "mc" else "they are cut into overlapping windows"
    return Line("max_length", str(limit), f"{longer[limit]:.0%} of the inputs are longer; {how}")


def device_line(job: str, found: Survey, length: int, batch: int) -> Line:
    """Return the line of per_device_train_batch_size: a power of two with about BATCH_TOKENS tokens."""
    rows = max(found.candidates) if job == "mc" else 1
    most = max(1, min(batch, BATCH_TOKENS // (length * rows)))
    size = 1 << (most.bit_length() - 1)
    each = f"questions of {rows} paragraphs" if job == "mc" else "windows"
    return Line("per_device_train_batch_size", str(size), f"{each} of {length:,} tokens; halved when memory runs out")


def epochs_line(questions: int, gpus: bool) -> Line:
    if gpus:
        epochs = 5 if questions < FEW_QUESTIONS else 3
        return Line("num_train_epochs", str(epochs), f"{questions:,} training questions")
    epochs = min(10, max(1, round(CPU_WINDOWS / max(1, questions))))
    return Line("num_train_epochs", str(epochs), f"{questions:,} training questions: minutes for a trial on CPUs")


def answer_lines(answer: Lengths, length: int) -> list[Line]:
    """Return the lines of doc_stride and max_answer_length. A few very long answers do not count for the latter."""
    stride = max(length // 4, min(answer.largest, length // 2 - 5))
    longest = min(length, ceil((answer.largest if answer.largest <= 64 else 2 * answer.p95) / 10) * 10)
    told = f"the longest answer has {answer.largest:,} tokens"
    return [
        Line("doc_stride", str(stride), f"tokens that neighbouring windows share; {told}"),
        Line("max_answer_length", str(longest), f"95 % of the answers have up to {answer.p95:,.0f} tokens; {told}"),
    ]


def long_lines(length: int, gpus: bool) -> list[Line]:
    window = min(512, length) if gpus else 64
    return [Line("attention_window", str(window), "neighbours that a token attends to")]
