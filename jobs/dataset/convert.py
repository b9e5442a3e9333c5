"""Build a data set in the assignment's format from published corpora.

Chooses distractor paragraphs, makes splits that share no article, and writes the files. jobs.dataset.corpora reads
the corpora; jobs.dataset.labels verifies the answers.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, count
from pathlib import Path
from random import Random
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from jobs.dataset.bm25 import most_similar
from jobs.dataset.corpora import Asked, read_corpus
from jobs.dataset.data import CANDIDATES, LABELS, OPTIONS, ORIGIN, REFERENCES, SPLITS, DataError, refuse
from jobs.dataset.labels import OPTION, UNLABELLED, Labelled, flaw, label_answers, only_placeholders, without_labels
from jobs.dataset.sample import sample_files
from jobs.features.blanks import has_text, text_span
from jobs.files import atomic
from jobs.suggestions import unknown_name

Distractors = Literal["article", "bm25"]
NO_ANSWERS = ("no answer", "empty answer", "placeholder")  # reasons of jobs.dataset.labels
T = TypeVar("T")


@dataclass(frozen=True)
class ConversionCounts:
    """Counts the results of a conversion.

    questions, paragraphs, articles   by split; for multiple-choice questions, paragraphs are the texts
    merged        duplicates of a paragraph that became one
    shared        paragraphs in more than one split; possible only if splits have their own sources
    answers       by how they were found: exact, repaired, located, option, unlabelled (see jobs.dataset.labels)
    dropped       questions left out, by reason
    distractors   by source: the same article, BM25, random
    renamed       questions by the keys that were read in place of the usual ones
    notes         sentences about what was decided
    """

    questions: dict[str, int]
    paragraphs: dict[str, int]
    articles: dict[str, int]
    merged: int
    shared: int
    answers: dict[str, int]
    dropped: dict[str, int]
    distractors: dict[str, int]
    renamed: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the counts as lines of text."""
        what = "texts" if OPTION in self.answers else "paragraphs"
        sizes = [
            f"{split}: {self.questions[split]:,} questions on {self.paragraphs[split]:,} {what}"
            f" of {self.articles[split]:,} articles"
            for split in self.questions
        ]
        tables = {
            "answers": self.answers,
            "distractors": self.distractors,
            "dropped": self.dropped,
            "read": self.renamed,
        }
        told = [f"{name}: {_count_words(table)}" for name, table in tables.items() if table]
        told += [f"paragraphs that were the same text, merged: {self.merged:,}"] if self.merged else []
        told += [f"paragraphs in more than one split: {self.shared:,}"] if self.shared else []
        return sizes + told + self.notes

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def _count_words(table: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in table.items())


def convert(
    sources: Mapping[str, Sequence[str | Path]],
    output: Path,
    distractors: Distractors = "article",
    candidates: int = 4,
    seed: int = 0,
    valid_share: float = 0.0,
    test_share: float = 0.0,
) -> ConversionCounts:
    """Convert the questions of `sources` into the folder `output`, in the format that `read_data` reads.

        convert({"train": ["DRCD_training.json"], "valid": ["DRCD_dev.json"]}, Path("data/drcd"))
        convert({"train": ["hub:hfl/cmrc2018"]}, Path("data/cmrc"), "bm25", valid_share=0.1, test_share=0.1)

    sources       by split, the files and hub names that `jobs.dataset.corpora.read_corpus` reads
    distractors   "article": from the same article, then by BM25; "bm25": by BM25 alone. Random paragraphs fill up.
                  All come from the question's own split
    candidates    number of paragraphs of a question, including the relevant one
    valid_share, test_share   share of train's questions, in whole articles, for a split without its own sources

    The folder appears only when it is complete. test_labels.json has the labels of test questions, references.json the
    questions with several answers. If no test question has an answer, test.json has all of them and there is no
    test_labels.json. Multiple-choice questions have their options as paragraphs and need no distractors; their text
    stands in front of the question. The same arguments give the same files. Raises DataError with every mistake found.
    """
    shares = {"valid": valid_share, "test": test_share}
    refuse(list(_option_mistakes(sources, output, distractors, candidates, shares)))
    rng = Random(seed)
    asked = _read_sources(sources)
    labelled, dropped, notes = _label_all(asked)
    if any(shares.values()):
        labelled |= split_by_article(labelled["train"], shares, rng)
        labelled = {split: labelled[split] for split in SPLITS if split in labelled}
    options = _have_options(asked)
    refuse(list(_size_mistakes(labelled, 0 if options else candidates, dropped)))
    if options:
        choices: dict[str, list[dict[str, str]]] = {split: [{} for _ in rows] for split, rows in labelled.items()}
        notes.append("the options are the candidates; --distractors and --candidates are not used")
    else:
        choices = {
            split: _choose_distractors(rows, distractors, candidates - 1, rng) for split, rows in labelled.items()
        }
    counts = _conversion_counts(labelled, dropped, choices, notes)
    origin = {
        "sources": {split: [_source_name(source) for source in named] for split, named in sources.items()},
        **({"kind": OPTIONS} if options else {"distractors": distractors, "candidates": candidates}),
        **{"seed": seed, "shares": shares, "counts": counts.as_dict()},
    }
    _write_folder(output, {**_assignment_files(labelled, choices, rng), Path(ORIGIN).stem: origin})
    return counts


def write_sample(output: Path) -> None:
    """Write the built-in sample as files. Raises DataError when `output` is not a new or empty folder."""
    refuse(list(_output_mistakes(output)))
    content = sample_files()
    unlabelled = [{key: row[key] for key in ("id", "question", "paragraphs")} for row in content["test"]]
    _write_folder(output, {**content, "test": unlabelled, "test_labels": content["test"]})


def _source_name(source: str | Path) -> str:
    """Return a source's name without its folder, which may be private."""
    return str(source) if str(source).startswith("hub:") else Path(source).name


def _option_mistakes(
    sources: Mapping[str, Any], output: Path, distractors: str, candidates: int, shares: Mapping[str, float]
) -> Iterator[str]:
    for split in sources:
        if split not in SPLITS:
            yield unknown_name("split", split, SPLITS)
    if not sources.get("train"):
        yield "train: no source; name at least one file"
    if not sources.get("valid") and not shares["valid"]:
        yield "valid: no source; name one, or give it a share of train"
    for split, share in shares.items():
        if share and sources.get(split):
            yield f"{split}: has a source and a share of train; keep one of the two"
    if min(shares.values()) < 0 or sum(shares.values()) >= 1:
        yield f"shares of {_percent(shares)}: none may be negative, and their sum must be below 100 %"
    if distractors not in get_args(Distractors):
        yield unknown_name("kind of distractors", distractors, get_args(Distractors))
    if candidates not in CANDIDATES:
        yield f"candidates: {candidates}; {CANDIDATES.start} to {CANDIDATES.stop - 1} are expected"
    yield from _output_mistakes(output)


def _output_mistakes(output: Path) -> Iterator[str]:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        yield f"{output}: already exists and is not empty; name a new folder"


def _percent(shares: Mapping[str, float]) -> str:
    return " and ".join(f"{share:.0%}" for share in shares.values())


def _read_sources(sources: Mapping[str, Sequence[str | Path]]) -> dict[str, list[Asked]]:
    mistakes: list[str] = []
    asked: dict[str, list[Asked]] = {split: [] for split in SPLITS if sources.get(split)}
    for split, questions in asked.items():
        for source in sources[split]:
            try:
                questions += read_corpus(source, split)
            except DataError as error:
                mistakes += error.lines
    refuse(mistakes)
    if len({row.options is None for questions in asked.values() for row in questions}) > 1:
        refuse(["the sources hold both multiple-choice questions and others; convert them into two folders"])
    return _with_own_ids(asked)


def _have_options(asked: Mapping[str, Iterable[Asked]]) -> bool:
    return any(row.options is not None for rows in asked.values() for row in rows)


def _with_own_ids(asked: Mapping[str, Sequence[Asked]]) -> dict[str, list[Asked]]:
    """Give multiple-choice questions of one id ids of their own, as the hub's rows have the number of their text.

    Test questions come first and keep their ids, because a contest asks for them.
    """
    content: dict[str, Asked] = {}

    def own(row: Asked, split: str) -> Asked:
        names = chain((row.id, f"{split}-{row.id}"), (f"{split}-{row.id}-{number}" for number in count(2)))
        name = next(name for name in names if _same_question(content.setdefault(name, row), row))
        return row._replace(id=name)

    made = {
        split: [row if row.options is None else own(row, split) for row in asked[split]]
        for split in sorted(asked, key=SPLITS[::-1].index)
    }
    return {split: made[split] for split in asked}


def _same_question(first: Asked, second: Asked) -> bool:
    return (first.question, first.paragraph, first.options) == (second.question, second.paragraph, second.options)


def _label_all(
    asked: Mapping[str, Sequence[Asked]],
) -> tuple[dict[str, list[Labelled]], Counter[str], list[str]]:
    """Return the questions to keep by split, the number of dropped questions by reason, and notes on the test split."""
    kept: dict[str, list[Labelled]] = {}
    dropped: Counter[str] = Counter()
    notes: list[str] = []
    for split, rows in _without_repetitions(asked, dropped).items():
        labels = label_answers(rows)
        if split == "test" and rows:
            labels, told = _test_labels(rows, labels)
            notes += told
        kept[split] = [label for label in labels if isinstance(label, Labelled)]
        dropped.update(label for label in labels if isinstance(label, str))
    return kept, dropped, notes


def _test_labels(rows: Sequence[Asked], labels: list[Labelled | str]) -> tuple[list[Labelled | str], list[str]]:
    """Return the labels of a test split, or its questions without labels if it has no answers, and what to tell."""
    reasons = Counter(label for label in labels if isinstance(label, str))
    if only_placeholders(rows, labels):
        why = f" ({_count_words(dict(reasons.most_common()))})" if reasons else ""
        return without_labels(rows), [f"test: no answers{why}; test.json is without labels, and there is no {LABELS}"]
    number = sum(times for reason, times in reasons.items() if reason.startswith(NO_ANSWERS))
    return labels, [
        f"test: {number:,} of {len(rows):,} questions have no answer and are left out;"
        " convert them in a file of their own to answer them"
    ] * bool(number)


def _without_repetitions(asked: Mapping[str, Iterable[Asked]], dropped: Counter[str]) -> dict[str, list[Asked]]:
    """Return the questions by split, each once, and count the others. Raises DataError if two have the same id."""
    once: dict[str, list[Asked]] = {split: [] for split in asked}
    seen: dict[str, Asked] = {}
    mistakes = []
    for split, row in ((name, row) for name, rows in asked.items() for row in rows):
        first = seen.setdefault(row.id, row)
        if first is row:
            once[split].append(row)
        elif _same_question(first, row):
            dropped["the same question again"] += 1
        else:
            mistakes.append(f"{row.place}: id {row.id!r} is also the id of {first.place}; use a unique id")
    refuse(mistakes)
    return once


def split_by_article(rows: Sequence[Labelled], shares: Mapping[str, float], rng: Random) -> dict[str, list[Labelled]]:
    """Split train's questions into train and the splits in `shares`, in whole articles.

    Articles that have a paragraph in common stay together.
    """
    group = _article_groups(rows)
    sizes, order = Counter(group), _shuffled_copy(rng, sorted(set(group)))
    home = {}
    for split, share in shares.items():
        wanted = share * len(rows)
        while order and wanted > 0:
            home[order[-1]] = split
            wanted -= sizes[order.pop()]
    splits = ("train", *(split for split, share in shares.items() if share))
    return {
        split: [row for row, number in zip(rows, group, strict=True) if home.get(number, "train") == split]
        for split in splits
    }


def _article_groups(rows: Sequence[Labelled]) -> list[int]:
    """Return the group number of each row [rows]; articles with a paragraph in common form one group."""
    number: dict[tuple[str, str], int] = defaultdict(count().__next__)
    edges = [(number["article", row.asked.article], number["paragraph", row.asked.paragraph]) for row in rows]
    ends = np.asarray(edges, np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(number), len(number)))
    _, group = connected_components(graph, directed=False)
    return [int(group[article]) for article, _ in edges]


def _shuffled_copy(rng: Random, items: Iterable[T]) -> list[T]:
    """Return the items in random order. Uses `random()`, Random's only method that is stable across Python versions."""
    return sorted(items, key=lambda _: rng.random())


def _size_mistakes(
    labelled: Mapping[str, Sequence[Labelled]], candidates: int, dropped: Mapping[str, int]
) -> Iterator[str]:
    for split, rows in labelled.items():
        paragraphs = len({row.asked.paragraph for row in rows})
        if not rows:
            needs = "more articles" if not dropped else "questions of its own" + " with answers" * (split != "test")
            yield f"{split}: no question is left; dropped: {_count_words(dropped) or 'none'}; give it {needs}"
        elif paragraphs < candidates:
            few = f"{split}: {paragraphs} paragraphs are too few for {candidates} candidates"
            yield f"{few}; add paragraphs, or ask for fewer with --candidates"


def _choose_distractors(rows: Sequence[Labelled], mode: Distractors, wanted: int, rng: Random) -> list[dict[str, str]]:
    """Return the distractors of each question: a dict from paragraph to source (`article`, `bm25` or `random`)."""
    pool = list(dict.fromkeys(row.asked.paragraph for row in rows))
    family: dict[str, dict[str, None]] = defaultdict(dict)
    for row in rows if mode == "article" else ():
        family[row.asked.article][row.asked.paragraph] = None
    short = [row.asked for row in rows if len(family[row.asked.article]) <= wanted]
    ranked = dict(
        zip((row.id for row in short), most_similar(pool, [row.question for row in short], wanted + 1), strict=True)
    )

    def offers(row: Asked) -> Iterator[tuple[str, str]]:
        yield from ((text, "article") for text in _shuffled_copy(rng, family[row.article]))
        yield from ((pool[place], "bm25") for place in ranked.get(row.id, ()))
        yield from ((text, "random") for text in _shuffled_copy(rng, pool))

    return [_first_offers(offers(row.asked), wanted, row.asked.paragraph) for row in rows]


def _first_offers(offers: Iterator[tuple[str, str]], wanted: int, relevant: str) -> dict[str, str]:
    chosen: dict[str, str] = {}
    while len(chosen) < wanted:
        text, kind = next(offers)
        if text != relevant:
            chosen.setdefault(text, kind)
    return chosen


def _conversion_counts(
    labelled: Mapping[str, Sequence[Labelled]],
    dropped: Counter[str],
    choices: Mapping[str, Sequence[Mapping[str, str]]],
    notes: Sequence[str],
) -> ConversionCounts:
    rows = [row for split in labelled.values() for row in split]
    paragraphs = {split: {row.asked.paragraph for row in rows} for split, rows in labelled.items()}
    distinct = len(set().union(*paragraphs.values()))
    return ConversionCounts(
        questions={split: len(rows) for split, rows in labelled.items()},
        paragraphs={split: len(texts) for split, texts in paragraphs.items()},
        articles={split: len({row.asked.article for row in rows}) for split, rows in labelled.items()},
        merged=len({row.asked.origin for row in rows}) - distinct,
        shared=sum(map(len, paragraphs.values())) - distinct,
        answers=dict(Counter(row.found for row in rows).most_common()),
        dropped=dict(dropped.most_common()),
        distractors=dict(
            Counter(kind for split in choices.values() for one in split for kind in one.values()).most_common()
        ),
        renamed=dict(Counter(told for row in rows for told in row.asked.renamed).most_common()),
        notes=list(notes),
    )


def _assignment_files(
    labelled: Mapping[str, Sequence[Labelled]], choices: Mapping[str, Sequence[Mapping[str, str]]], rng: Random
) -> dict[str, Any]:
    """Return the content of the data set's files, by file name without suffix."""
    texts = (text for rows in labelled.values() for row in rows for text in row.asked.options or [row.asked.paragraph])
    context = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    files: dict[str, Any] = {"context": list(context)}
    for split, rows in labelled.items():
        files[split] = [_row(row, own, context, rng) for row, own in zip(rows, choices[split], strict=True)]
    test = labelled.get("test", ())
    if test:
        if all(row.found != UNLABELLED for row in test):
            files[Path(LABELS).stem] = files["test"]
        files["test"] = [{key: row[key] for key in ("id", "question", "paragraphs")} for row in files["test"]]
    answers = {row.asked.id: _distinct_answers(row) for rows in labelled.values() for row in rows if row.answer}
    unlabelled = {row.asked.id for row in test}
    files[Path(REFERENCES).stem] = {key: texts for key, texts in answers.items() if len(texts) > 1 or key in unlabelled}
    return files


def _row(row: Labelled, distractors: Iterable[str], context: Mapping[str, int], rng: Random) -> dict[str, Any]:
    asked = row.asked
    if asked.options is None:
        candidates, relevant = _shuffled_copy(rng, [asked.paragraph, *distractors]), asked.paragraph
    else:
        candidates, relevant = list(asked.options), row.answer or asked.options[0]
    return {
        "id": asked.id,
        "question": asked.asked_text(),
        "paragraphs": [context[text] for text in candidates],
        "relevant": context[relevant],
        "answer": {"text": row.answer, "start": row.start},
    }


def _distinct_answers(row: Labelled) -> list[str]:
    """Return the distinct answers of a question, the kept one first."""
    texts = (reference.text for reference in row.asked.references if not flaw(reference.text))
    usable = (text[slice(*text_span(text, 0, len(text)))] for text in texts if has_text(text))
    return list(dict.fromkeys([row.answer, *usable]))


def _write_folder(output: Path, files: Mapping[str, Any]) -> None:
    """Write the JSON files into a new or empty folder in one step. Raises OSError when the disk fails."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic(output) as part:
        part.mkdir()
        for name, content in files.items():
            (part / f"{name}.json").write_text(_json_lines(content), encoding="utf-8", newline="\n")


def _json_lines(content: Any) -> str:
    """Format JSON with one list entry a line, so that it is readable and `diff` works."""
    if not isinstance(content, list):
        return json.dumps(content, ensure_ascii=False, indent=1) + "\n"
    return "[\n" + ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in content) + "\n]\n"
