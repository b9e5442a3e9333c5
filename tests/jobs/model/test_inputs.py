"""Test that every architecture reads the batches that all jobs make."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
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
from tests.support.zoo import TEXTS, build, configuration

Zoo = Callable[[str], str]

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


@pytest.mark.parametrize(
    ("kind", "job", "types"),
    [
        ("bert", "qa", [0, 1]),
        ("roberta-bert-vocabulary", "qa", [0]),
        ("roberta-bert-vocabulary", "mc", [0]),
        ("roberta-bert-vocabulary", "longformer", [0]),
        ("xlnet-bert-vocabulary", "qa", [0, 1]),
    ],
)
def test_a_model_gets_only_token_types_that_it_has(
    kind: str, job: str, types: list[int], zoo: Zoo, tmp_path: Path
) -> None:
    model, batch, _ = read(job, zoo(kind), tmp_path / "cache")
    assert batch["token_type_ids"].unique().tolist() == [0, 1]
    assert received(model, batch)["token_type_ids"].unique().tolist() == types


@pytest.mark.parametrize("kind", ["deberta-v2-bert-vocabulary", "distilbert", "modernbert", "xlm-bert-vocabulary"])
def test_a_model_without_a_table_of_token_types_gets_none(kind: str, zoo: Zoo, tmp_path: Path) -> None:
    model, batch, _ = read("qa", zoo(kind), tmp_path / "cache")
    assert received(model, batch).get("token_type_ids") is None


# Global attention


@pytest.mark.parametrize("job", ["qa", "mc", "longformer"])
@pytest.mark.parametrize("kind", ["longformer", "longformer-english"])
def test_a_longformer_attends_to_the_question_in_every_job(kind: str, job: str, zoo: Zoo, tmp_path: Path) -> None:
    model, batch, _ = read(job, zoo(kind), tmp_path / "cache")
    tokenizer = load_tokenizer(zoo(kind), ())
    separators = 2 if kind == "longformer-english" else 1
    fronts = {1 + len(tokenizer.tokenize(row.question)) + separators for row in ROWS}
    rows = [
        values.flatten(0, -2) for values in (batch["attention_mask"], received(model, batch)["global_attention_mask"])
    ]
    for kept, wide in zip(*rows, strict=True):
        front = int(wide.sum())
        assert front in fronts or kept.sum() == 1  # a row that fills up the candidates of a question
        assert wide.tolist() == [1] * front + [0] * (len(wide) - front)


def test_a_model_without_sliding_windows_gets_no_global_attention(zoo: Zoo, tmp_path: Path) -> None:
    model, batch, _ = read("mc", zoo("bert"), tmp_path / "cache")
    assert "global_attention_mask" in batch
    assert "global_attention_mask" not in received(model, batch)


# The hook


def test_only_tensors_with_rows_are_dropped(zoo: Zoo, tmp_path: Path) -> None:
    model, batch, plain = read("qa", zoo("bert"), tmp_path / "cache")
    output = model(**batch, output_hidden_states=True, num_items_in_batch=torch.tensor(3))
    assert len(output["hidden_states"]) == 2
    assert torch.equal(output["start_logits"], plain["start_logits"])


def test_the_hook_comes_along_when_a_model_is_copied_or_pickled(zoo: Zoo, tmp_path: Path) -> None:
    model, batch, output = read("qa", zoo("distilbert"), tmp_path / "cache")
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(again(**batch)["start_logits"], output["start_logits"])
        assert again.base_model is not model.base_model


# What a config lacks


def build_as(folder: Path, kind: str, **values: Any) -> None:
    """Write a backbone of a kind with other values of its config, and with weights that fit them."""
    config = configuration(kind, Path(build(kind, folder)))
    for name, value in values.items():
        setattr(config, name, value)
    transformers.AutoModel.from_config(config).save_pretrained(folder)


def changed(folder: Path, kind: str, **values: Any) -> str:
    """Write a backbone of a kind and change values of its config.json."""
    build(kind, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))
    return str(folder)


@pytest.mark.parametrize(("languages", "used"), [(["en_XX", "zh_CN"], "zh_CN"), (["en_XX", "de_DE"], "en_XX")])
def test_an_xmod_without_a_language_reads_chinese_if_it_can(languages: list[str], used: str, tmp_path: Path) -> None:
    build_as(tmp_path / "xmod", "xmod", languages=languages, default_language=None)
    model, _, _ = read("qa", str(tmp_path / "xmod"), tmp_path / "cache")
    assert model.config.default_language == used


def test_an_xmod_keeps_its_language(tmp_path: Path) -> None:
    name = changed(tmp_path / "xmod", "xmod", default_language="en_XX")
    assert read("qa", name, tmp_path / "cache")[0].config.default_language == "en_XX"


@pytest.mark.parametrize(("kind", "end"), [("bart-bert-vocabulary", 2), ("t5", 0)])
def test_a_classifier_with_a_decoder_reads_the_token_at_the_end_of_a_text(kind: str, end: int, tmp_path: Path) -> None:
    """Such classifiers take the state of the last `eos_token_id`, and fail if there is none."""
    name = changed(tmp_path / kind, kind, eos_token_id=end, decoder_start_token_id=None)
    model, batch, output = read("mc", name, tmp_path / "cache")
    assert model.config.eos_token_id == load_tokenizer(name, ())("湖")["input_ids"][-1]
    assert output["logits"].shape == batch["input_ids"].shape[:2]
    assert len(output["logits"].unique()) > 2


@pytest.mark.parametrize("kind", ["big_bird-bert-vocabulary", "longformer"])
def test_the_separator_of_a_model_is_the_tokenizers(kind: str, tmp_path: Path) -> None:
    model, _, _ = read("qa", changed(tmp_path / kind, kind, sep_token_id=66), tmp_path / "cache")
    assert model.config.sep_token_id == 3


def test_a_splinter_without_a_question_token_compares_with_the_first_token(tmp_path: Path) -> None:
    name = changed(tmp_path / "splinter", "splinter", question_token_id=104)
    assert load_tokenizer(name, ()).convert_tokens_to_ids("[QUESTION]") == 5
    model, _, _ = read("qa", name, tmp_path / "cache")
    assert model.config.question_token_id == load_tokenizer(name, ()).cls_token_id


def test_a_checkpoint_of_a_model_without_a_padding_token_answers_the_same_when_it_is_loaded_again(
    zoo: Zoo, tmp_path: Path
) -> None:
    model, _, output = read("qa", zoo("funnel"), tmp_path / "cache")
    model.save_pretrained(tmp_path / "saved")
    load_tokenizer(zoo("funnel"), ()).save_pretrained(tmp_path / "saved")
    _, _, again = read("qa", str(tmp_path / "saved"), tmp_path / "cache")
    assert torch.equal(again["start_logits"], output["start_logits"])


def test_a_model_that_reads_in_chunks_takes_every_length(zoo: Zoo, tmp_path: Path) -> None:
    chunked = Path(shutil.copytree(zoo("bert"), tmp_path / "bert"))
    config = json.loads((chunked / "config.json").read_text())
    (chunked / "config.json").write_text(json.dumps({**config, "chunk_size_feed_forward": 7}))
    _, batch, output = read("qa", str(chunked), tmp_path / "cache")  # raises an error if chunks do not fit
    assert batch["input_ids"].shape[1] % 7
    assert output.start_logits.shape == batch["input_ids"].shape
