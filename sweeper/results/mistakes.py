"""What a trial gets wrong, and what another one gets right: kinds of mistakes as tables and as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.answering import mistakes
from jobs.answering.mistakes import (
    KINDS,
    LENGTHS,
    READER_KINDS,
    RIGHT,
    SELECTOR_KINDS,
    TYPES,
    Kind,
    Verdict,
    count_kinds,
)
from jobs.dataset import data
from sweeper.errors import ConfigError, DataFailure
from sweeper.ledger.lookup import Trial
from sweeper.results.scores import PROFILE, metric_profile, validation_data
from sweeper.results.table import Table, one_line

ROOM = 40  # columns of an example's text in a terminal, which shows up to four side by side; two to a Chinese character


@dataclass(frozen=True)
class Diagnosis:
    """A trial's validation answers, each with its verdict.

    profile  the definition of a right answer; None for a selector
    kinds    those an answer of this trial can be of
    """

    trial: str
    job: str
    fingerprint: str
    profile: str | None
    kinds: tuple[Kind, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def right(self) -> int:
        return sum(verdict.right for verdict in self.verdicts)

    def of(self, kind: Kind) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.kind == kind]


@dataclass(frozen=True)
class DiagnosisPair:
    """Two trials on the same questions; each question is in one of the four, as (this one's verdict, the other's)."""

    this: Diagnosis
    other: Diagnosis
    both: tuple[tuple[Verdict, Verdict], ...]
    only_this: tuple[tuple[Verdict, Verdict], ...]
    only_other: tuple[tuple[Verdict, Verdict], ...]
    neither: tuple[tuple[Verdict, Verdict], ...]


def mistake_tables(trial: Trial, other: Trial | None = None, examples: int = 3) -> tuple[list[Table], dict[str, Any]]:
    """What `sweeper errors` prints: tables for a terminal or Markdown, and plain values for `sheet.json_text`.

    >>> sheets, values = errors(find_trial("readers", storage), find_trial("readers/3", storage))
    >>> values["kinds"]["boundary"], values["vs"]["only_other"]
    (31, 9)

    `examples` of each kind of mistake, and of the questions that only the other trial gets right. Both trials
    are judged by the first one's metric profile.

    Raises DataFailure when a trial's answers or its data are not there or do not belong together, ConfigError
    when two trials cannot be compared.
    """
    this = diagnose(trial)
    tables, values = diagnosis_tables(this, examples), diagnosis_values(this, examples)
    if other:
        pair = compare_diagnoses(this, diagnose(other, this.profile))
        tables, values = [*tables, *pair_tables(pair, examples)], {**values, "vs": pair_values(pair, examples)}
    return tables, values


def diagnose(trial: Trial, profile: str | None = None) -> Diagnosis:
    """Judge a trial's answers, by `profile` or else by the one it was trained with. Raises DataFailure."""
    predictions = trial.predictions()
    keys = set(predictions[0]) if predictions else set()
    if not {"answer", "paragraph"} & keys:
        raise DataFailure(f"trial {trial.name}: its answers have neither `answer` nor `paragraph`; nothing to judge")
    reads = "answer" in keys
    profile = profile or metric_profile(trial) if reads else None
    dataset = validation_data(trial)
    try:
        found = mistakes.verdicts(dataset, predictions, data.accepted(dataset, profile or PROFILE), profile or PROFILE)
    except data.DataError as error:
        raise DataFailure([f"trial {trial.name}: {line}" for line in error.lines]) from None
    kinds = READER_KINDS if reads else SELECTOR_KINDS
    return Diagnosis(trial.name, trial.job, dataset.fingerprint, profile, kinds, tuple(found))


def compare_diagnoses(this: Diagnosis, other: Diagnosis) -> DiagnosisPair:
    """Raises ConfigError when they did not answer the same questions, or one reads and the other selects."""
    if this.fingerprint != other.fingerprint:
        raise ConfigError(f"--vs {other.trial}: was run on other data than {this.trial}; name one of the same data")
    if this.kinds != other.kinds:
        raise ConfigError(
            f"--vs {other.trial}: job {other.job} and job {this.job} do not answer the same; name one that does"
        )
    pairs = list(zip(this.verdicts, other.verdicts, strict=True))

    def those(left: bool, right: bool) -> tuple[tuple[Verdict, Verdict], ...]:
        return tuple(pair for pair in pairs if (pair[0].right, pair[1].right) == (left, right))

    return DiagnosisPair(this, other, those(True, True), those(True, False), those(False, True), those(False, False))


def diagnosis_tables(one: Diagnosis, examples: int = 3) -> list[Table]:
    """Kinds; kinds by the answer's type and by its length; examples of every kind of mistake there is."""
    return [
        kinds_table(one),
        groups_table(one, "type of the right answer, guessed from its looks", TYPES, lambda verdict: verdict.type),
        groups_table(one, "characters of the right answer", list(LENGTHS), lambda verdict: verdict.length),
        *([examples_table(one, examples)] if examples and one.right < len(one.verdicts) else []),
    ]


def kinds_table(one: Diagnosis) -> Table:
    total = len(one.verdicts)
    rows = [
        [kind, count, percent_of(count, total), KINDS[kind]]
        for kind, count in count_kinds(one.verdicts, one.kinds).items()
    ]
    right = frozenset(place for place, kind in enumerate(one.kinds) if kind in RIGHT)
    definition = f", right by exact_match: {one.profile}" if one.profile else ""
    title = f"{one.trial}: {one.right} of {total} answers right ({percent_of(one.right, total)}){definition}"
    columns = ["kind", "answers", "share", "what it is"]
    return Table(columns, rows, frozenset({"kind", "what it is"}), right, title, boundary_line(one))


def boundary_line(one: Diagnosis, shown: int = 8) -> str | None:
    """How many characters the boundaries are off, the most frequent first: `boundary by +1: 12, -2: 5`."""
    ranked = boundary_counts(one).items()
    parts = [f"{extra}: {count}" for extra, count in list(ranked)[:shown]]
    more = f", other: {sum(count for _, count in list(ranked)[shown:])}" if len(ranked) > shown else ""
    return f"boundary by {', '.join(parts)}{more} (characters too many +, too few -)" if parts else None


def boundary_counts(one: Diagnosis) -> dict[str, int]:
    """How often a boundary is off by how many characters, `+2` two too many; most frequent, then nearest, first."""
    counts = Counter(verdict.extra for verdict in one.of("boundary"))
    return {f"{extra:+d}": counts[extra] for extra in sorted(counts, key=lambda n: (-counts[n], abs(n), -n))}


def groups_table(one: Diagnosis, title: str, groups: Sequence[str], group: Callable[[Verdict], str]) -> Table:
    """A line per group: its answers, how many are right, and how many of each kind of mistake there is."""
    wrong = [kind for kind, count in count_kinds(one.verdicts, one.kinds).items() if count and kind not in RIGHT]
    rows = []
    for name in groups:
        own = [verdict for verdict in one.verdicts if group(verdict) == name]
        right = sum(verdict.right for verdict in own)
        rows.append([name, len(own), right, percent_of(right, len(own)), *count_kinds(own, wrong).values()])
    return Table(["group", "answers", "right", "share", *wrong], rows, frozenset({"group"}), title=title)


def examples_table(one: Diagnosis, examples: int) -> Table:
    rows = [
        [kind_name(verdict), verdict.id, *map(shorten_text, (verdict.question, verdict.wanted, verdict.given))]
        for kind in one.kinds
        if kind not in RIGHT
        for verdict in one.of(kind)[:examples]
    ]
    columns = ["kind", "id", "question", "right", "given"]
    return Table(columns, rows, frozenset(columns), title="the first questions of each kind")


def pair_tables(pair: DiagnosisPair, examples: int = 3) -> list[Table]:
    """The 2x2 table, and the first questions that only the other trial gets right."""
    this, other = pair.this.trial, pair.other.trial
    rows = [
        [f"{this} right", len(pair.both), len(pair.only_this)],
        [f"{this} wrong", len(pair.only_other), len(pair.neither)],
    ]
    columns = ["", f"{other} right", f"{other} wrong"]
    table = Table(columns, rows, frozenset({""}), title=f"{this} against {other}, in questions")
    gains = [
        [
            kind_name(verdict),
            verdict.id,
            *map(shorten_text, (verdict.question, verdict.wanted, verdict.given, better.given)),
        ]
        for verdict, better in pair.only_other[:examples]
    ]
    columns = ["kind", "id", "question", "right", this, other]
    title = f"the first questions that only {other} gets right"
    return [table, Table(columns, gains, frozenset(columns), title=title)] if gains else [table]


def diagnosis_values(one: Diagnosis, examples: int = 3) -> dict[str, Any]:
    """Everything the tables have, texts in full length."""
    return {
        "trial": one.trial,
        "job": one.job,
        "metric_profile": one.profile,
        "questions": len(one.verdicts),
        "right": one.right,
        "kinds": count_kinds(one.verdicts, one.kinds),
        "boundary_off_by": boundary_counts(one),
        "types": _kinds_by_group(one, TYPES, lambda verdict: verdict.type),
        "lengths": _kinds_by_group(one, LENGTHS, lambda verdict: verdict.length),
        "examples": {
            kind: [_example(verdict) for verdict in one.of(kind)[:examples]] for kind in one.kinds if kind not in RIGHT
        },
    }


def pair_values(pair: DiagnosisPair, examples: int = 3) -> dict[str, Any]:
    return {
        "trial": pair.other.trial,
        "both": len(pair.both),
        "only_this": len(pair.only_this),
        "only_other": len(pair.only_other),
        "neither": len(pair.neither),
        "examples": [
            {**_example(verdict), "given_by_other": better.given} for verdict, better in pair.only_other[:examples]
        ],
    }


def _kinds_by_group(
    one: Diagnosis, groups: Iterable[str], group: Callable[[Verdict], str]
) -> dict[str, Mapping[Kind, int]]:
    return {name: count_kinds([v for v in one.verdicts if group(v) == name], one.kinds) for name in groups}


def _example(verdict: Verdict) -> dict[str, Any]:
    return {
        "id": verdict.id,
        "kind": verdict.kind,
        "extra": verdict.extra,
        "question": verdict.question,
        "right": verdict.wanted,
        "given": verdict.given,
    }


def kind_name(verdict: Verdict) -> str:
    """The kind, of a boundary with how many characters it is off."""
    return f"{verdict.kind} {verdict.extra:+d}" if verdict.kind == "boundary" else verdict.kind


def shorten_text(text: str) -> str:
    """The beginning of a text, as much as ROOM holds."""
    from rich.cells import cell_len, chop_cells

    line = one_line(text)
    return line if cell_len(line) <= ROOM else f"{chop_cells(line, ROOM - 1)[0]}…"


def percent_of(part: int, whole: int) -> str:
    """In per cent; – of nothing.

    >>> share(1, 3)
    '33.3 %'
    """
    return f"{100 * part / whole:.1f} %" if whole else "–"
