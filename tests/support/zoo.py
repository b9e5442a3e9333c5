"""Build tiny random backbones of many architectures, each with a tokenizer that suits it.

A backbone has one layer of hidden size 32. Its folder is what `save_pretrained` writes: config.json,
model.safetensors and the files of the tokenizer. Nothing is downloaded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.zoo_tokenizers import (
    ALBERT,
    BERT,
    BIG_BIRD,
    CAMEMBERT,
    CANINE,
    DEBERTA_V2,
    EURO,
    FLAUBERT,
    FNET,
    FUNNEL,
    GPT2,
    JIEBA,
    MBART,
    MODERN,
    MPNET,
    REMBERT,
    ROBERTA,
    ROC_BERT,
    SPLINTER,
    T5,
    XLM,
    XLM_R,
    XLNET,
    WriteTokenizer,
    byte_level,
    framed_bytes,
    wordpiece,
    write_luke,
)
from tests.support.zoo_tokenizers import BERT_SPECIAL as BERT_SPECIAL
from tests.support.zoo_tokenizers import TEXTS as TEXTS
from tests.support.zoo_tokenizers import pieces as pieces

POSITIONS = 512  # tokens that each backbone reads, where its architecture has a limit
SPREAD = 0.2  # of random weights: with 0.02, the default, so small a model gives nearly the same scores for any input
STARTS = dict.fromkeys(("initializer_range", "init_std", "embed_init_std", "initializer_std"), SPREAD)
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": POSITIONS,
}


@dataclass(frozen=True)
class Kind:
    """Describe one architecture.

    model      the `model_type` of its config
    tokenizer  writes the tokenizer's files to a folder
    config     values of its config besides the usual sizes
    head       the transformers class that writes the weights
    """

    model: str
    tokenizer: WriteTokenizer
    config: dict[str, Any] = field(default_factory=dict)
    head: str = "AutoModel"


ROBERTA_IDS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "max_position_embeddings": POSITIONS + 2}
ONE_TYPE = {**ROBERTA_IDS, "type_vocab_size": 1}
RELATIVE = {"relative_attention": True, "position_biased_input": False, "type_vocab_size": 0}
XLM_SIZES = {"emb_dim": 32, "n_heads": 2, "n_layers": 1, "pad_index": 2, "max_position_embeddings": POSITIONS}
SEQUENCE = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}
T5_SIZES = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
DECODER = {"num_key_value_heads": 1, "head_dim": 16}
TABLE: dict[str, Kind] = {
    "bert": Kind("bert", BERT),
    "roberta": Kind("roberta", ROBERTA, ONE_TYPE),
    "roberta-bert-vocabulary": Kind(
        "roberta", BERT, {"pad_token_id": 0, "max_position_embeddings": POSITIONS + 1, "type_vocab_size": 1}
    ),
    "xlm-roberta": Kind("xlm-roberta", XLM_R, ONE_TYPE),
    "xlm-roberta-xl": Kind("xlm-roberta-xl", XLM_R, ONE_TYPE),
    "electra": Kind("electra", BERT, {"embedding_size": 16}),
    "albert": Kind("albert", ALBERT, {"embedding_size": 16, "pad_token_id": 0}),
    "albert-bert-vocabulary": Kind("albert", BERT, {"embedding_size": 16, "pad_token_id": 0}),
    "distilbert": Kind("distilbert", BERT, {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}),
    "deberta": Kind(
        "deberta",
        byte_level("DebertaTokenizer", BERT_SPECIAL),
        {**RELATIVE, "pos_att_type": "c2p|p2c", "pad_token_id": 0},
    ),
    "deberta-v2": Kind("deberta-v2", DEBERTA_V2, {**RELATIVE, "pos_att_type": "p2c|c2p", "pad_token_id": 0}),
    "deberta-v2-bert-vocabulary": Kind(
        "deberta-v2", BERT, {**RELATIVE, "pos_att_type": "p2c|c2p", "pad_token_id": 0, "position_buckets": 32}
    ),
    "ernie": Kind("ernie", BERT, {"use_task_id": True}),
    "megatron-bert": Kind("megatron-bert", BERT),
    "mobilebert": Kind(
        "mobilebert",
        wordpiece("MobileBertTokenizer"),
        {"embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    ),
    "rembert": Kind("rembert", REMBERT, {"input_embedding_size": 16, "output_embedding_size": 16, "pad_token_id": 0}),
    "roformer": Kind("roformer", BERT, {"embedding_size": 32}),
    "roformer-jieba": Kind("roformer", JIEBA, {"embedding_size": 32}),
    "convbert": Kind("convbert", wordpiece("ConvBertTokenizer"), {"embedding_size": 32, "conv_kernel_size": 3}),
    "squeezebert": Kind("squeezebert", wordpiece("SqueezeBertTokenizer"), {"embedding_size": 32}),
    "mpnet": Kind("mpnet", MPNET, ROBERTA_IDS),
    "camembert": Kind("camembert", CAMEMBERT, ONE_TYPE),
    "ibert": Kind("ibert", ROBERTA, ONE_TYPE),
    "data2vec-text": Kind("data2vec-text", ROBERTA, ONE_TYPE),
    "roberta-prelayernorm": Kind("roberta-prelayernorm", ROBERTA, ONE_TYPE),
    "xmod": Kind("xmod", XLM_R, {**ONE_TYPE, "languages": ["en_XX", "zh_CN"], "default_language": "zh_CN"}),
    "nystromformer": Kind("nystromformer", ALBERT, {"num_landmarks": 64, "segment_means_seq_len": 64}),
    "nystromformer-landmarks": Kind("nystromformer", ALBERT, {"num_landmarks": 8, "segment_means_seq_len": 64}),
    "yoso": Kind("yoso", ALBERT, {"max_position_embeddings": POSITIONS + 2, "pad_token_id": 0}),
    "mra": Kind("mra", ROBERTA, {**ONE_TYPE, "max_position_embeddings": POSITIONS}),
    "fnet": Kind("fnet", FNET, {"pad_token_id": 0, "type_vocab_size": 4}),
    "funnel": Kind(
        "funnel",
        FUNNEL,
        {"d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 64, "block_sizes": [1, 1, 1]},
        "AutoModelForMaskedLM",
    ),
    "reformer": Kind(
        "reformer",
        ALBERT,
        {
            "attn_layers": ["local"],
            "attention_head_size": 16,
            "feed_forward_size": 64,
            "axial_pos_embds_dim": [16, 16],
            "axial_pos_shape": [16, 32],
            "local_attn_chunk_length": 32,
            "is_decoder": False,
            "pad_token_id": 0,
        },
    ),
    "big_bird": Kind("big_bird", BIG_BIRD, {"block_size": 16, "num_random_blocks": 2, "pad_token_id": 0}),
    "big_bird-bert-vocabulary": Kind(
        "big_bird", BERT, {"block_size": 16, "num_random_blocks": 2, "pad_token_id": 0, "sep_token_id": 3}
    ),
    "longformer": Kind(
        "longformer",
        BERT,
        {
            "attention_window": [32],
            "pad_token_id": 0,
            "sep_token_id": 3,
            "max_position_embeddings": 2 * POSITIONS + 2,
            "type_vocab_size": 2,
        },
    ),
    "longformer-english": Kind(
        "longformer",
        ROBERTA,
        {**ONE_TYPE, "attention_window": [32], "sep_token_id": 2, "max_position_embeddings": 2 * POSITIONS + 2},
    ),
    "modernbert": Kind(
        "modernbert",
        MODERN,
        {
            "max_position_embeddings": 2 * POSITIONS,
            "local_attention": 32,
            "pad_token_id": 0,
            "cls_token_id": 2,
            "sep_token_id": 3,
            "bos_token_id": 2,
            "eos_token_id": 3,
        },
    ),
    "xlnet": Kind("xlnet", XLNET, {"d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 64, "pad_token_id": 5}),
    "xlnet-bert-vocabulary": Kind(
        "xlnet", BERT, {"d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 64, "pad_token_id": 0}
    ),
    "xlm": Kind("xlm", XLM, XLM_SIZES),
    "xlm-bert-vocabulary": Kind("xlm", BERT, {**XLM_SIZES, "pad_index": 0, "pad_token_id": 0}),
    "flaubert": Kind("flaubert", FLAUBERT, XLM_SIZES),
    "flaubert-bert-vocabulary": Kind("flaubert", BERT, {**XLM_SIZES, "pad_index": 0, "pad_token_id": 0}),
    "splinter": Kind("splinter", SPLINTER, {"question_token_id": 5}),
    "luke": Kind("luke", write_luke, {**ONE_TYPE, "entity_vocab_size": 4, "entity_emb_size": 16}),
    "lilt": Kind("lilt", XLM_R, {**ONE_TYPE, "hidden_size": 36, "channel_shrink_ratio": 1}),
    "bart": Kind("bart", ROBERTA, SEQUENCE),
    "bart-bert-vocabulary": Kind(
        "bart",
        BERT,
        {
            **SEQUENCE,
            "pad_token_id": 0,
            "bos_token_id": 2,
            "eos_token_id": 3,
            "decoder_start_token_id": 2,
            "forced_eos_token_id": 3,
        },
    ),
    "mbart": Kind("mbart", MBART, SEQUENCE),
    "t5": Kind("t5", T5, {**T5_SIZES, "decoder_start_token_id": 0}),
    "mt5": Kind("mt5", T5, T5_SIZES),
    "umt5": Kind("umt5", T5, T5_SIZES),
    "led": Kind(
        "led",
        byte_level("LEDTokenizer"),
        {
            **SEQUENCE,
            "attention_window": [32],
            "max_encoder_position_embeddings": 2 * POSITIONS,
            "max_decoder_position_embeddings": 2 * POSITIONS,
        },
    ),
    "jina_embeddings_v3": Kind("jina_embeddings_v3", XLM_R, ONE_TYPE),
    "eurobert": Kind(
        "eurobert",
        EURO,
        {
            "num_key_value_heads": 2,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
            "mask_token_id": 2,
            "max_position_embeddings": 2 * POSITIONS,
        },
    ),
    "nomic_bert": Kind("nomic_bert", BERT, {"pad_token_id": 0, "max_position_embeddings": 2 * POSITIONS}),
    "gte": Kind("gte", XLM_R, ROBERTA_IDS),
    "gpt2": Kind(
        "gpt2",
        GPT2,
        {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": POSITIONS, "bos_token_id": 0, "eos_token_id": 0},
        "AutoModelForCausalLM",
    ),
    "qwen2": Kind(
        "qwen2",
        byte_level("Qwen2Tokenizer", ("<|endoftext|>",)),
        {**DECODER, "bos_token_id": 0, "eos_token_id": 0},
        "AutoModelForCausalLM",
    ),
    "llama": Kind(
        "llama",
        framed_bytes("<s>", "</s>", ("<unk>", "<s>", "</s>", "<mask>"), bos_token="<s>", eos_token="</s>"),
        {**DECODER, "bos_token_id": 1, "eos_token_id": 2},
        "AutoModelForCausalLM",
    ),
    "canine": Kind("canine", CANINE, {"num_hash_buckets": 64, "upsampling_kernel_size": 2, "downsampling_rate": 4}),
    "roc_bert": Kind(
        "roc_bert",
        ROC_BERT,
        {
            "shape_vocab_size": 8,
            "pronunciation_vocab_size": 8,
            "shape_embed_dim": 16,
            "pronunciation_embed_dim": 16,
            "pad_token_id": 0,
        },
    ),
}
KINDS = tuple(TABLE)


def build(kind: str, folder: Path) -> str:
    """Write a backbone of this kind to `folder` and return its name, which is the folder's path.

    The weights are random, but the same each time.
    """
    import torch
    import transformers

    one = TABLE[kind]
    one.tokenizer(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, one.head).from_config(configuration(kind, folder))
    model.save_pretrained(folder)
    return str(folder)


def configuration(kind: str, folder: Path) -> Any:
    """Return the config of a kind: the usual sizes, its own values, and the tokenizer's number of pieces.

    Kinds that call the hidden size `d_model` name all their sizes themselves.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    one = TABLE[kind]
    values = {**({} if "d_model" in one.config else SIZES), **STARTS, **one.config}
    if kind != "canine":  # reads code points, so it has no vocabulary
        values["vocab_size"] = _piece_count(folder)
    return CONFIG_MAPPING[one.model](**values)


def _piece_count(folder: Path) -> int:
    """Return the number of pieces of the tokenizer in a folder, without what its class imports."""
    if (folder / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    if (folder / "vocab.json").is_file():
        return len(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
    return len((folder / "vocab.txt").read_text(encoding="utf-8").splitlines())
