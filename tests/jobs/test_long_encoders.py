"""The longformer job reads with any encoder: as a Longformer if it is a BERT, else as it is."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from jobs import longformer
from jobs.backbone.source import BackboneError
from jobs.backbone.tokenizers import load_tokenizer
from jobs.dataset.data import Data, Question
from jobs.features.windows import Windows
from jobs.job import ParamError
from jobs.longformer import LongformerParams, collate_joined, joined_windows, load_long_reader
from jobs.model.conversion import load_long_model
from tests.support import zoo

BERTS = (
    "bert",
    "roberta",
    "roberta-bert-vocabulary",
    "xlm-roberta",
    "camembert",
    "data2vec-text",
    "ernie",
    "distilbert",
)
LONG = ("modernbert", "xlnet", "mt5")
OTHER_LONG = ("t5", "umt5", "bart", "mbart", "led", "funnel", "xlnet-bert-vocabulary")


@pytest.fixture(scope="module")
def data() -> Data:
    """One question about four paragraphs, which have more than 512 tokens together."""
    texts = tuple(text * 6 for text in zoo.TEXTS[:4])
    row = Question("a", "湖在哪裡？", (0, 1, 2, 3), 0, "南投縣", zoo.TEXTS[0].index("南投縣"))
    return Data("x", texts, (row,), (row,), (row,))


def reading(name: str, data: Data, folder: Path, **params: Any) -> tuple[Any, Any, Windows]:
    """Return the model, the tokenizer and the windows of the only question."""
    given = LongformerParams(backbone=name, **{"max_length": 1024, "doc_stride": 16, **params})
    longformer.JOB.fetch(name)
    tokenizer = load_tokenizer(name, ())
    torch.manual_seed(0)
    model = load_long_reader(given, tokenizer).eval()
    return model, tokenizer, joined_windows(tokenizer, data, data.train, given, folder)


def scores(model: Any, windows: Windows) -> torch.Tensor:
    """Return the start and end scores of the first window [2, positions]."""
    with torch.no_grad():
        outputs = model(**collate_joined(windows, [0]))
    return torch.cat([outputs["start_logits"], outputs["end_logits"]])


def assert_reads_as_it_is(kind: str, data: Data, folder: Path) -> None:
    """Compare the scores with those of transformers' own model for all tokens of the joined paragraphs."""
    name = zoo.build(kind, folder / kind)
    model, _, windows = reading(name, data, folder)
    torch.manual_seed(0)
    plain = transformers.AutoModelForQuestionAnswering.from_pretrained(name, dtype=torch.float32).eval()
    assert type(model) is type(plain)
    batch = collate_joined(windows, [0])
    length = int(batch["attention_mask"].sum())
    assert length > 512
    with torch.no_grad():
        expected = plain(**{key: batch[key] for key in inspect.signature(plain.forward).parameters.keys() & batch})
    torch.testing.assert_close(scores(model, windows)[0, :length], expected.start_logits[0, :length])


@pytest.mark.parametrize("kind", LONG)
def test_an_encoder_that_reads_enough_stays_as_it_is(kind: str, data: Data, tmp_path: Path) -> None:
    assert_reads_as_it_is(kind, data, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("kind", OTHER_LONG)
def test_every_other_encoder_that_reads_enough_stays_as_it_is(kind: str, data: Data, tmp_path: Path) -> None:
    assert_reads_as_it_is(kind, data, tmp_path)


@pytest.mark.parametrize("kind", BERTS)
def test_a_bert_is_saved_as_a_longformer_that_answers_alike(kind: str, data: Data, tmp_path: Path) -> None:
    model, tokenizer, windows = reading(zoo.build(kind, tmp_path / kind), data, tmp_path)
    assert model.config.model_type == "longformer"
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert model.config.sep_token_id == tokenizer.sep_token_id == windows.separator
    model.save_pretrained(tmp_path / "tuned")
    tokenizer.save_pretrained(tmp_path / "tuned")
    again, _, same = reading(str(tmp_path / "tuned"), data, tmp_path)
    assert again.config.model_type == "longformer"
    torch.testing.assert_close(scores(again, same), scores(model, windows), rtol=0, atol=0)


def test_the_tokenizers_padding_is_taken_over_the_configs(data: Data, tmp_path: Path) -> None:
    name = zoo.build("bert", tmp_path / "bert")
    config = tmp_path / "bert" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "pad_token_id": 2}))
    model, tokenizer, _ = reading(name, data, tmp_path)
    assert model.config.pad_token_id == tokenizer.pad_token_id == 0


def test_paragraphs_are_joined_by_the_end_of_a_text_where_a_tokenizer_has_no_separator(
    data: Data, tmp_path: Path
) -> None:
    """As T5 and decoders have none."""
    tokenizer = load_tokenizer(zoo.build("mt5", tmp_path / "mt5"), ())
    tokenizer.sep_token = None
    windows = joined_windows(tokenizer, data, data.train, params_of("scratch:1x32x2"), tmp_path)
    ids = collate_joined(windows, [0])["input_ids"]
    # One stands behind the question, one behind each of the four paragraphs.
    assert int((ids == tokenizer.eos_token_id).sum()) == 5
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="neither a separator nor a token for the end of a text"):
        joined_windows(tokenizer, data, data.train, params_of("scratch:1x32x2"), tmp_path)


def params_of(name: str, **params: Any) -> LongformerParams:
    return LongformerParams(backbone=name, **{"max_length": 1024, "doc_stride": 16, **params})


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("electra", "its embeddings have 16 numbers and its layers 32"),
        ("albert", "its architecture is albert"),
        ("megatron-bert", "its architecture is megatron-bert"),
    ],
)
def test_an_encoder_that_reads_too_little_is_refused_with_cause_and_cure(
    kind: str, reason: str, tmp_path: Path
) -> None:
    name = zoo.build(kind, tmp_path / kind)
    with pytest.raises(ParamError, match="set max_length to at most 512, or choose a Longformer, a BERT") as caught:
        params_of(name)
    assert caught.value.key == "max_length"
    assert f"{name} reads at most 512 tokens and cannot become a Longformer, because {reason};" in str(caught.value)
    assert params_of(name, max_length=512)
    with pytest.raises(BackboneError, match="reads at most 512 tokens"):
        load_long_model(name, load_tokenizer(name, ()), 512, 1024)


def test_a_longformer_that_reads_too_little_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    name = zoo.build("longformer-english", tmp_path / "long")
    with pytest.raises(ParamError, match="reads at most 1024 tokens; set max_length to at most 1024") as caught:
        params_of(name, max_length=1032)
    assert "cannot become" not in str(caught.value)


def test_a_window_longer_than_the_input_is_no_mistake_where_it_has_no_effect(tmp_path: Path) -> None:
    name = zoo.build("modernbert", tmp_path / "modern")
    assert params_of(name, max_length=256)
    assert params_of(name, max_length=256, attention_window=320)
    reason = "it is read as it is and is no Longformer, because its architecture is modernbert"
    assert longformer.JOB.idle(name) == {"attention_window": reason}
    for other in ("someone/unseen", "scratch:1x32x2", zoo.build("bert", tmp_path / "bert")):
        assert longformer.JOB.idle(other) == {}


def test_a_default_window_longer_than_the_input_is_refused_once_the_backbone_is_known(tmp_path: Path) -> None:
    assert params_of("someone/unseen", max_length=256)
    for name in ("scratch:1x32x2", zoo.build("bert", tmp_path / "bert")):
        with pytest.raises(ParamError, match="512 is more than max_length 256; use at most 256"):
            params_of(name, max_length=256)
    with pytest.raises(ParamError, match="320 is more than max_length 256"):
        params_of("someone/unseen", max_length=256, attention_window=320)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_an_led_reads_as_many_tokens_as_its_encoder_and_its_decoder_do(part: str, data: Data, tmp_path: Path) -> None:
    """Its decoder reads the whole input too. On the hub it has 1,024 positions, and the encoder 16,384."""
    size = f"max_{part}_position_embeddings"
    led = zoo.TABLE["led"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(zoo.TABLE, "led", dataclasses.replace(led, config={**led.config, size: 768}))
        name = zoo.build("led", tmp_path / "led")
    with pytest.raises(ParamError, match="reads at most 768 tokens"):
        params_of(name)
    model, _, windows = reading(name, data, tmp_path, max_length=768)
    assert int(collate_joined(windows, [0])["attention_mask"].sum()) == 768
    assert scores(model, windows).isfinite().all()
