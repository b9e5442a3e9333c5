"""Test that every backbone of the zoo is what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open
from tokenizers import Tokenizer

from tests.support.zoo import KINDS, TABLE, TEXTS, build

NOT_FAST = ("roformer-jieba", "xlm", "flaubert", "canine", "roc_bert")  # their own tokenizers have no tokenizer.json


def test_the_zoo_has_at_least_thirty_architectures() -> None:
    assert len({kind.model for kind in TABLE.values()}) >= 30


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_a_config_and_weights_and_its_tokenizer_knows_every_character(kind: str, tmp_path: Path) -> None:
    folder = Path(build(kind, tmp_path / kind))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == TABLE[kind].model
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert list(weights.keys())
    if kind in NOT_FAST:
        assert not (folder / "tokenizer.json").exists()
        return
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == config["vocab_size"]
    unknown = [token for text in TEXTS for token in tokenizer.encode(text).tokens if token in ("[UNK]", "<unk>")]
    assert not unknown
