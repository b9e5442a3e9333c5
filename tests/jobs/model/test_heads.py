"""Test that a checkpoint with any head, or an architecture without the head of a job, is used with the right head."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from jobs.model import heads
from jobs.model.backbones import BackboneError, load_model, load_tokenizer
from tests.jobs.model.test_inputs import Zoo, read
from tests.support.zoo import build

QA, MC = "AutoModelForQuestionAnswering", "AutoModelForMultipleChoice"
CLASSIFIER, TAGGER = "AutoModelForSequenceClassification", "AutoModelForTokenClassification"


def tuned(folder: Path, kind: str, head: str, classes: int, **config: Any) -> str:
    """Write a backbone whose head has this number of classes, as if it had been tuned for another task."""
    build(kind, folder)
    loaded = getattr(transformers, head).from_pretrained(folder, num_labels=classes)
    loaded.config.update(config)
    loaded.save_pretrained(folder)
    return str(folder)


def load(name: str, head: str, **config: Any) -> PreTrainedModel:
    return load_model(name, head, load_tokenizer(name, ()), 64, **config).eval()


def encoder(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in model.base_model.state_dict().items() if "pooler" not in name}


def assert_same_encoder(model: PreTrainedModel, folder: str) -> None:
    there = encoder(transformers.AutoModel.from_pretrained(folder))
    assert all(torch.equal(weight, there[name]) for name, weight in encoder(model).items())


# Checkpoints that were tuned for another task


@pytest.mark.parametrize("job", ["qa", "mc", "longformer"])
@pytest.mark.parametrize(
    ("kind", "head", "classes"),
    [
        ("bert", CLASSIFIER, 1),
        ("bert", CLASSIFIER, 3),
        pytest.param("roberta", TAGGER, 7, marks=pytest.mark.slow),
    ],
)
def test_a_model_tuned_for_classes_gets_the_head_of_the_job(
    kind: str, head: str, classes: int, job: str, tmp_path: Path
) -> None:
    name = tuned(tmp_path / kind, kind, head, classes)
    model, batch, output = read(job, name, tmp_path / "cache")
    shapes = [tuple(scores.shape) for key, scores in output.items() if key.endswith("logits")]
    assert shapes == [tuple(batch["input_ids"].shape[:2])] * (1 if job == "mc" else 2)
    if job != "longformer":
        assert_same_encoder(model, name)


@pytest.mark.parametrize(("head", "count"), [(QA, 2), (MC, 2), (CLASSIFIER, 2)])
def test_the_classes_and_the_loss_of_another_task_do_not_stay(head: str, count: int, tmp_path: Path) -> None:
    names = {0: "負面", 1: "正面"}
    name = tuned(tmp_path / "bert", "bert", CLASSIFIER, 2, id2label=names, problem_type="multi_label_classification")
    config = load(name, head, **({"num_labels": 2} if head == CLASSIFIER else {})).config
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1}
    assert config.problem_type is None


@pytest.mark.parametrize(("kind", "classes"), [("bert", 1), ("bert", 5), ("distilbert", 5), ("deberta", 1)])
def test_a_task_of_ones_own_gets_the_classes_that_it_asks_for(kind: str, classes: int, tmp_path: Path) -> None:
    name = tuned(tmp_path / kind, kind, CLASSIFIER, 3)
    model = load(name, CLASSIFIER, num_labels=classes)
    tokenizer = load_tokenizer(name, ())
    assert model(**tokenizer("湖", return_tensors="pt")).logits.shape == (1, classes)
    assert (model.config.num_labels, len(model.config.id2label)) == (classes, classes)
    assert_same_encoder(model, name)


def test_a_task_that_names_its_classes_keeps_the_names(tmp_path: Path) -> None:
    name = tuned(tmp_path / "bert", "bert", CLASSIFIER, 3)
    model = load(name, CLASSIFIER, num_labels=2, id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1})
    assert model.config.id2label == {0: "no", 1: "yes"}


def test_a_head_that_was_trained_for_the_task_stays(tmp_path: Path) -> None:
    name = tuned(tmp_path / "bert", "bert", QA, 2)
    there = transformers.AutoModelForQuestionAnswering.from_pretrained(name)
    assert torch.equal(load(name, QA).qa_outputs.weight, there.qa_outputs.weight)


def test_a_bert_that_writes_text_stays_a_decoder_in_a_task_of_ones_own(tmp_path: Path) -> None:
    name = tuned(tmp_path / "bert", "bert", "BertLMHeadModel", 2, is_decoder=True)
    assert load(name, "AutoModelForCausalLM").config.is_decoder


def test_a_checkpoint_that_asks_for_tuples_and_attentions_answers_as_others(tmp_path: Path) -> None:
    name = build("bert", tmp_path / "bert")
    config = json.loads((tmp_path / "bert/config.json").read_text())
    more = {"return_dict": False, "output_attentions": True, "output_hidden_states": True}
    (tmp_path / "bert/config.json").write_text(json.dumps({**config, **more}))
    assert set(load(name, QA)(**load_tokenizer(name, ())("湖", return_tensors="pt"))) == {"start_logits", "end_logits"}


# Encoders that do not fit


@pytest.mark.parametrize(
    ("kind", "change", "cause"),
    [
        ("bert", {"intermediate_size": 48}, "layer.0.intermediate.dense.bias is 64 in the checkpoint and 48 in the"),
        ("bert", {"vocab_size": 900}, r"word_embeddings.weight is \d+ x 32 in the checkpoint and 900 x 32 in the"),
        ("t5", {"d_ff": 48}, r"DenseReluDense.wi.weight is 64 x 32 in the checkpoint and 48 x 32 in the"),
    ],
)
def test_encoder_weights_of_another_shape_are_refused_with_their_shapes(
    kind: str, change: dict[str, int], cause: str, tmp_path: Path
) -> None:
    name = build(kind, tmp_path / kind)
    config = json.loads((tmp_path / kind / "config.json").read_text())
    (tmp_path / kind / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(BackboneError, match=f"do not fit the model in its config.json: .*{cause}") as caught:
        load(name, QA)
    assert "\n" not in str(caught.value)


def test_the_weights_of_a_t5_that_are_not_in_its_checkpoint_are_an_error(tmp_path: Path) -> None:
    name = build("t5", tmp_path / "t5")
    config = json.loads((tmp_path / "t5/config.json").read_text())
    (tmp_path / "t5/config.json").write_text(json.dumps({**config, "num_layers": 2}))
    with pytest.raises(BackboneError, match=r"not in the checkpoint, such as encoder[.]block[.]1"):
        load(name, QA)


# Architectures without the head


@pytest.mark.parametrize(
    ("kind", "job", "class_name"),
    [
        ("deberta", "mc", "DebertaForSequenceClassification"),
        ("nomic_bert", "mc", "NomicBertForSequenceClassification"),
        ("nomic_bert", "qa", "NomicBertForTokenClassification"),
        ("eurobert", "qa", "EuroBertForTokenClassification"),
    ],
)
def test_a_head_that_replaces_another_gives_its_scores_and_loads_again(
    kind: str, job: str, class_name: str, zoo: Zoo, tmp_path: Path
) -> None:
    model, batch, output = read(job, zoo(kind), tmp_path / "cache")
    assert_same_encoder(model, zoo(kind))
    load_tokenizer(zoo(kind), ()).save_pretrained(tmp_path / "saved")
    model.save_pretrained(tmp_path / "saved")
    again, _, answers = read(job, str(tmp_path / "saved"), tmp_path / "cache")
    assert again.config.architectures == [class_name]
    scores = {key: value for key, value in output.items() if key.endswith("logits")}
    assert len(scores) == (1 if job == "mc" else 2)
    for key, value in scores.items():
        assert value.shape == batch["input_ids"].shape[:2]
        assert torch.allclose(value, answers[key], atol=1e-6)


def test_candidates_are_scored_one_by_one_by_the_head_that_replaces_a_multiple_choice_head(
    zoo: Zoo, tmp_path: Path
) -> None:
    model, batch, output = read("mc", zoo("deberta"), tmp_path / "cache")
    single = {name: values[1:, 2:] for name, values in batch.items()}
    assert torch.allclose(model(**single)["logits"], output["logits"][1:, 2:], atol=1e-6)
    labels = torch.tensor([1, 2])
    loss = torch.nn.functional.cross_entropy(output["logits"], labels)
    assert torch.allclose(model(**batch, labels=labels)["loss"], loss, atol=1e-6)


def test_the_loss_of_spans_is_that_of_a_question_answering_head(zoo: Zoo, tmp_path: Path) -> None:
    model, batch, output = read("qa", zoo("nomic_bert"), tmp_path / "cache")
    right = {"start_positions": torch.tensor([3, 4]), "end_positions": torch.tensor([5, 6])}
    loss = transformers.loss.loss_utils.ForQuestionAnsweringLoss(output["start_logits"], output["end_logits"], **right)
    assert torch.allclose(model(**batch, **right)["loss"], loss, atol=1e-6)


def test_the_first_class_of_a_token_is_its_start_score(zoo: Zoo, tmp_path: Path) -> None:
    model, batch, output = read("qa", zoo("nomic_bert"), tmp_path / "cache")
    del batch["global_attention_mask"]
    classes = super(heads.SpanScores, model).forward(**batch).logits  # type: ignore[misc]
    assert torch.allclose(classes[..., 0], output["start_logits"], atol=1e-6)
    assert torch.allclose(classes[..., 1], output["end_logits"], atol=1e-6)


def test_a_model_with_a_replaced_head_can_be_copied(zoo: Zoo, tmp_path: Path) -> None:
    model, batch, output = read("mc", zoo("deberta"), tmp_path / "cache")
    assert torch.equal(copy.deepcopy(model)(**batch)["logits"], output["logits"])


@pytest.mark.parametrize(
    ("kind", "head", "cause"),
    [
        ("splinter", MC, "splinter, has no head that scores candidates"),
        ("led", MC, "led, has no head that scores candidates"),
        ("gpt2", MC, "gpt2, has no head that scores candidates"),
        ("splinter", CLASSIFIER, "splinter, has no head for AutoModelForSequenceClassification"),
    ],
)
def test_an_architecture_without_a_head_is_refused(kind: str, head: str, cause: str, zoo: Zoo) -> None:
    with pytest.raises(BackboneError, match=cause):
        load(zoo(kind), head)


def test_every_replaced_head_adapts_what_the_model_returns() -> None:
    assert all(own.scores is None and others for own, *others in heads.HEADS.values())
    assert all(other.scores for _, *others in heads.HEADS.values() for other in others)
