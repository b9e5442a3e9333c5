"""Take one backbone through one job: train, resume, load again, promote and submit; or tell why it is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import get_job
from jobs.answering import answers
from jobs.checkpoint import PREDICTIONS, load_json
from jobs.dataset.data import read_data
from sweeper.driver.run import check_environment
from sweeper.errors import Failure
from sweeper.ledger.database import existing_storage, open_storage
from sweeper.ledger.ledger import create_ledger
from sweeper.ledger.lookup import find_trial
from sweeper.space.reading import read_search_space
from sweeper.space.search_space import SearchSpace
from sweeper.storage.settings import read_stores
from tests.support.commands import invoke
from tests.support.zoo import TEXTS

JOBS = ("qa", "mc", "longformer")
LONG = "".join(TEXTS[:4]) * 2  # over 200 characters, so several windows of any kind of tokenizer
PARAMS: Mapping[str, Mapping[str, Any]] = {
    "qa": {"max_length": 64, "doc_stride": 16, "max_answer_length": 12},
    "mc": {"max_length": 64},
    "longformer": {"max_length": 128, "doc_stride": 32, "attention_window": 32, "max_answer_length": 12},
}
SHARED = {"num_train_epochs": 2, "learning_rate": 1e-3, "seed": 7, "effective_batch_size": 2}
QUESTIONS = (
    ("湖在哪裡？", (0, 1), 0, "南投縣"),
    ("日出在哪裡很有名？", (1, 2, 3), 1, "阿里山"),
    ("哪一座山最高？", (2, 0), 2, "玉山"),
    ("淡水在哪裡？", (3, 4), 3, "新北市"),
    ("Taipei 101 多高？", (4, 3, 2, 1), 4, "508 公尺"),
    ("玉山多高？", (0, 5), 5, "三千九百五十二公尺"),
    ("冬天玉山會下什麼？", (5, 4, 1), 5, "下雪"),
    ("鐵路在哪一年通車？", (2, 1), 1, "一九一二年"),
)


def write_questions(folder: Path) -> Path:
    """Write a data set of a few questions. Paragraph 5 needs several windows; the test questions have no labels."""
    texts = [*TEXTS, LONG]
    rows = [
        {
            "id": str(number),
            "question": question,
            "paragraphs": list(paragraphs),
            "relevant": relevant,
            "answer": {"text": text, "start": texts[relevant].index(text)},
        }
        for number, (question, paragraphs, relevant, text) in enumerate(QUESTIONS)
    ]
    unlabelled = [{key: row[key] for key in ("id", "question", "paragraphs")} for row in rows]
    parts = {"train": rows[:6], "valid": rows[3:], "test": unlabelled[5:]}
    named = {name: [{**row, "id": f"{name}-{row['id']}"} for row in part] for name, part in parts.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {"context": texts, **named}.items():
        (folder / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Trained:
    """Hold what a training reports: the metrics and the checkpoint of each evaluation."""

    reports: Sequence[tuple[dict[str, float], Path]]

    @property
    def metrics(self) -> list[dict[str, float]]:
        return [metrics for metrics, _ in self.reports]

    @property
    def checkpoint(self) -> Path:
        return self.reports[-1][1]


def search_space(job: str, kind: str, backbone: str, data: Path) -> SearchSpace:
    """Write and read a search space of one trial. Raises ConfigError."""
    file = Path(f"{kind}-{job}.yaml")
    space = {
        "name": f"{kind}-{job}",
        "job": job,
        "data": str(data),
        "objective": "accuracy" if job == "mc" else "exact_match",
        "parameters": {"backbone": backbone, **SHARED, **PARAMS[job]},
        "search": {"sampler": "grid"},
    }
    file.write_text(json.dumps(space, ensure_ascii=False), encoding="utf-8")  # JSON is YAML too
    return read_search_space(file)


def refusal(job: str, kind: str, backbone: str, data: Path) -> str | None:
    """Return the line with which `run` refuses a backbone before it creates anything; None if it takes it."""
    try:
        check_environment(search_space(job, kind, backbone, data), read_stores(), lambda _: None)
    except Failure as failure:
        return str(failure)
    return None


def train(job: str, backbone: str, data: Path, workdir: Path, resume_from: Path | None = None) -> Trained:
    """Train a backbone for two epochs, with an evaluation after each."""
    reports: list[tuple[dict[str, float], Path]] = []
    workdir.mkdir(parents=True)
    params = get_job(job).params(backbone=backbone, **SHARED, **PARAMS[job])
    get_job(job).train(
        params,
        str(data),
        workdir,
        lambda metrics, checkpoint: reports.append((dict(metrics), checkpoint)),
        **({"resume_from": resume_from} if resume_from else {}),
    )
    return Trained(reports)


def answers_again(job: str, checkpoint: Path, data: Path, cache: Path) -> list[dict[str, Any]]:
    """Load a checkpoint and answer the validation questions: the part of its predictions that answers tell."""
    model, content = answers.load_answering_model(checkpoint, job, cache), read_data(str(data))
    rows = content.valid
    if job == "mc":
        picked = answers.best_paragraphs(rows, answers.paragraph_scores(model, content, rows))
        return [{"id": row.id, "paragraph": paragraph} for row, paragraph in zip(rows, picked, strict=True)]
    found = (
        answers.end_to_end(model, content, rows)
        if job == "longformer"
        else answers.read_paragraphs([model], content, rows, [row.relevant or 0 for row in rows])
    )
    paragraph = [{"paragraph": one.paragraph} if job == "longformer" else {} for one in found]
    return [
        {"id": one.id, "answer": one.text, "start": one.start, **more}
        for one, more in zip(found, paragraph, strict=True)
    ]


def predictions(checkpoint: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Return some keys of the predictions in a checkpoint."""
    return [{key: row[key] for key in keys} for row in load_json(checkpoint / PREDICTIONS)]


def record_trial(job: str, kind: str, backbone: str, data: Path, trained: Trained) -> str:
    """Write a training into the ledger as the only trial of a sweep. Returns the trial's name."""
    read = search_space(job, kind, backbone, data)
    ledger = create_ledger(open_storage(read_stores().ledger), read, read.name, {"torch": "2.13.0"})
    record = ledger.ask(read)
    assert record is not None
    for metrics, checkpoint in trained.reports:
        ledger.report(record.number, {**metrics, "seconds": 1.0}, str(checkpoint))
    ledger.finish(record.number, "COMPLETE")
    return find_trial(read.name, existing_storage(read_stores().ledger)).name


def submit(output: Path, data: Path, team: Sequence[str]) -> list[str]:
    """Submit with a team and return the ids in the CSV file."""
    files = ["--context", str(data / "context.json"), "--test", str(data / "test.json"), "--output", str(output)]
    done = invoke("submit", *files, *team)
    assert done.exit_code == 0, done.output
    return [line.split(",")[0] for line in output.read_text(encoding="utf-8").splitlines()[1:]]


def cause(line: str, backbone: str) -> str:
    """Return the cause in the line of a refusal, without the cure and what only this backbone has.

    >>> cause("backbone /a: has no fast tokenizer, and spans need it; choose another", "/a")
    'has no fast tokenizer'
    """
    told = line.partition(f"{backbone}: ")[2].partition(";")[0]
    told = re.sub(r"^cannot be used by \w+: ", "", told)
    return re.sub(r" \([^)]*\)|, [\w-]+,", "", told).partition(", and ")[0]


def outcome_table(outcomes: Mapping[str, Mapping[str, str]]) -> str:
    """Return a Markdown table of what each job does with each kind. Kinds with the same outcomes share a row."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for kind, told in outcomes.items():
        groups.setdefault(tuple(told[job] for job in JOBS), []).append(f"`{kind}`")
    rows = [["architectures", *JOBS], ["---"] * 4, *([", ".join(kinds), *told] for told, kinds in groups.items())]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
