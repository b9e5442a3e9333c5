"""Write local folders with the configs, vocabulary size and tokenizer files of the report's six backbones.

Each folder is as the backbone's repository on the hub, with three differences: one layer instead of 12 or 24, random
weights, and a vocabulary that is made here. The sizes of the embeddings and of the layer are the real ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SIZE = 21_128  # pieces in BERT's Chinese vocabulary
BASE = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
LARGE = {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096}
POOLER = {
    "directionality": "bidi",
    "pooler_fc_size": 768,
    "pooler_num_attention_heads": 12,
    "pooler_num_fc_layers": 3,
    "pooler_size_per_head": 128,
    "pooler_type": "first_token_transform",
}
COMMON = {
    "architectures": ["BertForMaskedLM"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_hidden_layers": 1,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": SIZE,
    **POOLER,
}
OLD_HFL = {"bos_token_id": 0, "eos_token_id": 2, "output_past": True}
LERT = {
    "classifier_dropout": None,
    "position_embedding_type": "absolute",
    "torch_dtype": "float32",
    "transformers_version": "4.22.1",
    "use_cache": True,
}
SPECIAL = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
LOWER: dict[str, Any] = {"init_inputs": []}  # the older hfl folders say no more; BERT's default lower-cases
SPELLED_OUT = {
    **SPECIAL,
    "do_basic_tokenize": True,
    "do_lower_case": True,
    "name_or_path": "/somewhere/of/the/author",
    "never_split": None,
    "special_tokens_map_file": None,
    "strip_accents": None,
    "tokenize_chinese_chars": True,
    "tokenizer_class": "BertTokenizer",
}
# name: config, tokenizer_config.json, and whether the repository has tokenizer.json
BACKBONES: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "bert-base-chinese": ({**COMMON, **BASE}, {"do_lower_case": False, "model_max_length": 512}, True),
    "hfl/chinese-roberta-wwm-ext": ({**COMMON, **BASE, **OLD_HFL}, LOWER, True),
    "hfl/chinese-macbert-large": (
        {**COMMON, **LARGE, "gradient_checkpointing": False},
        {**LOWER, "do_lower_case": True},
        False,
    ),
    "hfl/chinese-lert-base": ({**COMMON, **BASE, **LERT}, SPELLED_OUT, False),
    "hfl/chinese-lert-large": ({**COMMON, **LARGE, **LERT}, SPELLED_OUT, False),
    "hfl/chinese-pert-large": ({**COMMON, **LARGE, "gradient_checkpointing": False}, {**LOWER, **SPECIAL}, False),
}


def vocabulary() -> list[str]:
    """Return 21,128 pieces in the order of BERT's Chinese vocabulary: special ones, ASCII, marks, characters, ##."""
    ascii_pieces = [chr(code) for code in range(33, 127)]
    inside = [f"##{letter}" for letter in ascii_pieces if letter.isalnum()]
    first = ["[PAD]", *(f"[unused{number}]" for number in range(1, 100)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    first += ["<S>", "<T>", *ascii_pieces, *"、。〈〉《》「」『』【】，：；？！（）％～·—…“”‘’"]
    characters = [chr(0x4E00 + number) for number in range(SIZE - len(first) - len(inside))]
    return [*first, *characters, *inside]


def build(name: str, folder: Path) -> Path:
    """Write a backbone to a folder below `folder` with the last part of its name, and return this folder."""
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertForPreTraining

    config, tokenizer, fast = BACKBONES[name]
    home = folder / name.rpartition("/")[2]
    home.mkdir(parents=True)
    _write_json(home / "config.json", config)
    _write_json(home / "tokenizer_config.json", tokenizer)
    (home / "vocab.txt").write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")
    if name.startswith("hfl/"):
        _write_json(home / "added_tokens.json", {})
        _write_json(home / "special_tokens_map.json", SPECIAL)
    if fast:
        _write_tokenizer(home, lowercase=tokenizer.get("do_lower_case", True))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = BertForPreTraining(BertConfig(**config)).state_dict()
    # The decoder's matrix is that of the embeddings, and the published files name LayerNorm as TensorFlow does.
    renamed = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for key, value in weights.items()
        if not key.startswith("cls.predictions.decoder.")
    }
    position_ids = torch.arange(512)[None]
    save_file({"bert.embeddings.position_ids": position_ids, **renamed}, home / "model.safetensors", {"format": "pt"})
    return home


def _write_tokenizer(home: Path, lowercase: bool) -> None:
    from transformers import BertTokenizerFast

    pieces = {piece: number for number, piece in enumerate(vocabulary())}
    BertTokenizerFast(vocab=pieces, do_lower_case=lowercase).backend_tokenizer.save(str(home / "tokenizer.json"))


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
