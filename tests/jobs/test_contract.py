"""What every job must keep, whoever runs it: written once and run for each of JOBS.

A job that joins JOBS needs a Case here and nothing else. It is trained a few times, for seconds, on a
handful of questions of the built-in sample.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import pytest

from jobs import JOBS, checkpoint, get_job
from jobs.dataset.data import Question, read_data
from jobs.dataset.sample import sample_files
from jobs.job import Job
from jobs.longformer import LongformerParams
from jobs.mc import McParams
from jobs.params import TrainingParams
from jobs.qa import QaParams
from sweeper.results.scores import question_scores
from tests.support.network import refuse_connections

SIZES = {"train": 16, "valid": 8}
EPOCHS = 3

Reports = list[tuple[dict[str, float], Path]]


@dataclass(frozen=True)
class Case:
    """A training of seconds, and which of its metrics is the share of predictions that are `right`."""

    params: TrainingParams
    metric: str
    right: Callable[[dict[str, Any], Question], bool]


def small(params: type[TrainingParams], **knobs: Any) -> TrainingParams:
    return params(
        backbone="scratch:1x32x2", learning_rate=5e-3, num_train_epochs=EPOCHS, effective_batch_size=4, **knobs
    )


CASES = {
    "longformer": Case(
        small(LongformerParams, max_length=256, doc_stride=40, attention_window=64),
        "exact_match",
        lambda prediction, question: prediction["answer"] == question.answer,
    ),
    "mc": Case(
        small(McParams, max_length=192),
        "accuracy",
        lambda prediction, question: prediction["paragraph"] == question.relevant,
    ),
    "qa": Case(
        small(QaParams, max_length=128, doc_stride=16),
        "exact_match",
        lambda prediction, question: prediction["answer"] == question.answer,
    ),
}


def test_every_job_has_a_case() -> None:
    assert CASES.keys() == JOBS.keys(), "give each job of JOBS a Case in CASES, above in this file"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample's first questions, with the paragraphs they name and no others."""
    folder, sample = tmp_path_factory.mktemp("data"), sample_files()
    rows = {split: sample[split][:size] for split, size in SIZES.items()}
    used = sorted({number for split in rows.values() for row in split for number in row["paragraphs"]})
    for row in (row for split in rows.values() for row in split):
        row["paragraphs"] = [used.index(number) for number in row["paragraphs"]]
        row["relevant"] = used.index(row["relevant"])
    for name, content in {**rows, "context": [sample["context"][number] for number in used]}.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Trained:
    """A job, its Case, and what an uninterrupted training of it reported."""

    job: Job
    case: Case
    data: Path
    home: Path
    reports: Reports

    @property
    def metrics(self) -> list[dict[str, float]]:
        return [metrics for metrics, _ in self.reports]

    def again(self, workdir: str, resume_from: Path | None = None, **changes: Any) -> Reports:
        params = dataclasses.replace(self.case.params, **changes)
        return train(self.job, params, self.data, self.home / workdir, resume_from)


def train(job: Job, params: TrainingParams, data: Path, workdir: Path, resume_from: Path | None = None) -> Reports:
    reports: Reports = []
    workdir.mkdir(exist_ok=True)
    job.train(params, str(data), workdir, lambda metrics, saved: reports.append((metrics, saved)), resume_from)
    return reports


@pytest.fixture(scope="module", params=sorted(JOBS))
def trained(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    job, case, home = get_job(request.param), CASES[request.param], tmp_path_factory.mktemp("sweep")
    return Trained(job, case, data, home, train(job, case.params, data, home / "whole"))


def predictions(saved: Path) -> list[dict[str, Any]]:
    return list(json.loads((saved / checkpoint.PREDICTIONS).read_text(encoding="utf-8")))


def test_each_epoch_reports_once(trained: Trained) -> None:
    assert [metrics["epoch"] for metrics in trained.metrics] == [1.0, 2.0, 3.0]
    per_epoch = trained.metrics[0]["step"]
    assert [metrics["step"] for metrics in trained.metrics] == [per_epoch, 2 * per_epoch, 3 * per_epoch]


def test_evaluations_every_few_steps_report_once_each_and_at_the_end(trained: Trained) -> None:
    last = int(trained.metrics[0]["step"])
    reports = trained.again("by_steps", num_train_epochs=1, eval_steps=last - 1)
    assert [metrics["step"] for metrics, _ in reports] == [last - 1, last]
    assert [metrics["epoch"] for metrics, _ in reports] == [pytest.approx(1 - 1 / last, abs=1e-6), 1.0]


def test_every_report_has_the_declared_metrics_and_the_epoch_as_finite_numbers(trained: Trained) -> None:
    for metrics in trained.metrics:
        assert metrics.keys() >= {*trained.job.metrics, "epoch"}
        assert all(isinstance(value, float) and isfinite(value) for value in metrics.values())


def test_every_report_has_a_whole_checkpoint_of_its_own_and_nothing_else_is_left(trained: Trained) -> None:
    saved = [saved for _, saved in trained.reports]
    assert sorted((trained.home / "whole").iterdir()) == saved
    assert [checkpoint.damage(folder) for folder in saved] == [None] * EPOCHS


def test_only_the_last_checkpoint_has_no_training_state_and_no_training_resumes_from_it(trained: Trained) -> None:
    names = [{path.name for path in saved.iterdir()} for _, saved in trained.reports]
    assert [checkpoint.has_state(one) for one in names] == [True, True, False]
    assert [sum(Path(name).suffix in checkpoint.PICKLED for name in one) > 0 for one in names] == [True, True, False]
    with pytest.raises(checkpoint.CheckpointError, match=r"has no training state.*; resume from an earlier"):
        trained.again("from_the_last", trained.reports[-1][1])


def test_checkpoints_hold_a_prediction_for_every_validation_question_in_order(trained: Trained) -> None:
    ids = [question.id for question in read_data(str(trained.data)).valid]
    assert len(ids) == SIZES["valid"]
    for _, saved in trained.reports:
        assert [prediction["id"] for prediction in predictions(saved)] == ids


def test_the_reported_score_is_that_of_the_checkpoints_predictions(trained: Trained) -> None:
    questions = read_data(str(trained.data)).valid
    for metrics, saved in trained.reports:
        right = list(map(trained.case.right, predictions(saved), questions))
        assert metrics[trained.case.metric] == sum(right) / len(right)


RECOMPUTED = (
    "accuracy",
    "paragraph_accuracy",
    "exact_match",
    "f1",
)  # from the keys of predictions; others are a job's own


def test_every_score_recomputed_from_the_predictions_keys_is_the_reported_one(trained: Trained) -> None:
    data = read_data(str(trained.data))
    profile = str(getattr(trained.case.params, "metric_profile", "strict"))
    for metrics, saved in trained.reports:
        scores = question_scores(data, predictions(saved), trained.job.name, profile)
        means = {name: float(values.mean()) for name, values in scores.items()}
        assert trained.case.metric in means or trained.case.metric not in RECOMPUTED
        assert means == pytest.approx({name: metrics[name] for name in means}, abs=1e-6)


def test_a_training_resumed_in_the_middle_goes_on_and_ends_as_an_uninterrupted_one(trained: Trained) -> None:
    middle = trained.reports[0][1]
    copy = shutil.copytree(middle, trained.home / "resumed" / middle.name)
    resumed = trained.again("resumed", copy)
    assert [metrics for metrics, _ in resumed] == trained.metrics[1:]
    assert predictions(resumed[-1][1]) == predictions(trained.reports[-1][1])


@pytest.mark.parametrize("strategy", ["group_by_length", "random"])
def test_a_training_resumed_within_an_epoch_sees_the_rest_of_it(trained: Trained, strategy: str) -> None:
    per_epoch = int(trained.metrics[0]["step"])
    steps: dict[str, Any] = {"num_train_epochs": 2, "eval_steps": per_epoch - 1, "train_sampling_strategy": strategy}
    whole = trained.again(f"steps_{strategy}", **steps)
    middle = whole[0][1]
    copy = shutil.copytree(middle, trained.home / f"resumed_{strategy}" / middle.name)
    resumed = trained.again(f"resumed_{strategy}", copy, **steps)
    assert [metrics for metrics, _ in resumed] == [metrics for metrics, _ in whole[1:]]


def test_the_same_seed_gives_the_same_metrics(trained: Trained) -> None:
    assert [metrics for metrics, _ in trained.again("same_seed")] == trained.metrics


def test_another_seed_gives_other_metrics(trained: Trained) -> None:
    (metrics, _), *_ = trained.again("other_seed", seed=trained.case.params.seed + 1)
    assert metrics["eval_loss"] != trained.metrics[0]["eval_loss"]


def test_a_checkpoint_is_a_backbone_of_its_job_that_predicts_the_same(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained on at a rate that moves no weight: 1e-30 is lost beside any that matters in fp32."""
    tried, saved = refuse_connections(monkeypatch), trained.reports[-1][1]
    trained.job.fetch(str(saved))
    ((metrics, copy),) = trained.again("reloaded", backbone=str(saved), learning_rate=1e-30, num_train_epochs=1)
    assert predictions(copy) == predictions(saved)
    assert metrics["eval_loss"] == trained.metrics[-1]["eval_loss"]
    assert tried == []
