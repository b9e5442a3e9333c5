"""Test that the scores of a question do not depend on the questions that share its batch."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, PreTrainedModel

from jobs.backbone.architectures import ARCHITECTURES, any_width, architecture
from jobs.backbone.positions import local_config
from jobs.backbone.source import BackboneError
from jobs.dataset.data import Data, Question
from jobs.job import ParamError
from jobs.longformer import TASK as LONGFORMER
from jobs.longformer import LongformerParams
from jobs.mc import TASK as MC
from jobs.mc import McParams
from jobs.model.backbones import load_model, load_tokenizer
from jobs.model.conversion import unlike_bert
from jobs.model.padding import padded_batch
from jobs.qa import TASK as QA
from jobs.qa import QaParams
from jobs.task import Task
from jobs.training.batches import CPU_BATCH_TOKENS
from jobs.training.predict import predict
from tests.support import matrix
from tests.support.zoo import KINDS, TABLE, TEXTS, Kind, build, configuration

PARAGRAPHS = tuple(text * times for times in (1, 2, 3) for text in TEXTS)
ASKED = (
    ("湖在哪裡？", (0, 1)),
    ("哪一座山最高？", (2, 8, 13, 4)),
    ("誰？", (5, 14, 1)),
    ("什麼？", (12, 3, 7, 9)),
    ("湖在哪裡？", (3,)),
)
ROWS = tuple(
    Question(str(n), question, own, own[0], PARAGRAPHS[own[0]][2:5], 2) for n, (question, own) in enumerate(ASKED)
)
DATA = Data("x", PARAGRAPHS, ROWS, ROWS, ROWS)
LENGTH = 192  # tokens; the longest paragraphs need more, the shortest a fifth
JOBS: dict[str, tuple[Task, Any, dict[str, Any]]] = {
    "qa": (QA, QaParams, {"doc_stride": 16}),
    "mc": (MC, McParams, {}),
    "longformer": (LONGFORMER, LongformerParams, {"doc_stride": 16}),
}
TOLERANCE = 1e-5  # of the largest score
EXCLUDED = -1e5  # BigBird takes 10^6 from the scores of a question's tokens
FEW = [  # a control, a head that reads the last position twice, fixed widths, sparse attention
    ("bert", "qa"),
    ("xlnet", "mc"),
    ("roformer", "mc"),
    ("convbert", "qa"),
    ("mobilebert", "mc"),
    ("big_bird-bert-vocabulary", "qa"),
    ("fnet", "longformer"),
]


class Reader(NamedTuple):
    task: Task
    params: Any
    tokenizer: Any
    model: PreTrainedModel
    cache: Path

    def inputs(self, rows: Sequence[Question]) -> Any:
        return self.task.inputs(self.params, self.tokenizer, DATA, rows, self.cache)

    def scores(self, rows: Sequence[Question]) -> list[np.ndarray]:
        """Return the scores of each question: of its candidates, or of its windows' tokens."""
        inputs = self.inputs(rows)
        logits = predict(self.task, self.model, inputs, self.params)
        if self.task is MC:
            return [one[: len(row.paragraphs)] for one, row in zip(logits[0], rows, strict=True)]
        windows = [np.concatenate([one[row, :count] for one in logits]) for row, count in enumerate(inputs.lengths())]
        both = [np.concatenate([windows[row] for row in np.flatnonzero(inputs.group == n)]) for n in range(len(rows))]
        return [np.where(scores < EXCLUDED, 0, scores) for scores in both]


@pytest.fixture(scope="module", autouse=True)
def home() -> Iterator[Path]:
    """Hold the backbones and readers of this module, each made once."""
    with tempfile.TemporaryDirectory() as folder:
        HOME.append(Path(folder))
        yield Path(folder)
        backbone.cache_clear(), reader.cache_clear(), HOME.clear()


HOME: list[Path] = []


@lru_cache
def backbone(kind: str) -> str:
    return build(kind, HOME[0] / kind)


@lru_cache
def reader(kind: str, job: str, max_length: int = LENGTH) -> Reader:
    return reading(backbone(kind), job, max_length)


def reading(name: str, job: str, max_length: int = LENGTH) -> Reader:
    task, params_class, more = JOBS[job]
    if job == "longformer" and not unlike_bert(local_config(name) or {}):
        more = {**more, "attention_window": 32}
    params = params_class(backbone=name, max_length=max_length, **more)
    tokenizer = load_tokenizer(name, ())
    model = task.model(params, tokenizer).eval()
    return Reader(task, params, tokenizer, model, HOME[0] / "cache")


def furthest(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    """Return the largest difference of scores, as a share of the largest score."""
    largest = max(np.abs(scores).max() for scores in one)
    return float(max(np.abs(left - right).max() for left, right in zip(one, other, strict=True)) / largest)


@pytest.mark.parametrize(("kind", "job"), FEW)
@settings(max_examples=3, derandomize=True)
@given(st.permutations(range(len(ROWS))), st.integers(2, len(ROWS)))
def test_a_question_scores_alone_as_in_any_batch(kind: str, job: str, order: list[int], count: int) -> None:
    read, chosen = reader(kind, job), [ROWS[number] for number in order[:count]]
    alone = [read.scores([row])[0] for row in chosen]
    assert furthest(alone, read.scores(chosen)) < TOLERANCE


@pytest.mark.long
@pytest.mark.parametrize("job", list(JOBS))
@pytest.mark.parametrize("kind", KINDS)
def test_every_backbone_that_a_job_takes_scores_a_question_alone_as_in_any_batch(kind: str, job: str) -> None:
    if kind == "gpt2":
        pytest.skip("its tokenizer has no padding, so no sweep begins with it")
    try:
        read = reader(kind, job)
        read.scores(ROWS[:1])
    except (BackboneError, ParamError) as error:
        pytest.skip(str(error))
    alone = [read.scores([row])[0] for row in ROWS]
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(ROWS))
        together = read.scores([ROWS[number] for number in order])
        assert furthest([alone[number] for number in order], together) < TOLERANCE


# What changes with padding

STEADY = {model for model, one in ARCHITECTURES.items() if one.width is any_width}


def test_every_architecture_that_is_said_to_ignore_padding_is_in_the_zoo() -> None:
    assert {kind.model for kind in TABLE.values()} >= STEADY


def states(model: PreTrainedModel, width: int) -> torch.Tensor:
    """Return what an encoder makes of 21 tokens in a row of `width` positions."""
    ids = torch.arange(21)[None] % 13 + 7
    more = (0, width - 21)
    pad = model.config.pad_token_id or 0
    model = model.get_encoder() if model.config.is_encoder_decoder else model
    with torch.no_grad():
        output = model(
            input_ids=torch.nn.functional.pad(ids, more, value=pad),
            attention_mask=torch.nn.functional.pad(torch.ones_like(ids), more),
        )
    return output[0][:, :21]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if TABLE[kind].model in STEADY])
def test_padding_on_the_right_changes_nothing_where_the_table_says_so(kind: str, tmp_path: Path) -> None:
    TABLE[kind].tokenizer(tmp_path)
    model = AutoModel.from_config(configuration(kind, tmp_path)).eval()
    bare = states(model, 21)
    for width in (22, 24, 37, 64):
        assert (states(model, width) - bare).abs().max() < TOLERANCE * bare.abs().max()


def test_rows_of_an_unknown_type_are_padded_to_the_longest_input() -> None:
    assert "mobilebert" not in ARCHITECTURES
    read = reader("mobilebert", "qa")
    assert positions_read(read) == {LENGTH}
    assert architecture({"model_type": "new"}).width({}, 77) == 77


def positions_read(read: Reader, rows: Sequence[Question] = ROWS[:1]) -> set[int]:
    """Return the numbers of positions of the batches that reach `forward`."""
    seen = set()
    hook = read.model.register_forward_pre_hook(
        lambda _, args, inputs: seen.add(inputs["input_ids"].shape[-1]), with_kwargs=True
    )
    scores = predict(read.task, read.model, read.inputs(rows), read.params)
    hook.remove()
    assert read.task is MC or scores[0].shape[1] == read.inputs(rows).lengths().max(), "scores of added positions"
    return seen


def test_rows_of_a_type_that_ignores_padding_are_as_wide_as_their_batch() -> None:
    assert max(positions_read(reader("bert", "qa"))) < LENGTH
    assert max(positions_read(reader("xlnet", "mc"))) < LENGTH


def test_batches_of_padded_rows_are_no_larger_than_others() -> None:
    read = reader("mobilebert", "qa")
    seen: list[torch.Size] = []
    hook = read.model.register_forward_pre_hook(
        lambda _, args, inputs: seen.append(inputs["input_ids"].shape), with_kwargs=True
    )
    predict(read.task, read.model, read.inputs(ROWS[:1] * 12), read.params)
    hook.remove()
    assert all(rows * width <= CPU_BATCH_TOKENS for rows, width in seen)


def test_a_model_goes_on_padding_when_it_is_copied_or_pickled() -> None:
    read = reader("convbert", "qa")
    for again in (copy.deepcopy(read.model), pickle.loads(pickle.dumps(read.model))):
        other = read._replace(model=again)
        assert positions_read(other) == {LENGTH}
        assert furthest(read.scores(ROWS[:1]), other.scores(ROWS[:1])) == 0


# BERT's batches


@pytest.mark.parametrize("job", ["qa", "mc"])
def test_a_bert_reads_the_batches_that_its_tokenizer_makes(job: str) -> None:
    read, rows = reader("bert", job), [row for row in ROWS if len(row.paragraphs) == 4]
    pairs = [
        (row.question, PARAGRAPHS[number])
        for row in rows
        for number in ([row.relevant] if job == "qa" else row.paragraphs)
        if number is not None
    ]
    options = {"max_length": LENGTH, "truncation": "only_second", "padding": True, "return_tensors": "pt"}
    made = read.tokenizer(*map(list, zip(*pairs, strict=True)), **options)
    inputs = read.inputs(rows)
    first = [0, *(np.flatnonzero(np.diff(inputs.group)) + 1)] if job == "qa" else range(len(rows))
    seen: dict[str, torch.Tensor] = {}
    hook = read.model.register_forward_pre_hook(lambda _, args, got: seen.update(got), with_kwargs=True)
    batch = dict(read.task.collate(inputs, list(first), read.params))
    read.model(**{name: value for name, value in batch.items() if "labels" not in name and "position" not in name})
    hook.remove()
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert torch.equal(seen[name].flatten(0, -2), made[name]), name
    assert not hasattr(read.model, "padded_width")


# Padding on the left


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 12))
def test_padding_moves_in_front_of_the_tokens_and_changes_nothing_else(counts: list[int], width: int) -> None:
    shape = (len(counts), max(counts))
    mask = (torch.arange(shape[1]) < torch.tensor(counts)[:, None]).long()
    batch = {"input_ids": (torch.arange(shape[1]) + 5).expand(shape) * mask, "attention_mask": mask, "types": mask * 3}
    moved = padded_batch({**batch, "labels": torch.arange(len(counts))}, width, True, 1)
    wide = max(width, shape[1])
    for row, count in enumerate(counts):
        gap = wide - count
        assert moved["input_ids"][row].tolist() == [1] * gap + list(range(5, 5 + count))
        assert moved["attention_mask"][row].tolist() == [0] * gap + [1] * count
        assert moved["types"][row].tolist() == [0] * gap + [3] * count
    assert moved["labels"].tolist() == list(range(len(counts)))


def test_a_head_that_reads_the_last_position_reads_a_token() -> None:
    read = reader("xlnet", "mc")
    last = []
    hook = read.model.register_forward_pre_hook(
        lambda _, args, inputs: last.append(inputs["input_ids"][..., -1].flatten()), with_kwargs=True
    )
    read.scores(ROWS)
    hook.remove()
    assert torch.cat(last).unique().tolist() == [read.tokenizer.cls_token_id]  # XLNet puts it at the end


def test_an_xlm_whose_head_reads_the_last_position_has_rows_of_one_width(tmp_path: Path) -> None:
    name = changed(backbone("xlm-bert-vocabulary"), tmp_path / "xlm", summary_type="last")
    read = reading(name, "mc")
    assert positions_read(read) == {LENGTH}  # its positions count from the left, so padding there moves the tokens
    assert furthest([read.scores([row])[0] for row in ROWS], read.scores(ROWS)) < TOLERANCE


def changed(name: str, folder: Path, **values: Any) -> str:
    """Copy a backbone with other values in its config.json."""
    import shutil

    shutil.copytree(name, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **values}), encoding="utf-8")
    return str(folder)


# The id of padding


@pytest.mark.parametrize("own", [None, 7])
def test_a_head_that_finds_the_last_token_by_the_padding_id_gets_its_own_id(own: int | None, tmp_path: Path) -> None:
    folder = tmp_path / "gpt2"
    kind = dataclasses.replace(
        TABLE["gpt2"], tokenizer=TABLE["bert"].tokenizer, config={**TABLE["gpt2"].config, "pad_token_id": own}
    )
    name = built(kind, folder)
    tokenizer = load_tokenizer(name, ())
    model = load_model(name, "AutoModelForSequenceClassification", tokenizer, 64, num_labels=1).eval()
    batch = {"input_ids": torch.tensor([[2, 9, 11, 3, 0, 0], [2, 9, 11, 12, 13, 3]])}
    batch["attention_mask"] = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6])
    with torch.no_grad():
        together = model(**batch)["logits"][0]
        alone = model(**{key: value[:1, :4] for key, value in batch.items()})["logits"][0]
    assert torch.allclose(together, alone, rtol=TOLERANCE)


def test_a_checkpoint_keeps_the_ids_that_its_model_was_trained_with(tmp_path: Path) -> None:
    """A RoBERTa counts positions from its own id of padding, which is not the tokenizer's here."""
    config = {**TABLE["roberta"].config, "vocab_size": 600, "max_position_embeddings": 514}
    name = built(Kind("roberta", TABLE["bert"].tokenizer, config), tmp_path / "roberta")
    data = matrix.write_questions(tmp_path / "questions")
    trained = matrix.train("qa", name, data, tmp_path / "trials" / "0")
    again = matrix.answers_again("qa", trained.checkpoint, data, tmp_path / "cache")
    assert again == matrix.predictions(trained.checkpoint, list(again[0]))
    kept = json.loads((trained.checkpoint / "config.json").read_text(encoding="utf-8"))
    assert (kept["pad_token_id"], load_tokenizer(name, ()).pad_token_id) == (1, 0)


def built(kind: Kind, folder: Path) -> str:
    """Write a backbone that the zoo does not have."""
    name = f"test of {folder.name}"
    TABLE[name] = kind
    try:
        return build(name, folder)
    finally:
        del TABLE[name]


# Sparse attention


def test_bigbird_keeps_its_attention_after_a_short_text() -> None:
    read = reader("big_bird-bert-vocabulary", "qa")
    before = read.scores(ROWS[1:2])
    assert read.model.base_model.attention_type == "block_sparse"
    read.scores(ROWS[:1])
    assert read.model.base_model.attention_type == "block_sparse"
    assert furthest(before, read.scores(ROWS[1:2])) == 0


@pytest.mark.parametrize(("max_length", "positions"), [(96, 512), (144, 512), (250, 250)])
def test_bigbird_attends_to_everything_where_blocks_do_not_fit(max_length: int, positions: int, tmp_path: Path) -> None:
    kind = TABLE["big_bird-bert-vocabulary"]
    config = {**kind.config, "max_position_embeddings": positions}
    read = reading(built(dataclasses.replace(kind, config=config), tmp_path / "bird"), "qa", max_length)
    assert read.model.base_model.attention_type == "original_full"
    assert max(positions_read(read)) < max_length


def test_a_saved_bigbird_attends_as_it_did(tmp_path: Path) -> None:
    for max_length, kept in ((96, "original_full"), (LENGTH, "block_sparse")):
        read = reader("big_bird-bert-vocabulary", "qa", max_length)
        folder = tmp_path / str(max_length)
        read.model.save_pretrained(folder)
        read.tokenizer.save_pretrained(folder)
        again = read.task.model(dataclasses.replace(read.params, backbone=str(folder)), read.tokenizer).eval()
        assert again.base_model.attention_type == kept
        assert furthest(read.scores(ROWS), read._replace(model=again).scores(ROWS)) == 0


def test_a_bigbird_pegasus_scores_a_question_alone_as_in_any_batch(tmp_path: Path) -> None:
    sizes = {**TABLE["bart-bert-vocabulary"].config, "block_size": 16, "num_random_blocks": 2}
    read = reading(built(Kind("bigbird_pegasus", TABLE["bert"].tokenizer, sizes), tmp_path / "pegasus"), "qa")
    assert positions_read(read) == {LENGTH}
    assert furthest([read.scores([row])[0] for row in ROWS], read.scores(ROWS)) < TOLERANCE


def test_the_hashes_of_a_reformer_are_always_the_same(tmp_path: Path) -> None:
    kind = TABLE["reformer"]
    config = {**kind.config, "attn_layers": ["lsh"], "lsh_attn_chunk_length": 16, "num_buckets": 8}
    read = reading(built(dataclasses.replace(kind, config=config), tmp_path / "reformer"), "qa")
    assert furthest([read.scores([row])[0] for row in ROWS], read.scores(ROWS)) < TOLERANCE
    read.model.train()
    batch = read.task.collate(read.inputs(ROWS), [0], read.params)
    first, second = (read.model(**batch)["loss"].item() for _ in range(2))
    assert first == second


def test_an_attention_that_needs_a_kernel_from_the_hub_is_refused() -> None:
    with pytest.raises(BackboneError, match="needs a CUDA kernel from the hub"):
        reader("mra", "mc")


def test_joined_windows_are_no_longer_than_a_model_reads(tmp_path: Path) -> None:
    name = built(
        dataclasses.replace(TABLE["albert"], config={**TABLE["albert"].config, "max_position_embeddings": 100}),
        tmp_path / "albert",
    )
    read = reading(name, "longformer", 100)
    assert read.inputs(ROWS).lengths().max() == 100
    assert max(positions_read(read, ROWS)) == 100
