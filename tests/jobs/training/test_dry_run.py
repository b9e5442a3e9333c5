from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import transformers

from jobs import get_job
from jobs.backbone import random_weights
from jobs.backbone.source import BackboneError
from jobs.backbone.tokenizers import load_tokenizer
from jobs.dataset.data import Data, read_data
from jobs.job import Job
from jobs.task import Task
from jobs.training import suits_function
from jobs.training.dry_run import few_questions, refusal_line
from tests.support import matrix
from tests.support.zoo import build


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return read_data(str(matrix.write_questions(tmp_path_factory.mktemp("questions"))))


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


def backbone(zoo: Path, kind: str) -> str:
    folder = zoo / kind
    return str(folder) if folder.exists() else build(kind, folder)


def params(job: Job, name: str) -> Any:
    return job.params(backbone=name, **matrix.SHARED, **matrix.PARAMS[job.name])


def tried(job: str, name: str, data: Data) -> tuple[str, ...]:
    return tuple(get_job(job).suits(params(get_job(job), name), data.location))


SUITED = [("bert", "qa"), ("bert", "longformer"), ("roberta", "mc"), ("xlnet", "qa"), ("funnel", "qa"), ("t5", "qa")]


@pytest.mark.parametrize(("kind", "job"), SUITED)
def test_a_backbone_that_trains_is_taken_and_nothing_is_changed(kind: str, job: str, zoo: Path, data: Data) -> None:
    name = backbone(zoo, kind)
    files = sorted((file, file.stat().st_mtime_ns) for file in (zoo / kind).iterdir())
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    states = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    level = transformers.logging.get_verbosity()
    assert all("separator" in line or "classification" in line for line in tried(job, name, data))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), str(np.random.get_state())) == states[1:]
    assert transformers.logging.get_verbosity() == level
    assert sorted((file, file.stat().st_mtime_ns) for file in (zoo / kind).iterdir()) == files


REFUSED = [
    ("gpt2", "qa", "it reads from left to right only (its architecture is gpt2); choose an encoder, such as a BERT"),
    ("qwen2", "mc", "it reads from left to right only"),
    ("llama", "longformer", "it reads from left to right only"),
    ("splinter", "mc", "its architecture, splinter, has no head that scores candidates; choose another backbone"),
]


@pytest.mark.parametrize(("kind", "job", "cause"), REFUSED)
def test_a_backbone_that_no_trial_could_train_is_refused_in_one_line(
    kind: str, job: str, cause: str, zoo: Path, data: Data
) -> None:
    name = backbone(zoo, kind)
    with pytest.raises(BackboneError) as caught:
        tried(job, name, data)
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    assert cause in message
    assert "\n" not in message


CHANGED = [
    ({"is_decoder": True}, "it reads from left to right only"),
    ({"num_hidden_layers": 3}, "32 weights of the encoder are not in the checkpoint, such as bert.encoder.layer.1"),
    ({"hidden_size": 64}, "its weights do not fit the model"),
    ({"vocab_size": 50}, "its weights do not fit the model"),
    ({"hidden_act": "none"}, "KeyError"),
]


@pytest.mark.parametrize(("change", "cause"), CHANGED)
def test_a_checkpoint_that_does_not_fit_its_config_is_refused(
    change: dict[str, Any], cause: str, zoo: Path, data: Data, tmp_path: Path
) -> None:
    folder = shutil.copytree(backbone(zoo, "bert"), tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(BackboneError, match=cause):
        tried("qa", str(folder), data)


def test_what_fails_with_few_layers_is_tried_with_all_of_them(
    zoo: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    shortened = []

    def no_layers(config: Any) -> Any:
        shortened.append(config)
        raise ValueError("at least 3 layers are needed")

    monkeypatch.setattr(random_weights, "with_few_layers", no_layers)
    assert tried("qa", backbone(zoo, "bert"), data) == ()
    assert shortened


def test_a_backbone_from_scratch_is_not_tried() -> None:
    job = get_job("qa")
    assert job.suits(params(job, "scratch:1x32x2"), "no such data") == ()


def failing(task: Task, error: Exception) -> Task:
    def collate(*_: Any) -> Any:
        raise error

    return replace(task, collate=collate)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), OSError(28, "No space left")]
)
def test_a_machine_with_too_little_room_does_not_speak_against_a_backbone(
    error: Exception, zoo: Path, data: Data
) -> None:
    job, name = get_job("qa"), backbone(zoo, "bert")
    assert job.task
    (line,) = suits_function(failing(job.task, error))(params(job, name), data.location)
    assert line.startswith(f"{name}: was not tried before the sweep: ")


def test_any_error_of_a_task_is_told_in_one_line(zoo: Path, data: Data) -> None:
    job, name = get_job("qa"), backbone(zoo, "bert")
    assert job.task
    suits = suits_function(failing(job.task, ZeroDivisionError("by\nzero")))
    with pytest.raises(BackboneError) as caught:
        suits(params(job, name), data.location)
    cause = "a training step with random weights fails: ZeroDivisionError: by"
    assert str(caught.value) == f"{name}: cannot be used by qa: {cause}; choose another backbone"


def test_decoders_are_refused_only_by_jobs_that_want_an_encoder(zoo: Path, data: Data) -> None:
    job, name = get_job("qa"), backbone(zoo, "llama")
    assert job.task
    with pytest.raises(BackboneError, match="no padding token"):
        suits_function(job.task)(params(job, name), data.location)


EXPLAINED = [
    (TypeError("forward() missing 1 required positional argument: 'bbox'"), "its model needs 'bbox', which text does"),
    (IndexError("index out of range in self"), "an input has a number outside of its table of embeddings"),
]


@pytest.mark.parametrize(("error", "cause"), EXPLAINED)
def test_usual_errors_are_told_in_plain_words(error: Exception, cause: str) -> None:
    task = get_job("mc").task
    assert task
    assert refusal_line(error, task, "owner/name").startswith(f"owner/name: cannot be used by mc: {cause}")


@pytest.mark.parametrize("length", [32, 64, 300])
@pytest.mark.parametrize("kind", ["bert", "roberta", "t5"])
def test_one_input_is_full_and_another_is_short(kind: str, length: int, zoo: Path, data: Data, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(backbone(zoo, kind), ())
    few = few_questions(data, tokenizer, length)
    job = get_job("qa")
    chosen = replace(params(job, backbone(zoo, kind)), max_length=length, doc_stride=8)
    assert job.task
    lengths = job.task.inputs(chosen, tokenizer, few, few.train, tmp_path).lengths()
    assert lengths.max() == length
    assert len(lengths) <= 5
    for row in few.train:
        assert row.relevant is not None
        assert row.start is not None
        assert row.answer
        assert row.answer.strip()
        assert few.paragraphs[row.relevant][row.start :].startswith(row.answer)


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("bert", {"num_hidden_layers": 12}),
        ("longformer", {"num_hidden_layers": 4, "attention_window": [8, 8, 8, 8]}),
        ("modernbert", {"num_hidden_layers": 6}),
        ("xlnet", {"n_layer": 5}),
        ("t5", {"num_layers": 5, "num_decoder_layers": 6}),
        ("bart", {"encoder_layers": 6, "decoder_layers": 6}),
        ("funnel", {"block_sizes": [4, 4, 4]}),
    ],
)
def test_a_config_is_cut_to_its_first_layers(kind: str, sizes: dict[str, Any]) -> None:
    config = transformers.AutoConfig.for_model(kind, **sizes)
    short = random_weights.with_few_layers(config).to_dict()
    assert [short[name] for name in sizes if type(sizes[name]) is int] == [2] * sum(
        type(size) is int for size in sizes.values()
    )
    for name in ("layer_types", "attention_window"):
        assert len(short.get(name) or [1, 1]) == 2
    assert short.get("block_sizes", [1, 1, 1]) == [1, 1, 1]
    assert config.to_dict() == transformers.AutoConfig.for_model(kind, **sizes).to_dict()


def test_a_model_with_a_huge_vocabulary_takes_little_memory(tmp_path: Path) -> None:
    sizes = {"vocab_size": 1_000_000, "hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 24}
    transformers.BertConfig(**sizes).save_pretrained(tmp_path)
    before = psutil.Process().memory_info().rss
    model, _ = random_weights.random_model(transformers.AutoModelForQuestionAnswering, str(tmp_path), whole=False)
    found = model(input_ids=torch.arange(999_000, 999_064)[None])
    assert found.start_logits.isfinite().all()
    assert psutil.Process().memory_info().rss - before < 2**29  # its embeddings have 4 GB
