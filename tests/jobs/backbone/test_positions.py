"""Test that a backbone reads as many tokens as its config is said to allow, and no more."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from jobs.backbone.architectures import architecture
from jobs.backbone.positions import limit_of_config, position_limit
from jobs.job import ParamError
from jobs.mc import McParams
from tests.support.zoo import KINDS, TABLE, configuration

POSITIONS = 96
FEW = ("mpnet", "roberta", "deberta-v2", "xlnet", "funnel", "ibert", "data2vec-text", "luke", "bart", "led", "gpt2")
# They have no table of positions: more tokens than config.json says are read, but not as in their training.
ROTARY = ("modernbert", "jina_embeddings_v3", "eurobert", "nomic_bert", "gte", "qwen2", "llama")
UNUSED = ("mra", "canine")  # refused: attention in a kernel, no fast tokenizer
SIZES = ("max_position_embeddings", "n_positions", "max_encoder_position_embeddings", "max_decoder_position_embeddings")


def small(kind: str, folder: Path) -> PreTrainedModel:
    """Return an encoder of this kind with random weights and few positions."""
    one = TABLE[kind]
    sizes = {name: POSITIONS for name in SIZES if name in one.config or (name == SIZES[0] and one.model != "xlnet")}
    sizes |= {"axial_pos_shape": [8, 12]} if kind == "reformer" else {}
    TABLE["small"] = dataclasses.replace(one, config={**one.config, **sizes})
    one.tokenizer(folder)
    config = configuration("small", folder)
    config.save_pretrained(folder)
    settings = architecture(config.to_dict()).settings(config.to_dict(), POSITIONS)
    config.update(settings)
    return getattr(transformers, one.head).from_config(config).eval()


def reads(model: PreTrainedModel, tokens: int) -> bool:
    """Return True if an encoder computes a state for each of this many tokens."""
    config = model.config
    attention: dict[str, Any] = {"attention_mask": torch.ones(1, tokens, dtype=torch.long)}
    if config.model_type == "fnet":
        attention = {}
    encoder = model.get_encoder() if config.is_encoder_decoder else model
    try:
        with torch.no_grad():
            return bool(encoder(input_ids=torch.full((1, tokens), 7), **attention)[0].shape[1] == tokens)
    except (IndexError, RuntimeError, ValueError):
        return False


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in FEW else pytest.mark.slow) for kind in KINDS if kind not in UNUSED]
)
def test_a_backbone_reads_its_limit_and_no_more(kind: str, tmp_path: Path) -> None:
    model, limit = small(kind, tmp_path), position_limit(str(tmp_path))
    assert limit == limit_of_config(model.config.to_dict())
    assert reads(model, 1500 if limit is None else limit)
    if limit is not None and TABLE[kind].model not in ROTARY:
        assert not reads(model, limit + 1)


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"model_type": "bert"}, None),
        ({"model_type": "roberta"}, 97),
        ({"model_type": "roberta", "pad_token_id": 0}, 98),
        ({"model_type": "xlm-roberta-xl", "pad_token_id": 1}, 97),
        ({"model_type": "markuplm"}, 98),
        ({"model_type": "mpnet", "pad_token_id": 7}, 97),
        ({"model_type": "deberta-v2", "position_biased_input": False}, None),
        ({"model_type": "deberta-v2", "position_biased_input": True}, 99),
        ({"model_type": "deberta"}, 99),
        ({"model_type": "t5", "n_positions": 50}, None),
        ({"model_type": "reformer", "axial_pos_shape": [4, 5]}, 20),
        ({"model_type": "never seen"}, 99),
        ({}, 99),
    ],
)
def test_the_limit_of_a_config(config: dict[str, Any], limit: int | None) -> None:
    positions = {} if config == {"model_type": "bert"} else {"max_position_embeddings": 99}
    assert limit_of_config({**config, **positions}) == limit


def test_a_sweep_may_use_the_whole_limit_and_nothing_beyond_it(tmp_path: Path) -> None:
    settings = {"model_type": "mpnet", "max_position_embeddings": 514}
    (tmp_path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    McParams(backbone=str(tmp_path), max_length=512)
    with pytest.raises(ParamError, match="513 is more than the 512 tokens"):
        McParams(backbone=str(tmp_path), max_length=513)


def test_a_backbone_without_positions_reads_any_length(tmp_path: Path) -> None:
    for values in ({"model_type": "xlnet"}, {"model_type": "deberta-v2", "position_biased_input": False}):
        settings = {"max_position_embeddings": 512, **values}
        (tmp_path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
        assert McParams(backbone=str(tmp_path), max_length=1500).max_length == 1500
