"""Test that every architecture reads the batches that all jobs make."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from jobs.dataset.data import Data, Question
from jobs.longformer import TASK as LONGFORMER
from jobs.longformer import LongformerParams
from jobs.mc import TASK as MC
from jobs.mc import McParams
from jobs.model.backbones import load_tokenizer
from jobs.qa import TASK as QA
from jobs.qa import QaParams
from jobs.task import Task
from tests.support.zoo import TEXTS, build

ROWS = (
    Question("a", "湖在哪裡？", (0, 1), 0, "南投縣", 5),
    Question("b", "哪一座山最高？", (1, 2, 3), 2, "玉山", 0),
)
DATA = Data("x", TEXTS[:4], ROWS, ROWS, ())
TASKS: dict[str, tuple[Task, Any, dict[str, Any]]] = {
    "qa": (QA, QaParams, {"max_length": 64, "doc_stride": 8}),
    "mc": (MC, McParams, {"max_length": 64}),
    "longformer": (LONGFORMER, LongformerParams, {"max_length": 128, "doc_stride": 8, "attention_window": 32}),
}


def read(job: str, backbone: str, cache: Path) -> tuple[PreTrainedModel, dict[str, torch.Tensor], Any]:
    """Return a job's model of a backbone, its batch of all inputs without labels, and what the model answers."""
    task, params_class, lengths = TASKS[job]
    params = params_class(backbone=backbone, **lengths)
    tokenizer = load_tokenizer(backbone, ())
    model = task.model(params, tokenizer).eval()
    inputs = task.inputs(params, tokenizer, DATA, ROWS, cache)
    batch = task.collate(inputs, list(range(len(inputs))), params)
    batch = {name: value for name, value in batch.items() if name != "labels" and not name.endswith("_positions")}
    with torch.no_grad():
        return model, dict(batch), model(**batch)


def received(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the inputs that reach the model's encoder."""
    seen: dict[str, torch.Tensor] = {}
    hook = model.base_model.register_forward_pre_hook(lambda _, args, kwargs: seen.update(kwargs), with_kwargs=True)
    with torch.no_grad():
        model(**batch)
    hook.remove()
    return seen


@pytest.mark.parametrize("job", ["qa", "mc"])
@pytest.mark.parametrize(
    ("kind", "types"),
    [("bert", [0, 1]), ("roberta-bert-vocabulary", [0]), ("xlnet-bert-vocabulary", [0, 1])],
)
def test_a_model_gets_only_token_types_that_it_has(kind: str, types: list[int], job: str, tmp_path: Path) -> None:
    model, batch, _ = read(job, build(kind, tmp_path / kind), tmp_path / "cache")
    assert batch["token_type_ids"].unique().tolist() == [0, 1]
    assert received(model, batch)["token_type_ids"].unique().tolist() == types


@pytest.mark.parametrize("job", ["qa", "mc"])
@pytest.mark.parametrize("kind", ["deberta-v2-bert-vocabulary", "distilbert", "modernbert", "xlm-bert-vocabulary"])
def test_a_model_without_a_table_of_token_types_gets_none(kind: str, job: str, tmp_path: Path) -> None:
    model, batch, _ = read(job, build(kind, tmp_path / kind), tmp_path / "cache")
    assert received(model, batch).get("token_type_ids") is None


# Global attention


@pytest.mark.parametrize("job", ["qa", "mc", "longformer"])
@pytest.mark.parametrize("kind", ["longformer", "longformer-english"])
def test_a_longformer_attends_to_the_question_in_every_job(kind: str, job: str, tmp_path: Path) -> None:
    model, batch, _ = read(job, build(kind, tmp_path / kind), tmp_path / "cache")
    tokenizer = load_tokenizer(str(tmp_path / kind), ())
    separators = 2 if kind == "longformer-english" else 1
    fronts = {1 + len(tokenizer.tokenize(row.question)) + separators for row in ROWS}
    rows = [
        values.flatten(0, -2) for values in (batch["attention_mask"], received(model, batch)["global_attention_mask"])
    ]
    for kept, wide in zip(*rows, strict=True):
        front = int(wide.sum())
        assert front in fronts or kept.sum() == 1  # a row that fills up the candidates of a question
        assert wide.tolist() == [1] * front + [0] * (len(wide) - front)


def test_a_model_without_sliding_windows_gets_no_global_attention(tmp_path: Path) -> None:
    model, batch, _ = read("mc", build("bert", tmp_path / "bert"), tmp_path / "cache")
    assert "global_attention_mask" in batch
    assert "global_attention_mask" not in received(model, batch)


# The hook


def test_only_tensors_with_rows_are_dropped(tmp_path: Path) -> None:
    model, batch, plain = read("qa", build("bert", tmp_path / "bert"), tmp_path / "cache")
    output = model(**batch, output_hidden_states=True, num_items_in_batch=torch.tensor(3))
    assert len(output["hidden_states"]) == 2
    assert torch.equal(output["start_logits"], plain["start_logits"])


def test_the_hook_comes_along_when_a_model_is_copied_or_pickled(tmp_path: Path) -> None:
    model, batch, output = read("qa", build("distilbert", tmp_path / "distilbert"), tmp_path / "cache")
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(again(**batch)["start_logits"], output["start_logits"])
        assert again.base_model is not model.base_model
