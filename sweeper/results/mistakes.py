"""Count the mistakes in one trial's answers, or two trials', by kind: as tables to print and as dicts for JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
    verdicts,
)
from jobs.dataset.data import accepted
from sweeper.errors import ConfigError, NoPredictions
from sweeper.ledger.lookup import Trial
from sweeper.results.scores import PREDICTION_KEYS, metric_profile, validation_data, verified_scores
from sweeper.results.table import Table, one_line

EXAMPLE_COLUMNS = 40  # width of an example's text on the terminal; a Chinese character takes two columns


@dataclass(frozen=True)
class Diagnosis:
    """Hold the verdict on each validation answer of a trial.

    fingerprint  the data set's fingerprint
    profile      the metric profile that defines a right answer; None for a selector
    kinds        the kinds that this trial's answers can have
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
    """Hold the verdicts of two trials on the same questions, as pairs (verdict of `this`, verdict of `other`).

    Each pair is in one of four groups: both right, only `this` right, only `other` right, or neither right.
    """

    this: Diagnosis
    other: Diagnosis
    both: tuple[tuple[Verdict, Verdict], ...]
    only_this: tuple[tuple[Verdict, Verdict], ...]
    only_other: tuple[tuple[Verdict, Verdict], ...]
    neither: tuple[tuple[Verdict, Verdict], ...]


def mistake_tables(trial: Trial, other: Trial | None = None, examples: int = 3) -> tuple[list[Table], dict[str, Any]]:
    """Return the tables that `sweeper errors` prints, and the same content as dicts and lists for JSON.

    >>> tables, values = mistake_tables(find_trial("readers", storage), find_trial("readers/3", storage))
    >>> values["kinds"]["boundary"], values["vs"]["only_other"]
    (31, 9)

    `examples` is the number of examples of each kind of mistake, and of questions that only `other` answers
    correctly. Both trials are judged by the metric profile of `trial`.

    Raises DataFailure when predictions or data are missing or do not belong together, ConfigError when two trials
    cannot be compared or a trial's recomputed scores are not the reported ones.
    """
    this = diagnose(trial)
    tables, values = diagnosis_tables(this, examples), diagnosis_values(this, examples)
    if other:
        pair = compare_diagnoses(this, diagnose(other, this.profile))
        tables, values = [*tables, *pair_tables(pair, examples)], {**values, "vs": pair_values(pair, examples)}
    return tables, values


def diagnose(trial: Trial, profile: str | None = None) -> Diagnosis:
    """Classify a trial's answers by `profile` (default: the profile it was trained with).

    Raises DataFailure when predictions or data are missing or do not belong together, ConfigError when the
    predictions' recomputed scores are not the reported ones.
    """
    data, predictions = validation_data(trial), trial.predictions()
    scores = verified_scores(trial, data, predictions)
    if not scores:
        raise NoPredictions(
            f"trial {trial.name}: its predictions have neither `answer` nor `paragraph`, so nothing can be judged; "
            f"{PREDICTION_KEYS}"
        )
    reads = "exact_match" in scores
    if reads and not all(isinstance(prediction.get("start"), int) for prediction in predictions):
        raise ConfigError(f"trial {trial.name}: its predictions lack `start`; {PREDICTION_KEYS}")
    profile = profile or metric_profile(trial)
    found = verdicts(data, predictions, accepted(data, profile), profile)
    kinds = READER_KINDS if reads else SELECTOR_KINDS
    return Diagnosis(trial.name, trial.job, data.fingerprint, profile if reads else None, kinds, tuple(found))


def compare_diagnoses(this: Diagnosis, other: Diagnosis) -> DiagnosisPair:
    """Group the questions by the trials that answered them correctly.

    Raises ConfigError when the trials have different data, or when one is a reader and the other a selector.
    """
    if this.fingerprint != other.fingerprint:
        raise ConfigError(f"--vs {other.trial}: has other data than {this.trial}; name a trial of the same data")
    if this.kinds != other.kinds:
        raise ConfigError(
            f"--vs {other.trial}: job {other.job} and job {this.job} answer differently; name one of {this.job}"
        )
    pairs = list(zip(this.verdicts, other.verdicts, strict=True))

    def group(left: bool, right: bool) -> tuple[tuple[Verdict, Verdict], ...]:
        return tuple(pair for pair in pairs if (pair[0].right, pair[1].right) == (left, right))

    return DiagnosisPair(this, other, group(True, True), group(True, False), group(False, True), group(False, False))


def diagnosis_tables(one: Diagnosis, examples: int = 3) -> list[Table]:
    """Return tables of the kinds, of the kinds by answer type and length, and of examples of each mistake."""
    return [
        kinds_table(one),
        groups_table(one, "type of the right answer, guessed from its form", TYPES, lambda verdict: verdict.type),
        groups_table(one, "characters of the right answer", list(LENGTHS), lambda verdict: verdict.length),
        *([examples_table(one, examples)] if examples and one.right < len(one.verdicts) else []),
    ]


def kinds_table(one: Diagnosis) -> Table:
    total = len(one.verdicts)
    rows = [
        [kind, count, percent_of(count, total), KINDS[kind]]
        for kind, count in count_kinds(one.verdicts, one.kinds).items()
    ]
    right = frozenset(index for index, kind in enumerate(one.kinds) if kind in RIGHT)
    definition = f", right by exact_match: {one.profile}" if one.profile else ""
    title = f"{one.trial}: {one.right} of {total} answers right ({percent_of(one.right, total)}){definition}"
    columns = ["kind", "answers", "share", "what it is"]
    return Table(columns, rows, frozenset({"kind", "what it is"}), right, title, boundary_line(one))


def boundary_line(one: Diagnosis, shown: int = 8) -> str | None:
    """Return the most frequent boundary differences as text, such as `boundary by +1: 12, -2: 5`, or None."""
    ranked = boundary_counts(one).items()
    parts = [f"{extra}: {count}" for extra, count in list(ranked)[:shown]]
    more = f", other: {sum(count for _, count in list(ranked)[shown:])}" if len(ranked) > shown else ""
    return f"boundary by {', '.join(parts)}{more} (characters too many +, too few -)" if parts else None


def boundary_counts(one: Diagnosis) -> dict[str, int]:
    """Count the `boundary` answers by the difference in length: `+2` is two characters too long, `-1` one too short.

    The most frequent difference comes first; of equally frequent ones, the smaller comes first.
    """
    counts = Counter(verdict.extra for verdict in one.of("boundary"))
    return {f"{extra:+d}": counts[extra] for extra in sorted(counts, key=lambda n: (-counts[n], abs(n), -n))}


def groups_table(one: Diagnosis, title: str, groups: Sequence[str], group: Callable[[Verdict], str]) -> Table:
    """Return a table with one row per group: number of answers, right answers, and each kind of mistake."""
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
    """Return the 2×2 table of right and wrong answers of two trials, and examples that only the other one answers
    correctly."""
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
    """Return the content of `diagnosis_tables` as dicts and lists, with texts in full length."""
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
    """Return the kind of the verdict, for a boundary with the difference in characters, as in `boundary -1`."""
    return f"{verdict.kind} {verdict.extra:+d}" if verdict.kind == "boundary" else verdict.kind


def shorten_text(text: str) -> str:
    """Cut a text to one line of EXAMPLE_COLUMNS terminal columns."""
    from rich.cells import cell_len, chop_cells

    line = one_line(text)
    return line if cell_len(line) <= EXAMPLE_COLUMNS else f"{chop_cells(line, EXAMPLE_COLUMNS - 1)[0]}…"


def percent_of(part: int, whole: int) -> str:
    """Format a share in percent. Return – if `whole` is 0.

    >>> percent_of(1, 3)
    '33.3 %'
    """
    return f"{100 * part / whole:.1f} %" if whole else "–"
