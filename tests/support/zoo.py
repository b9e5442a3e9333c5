"""Build tiny random backbones of many architectures, each with a tokenizer that suits it.

A backbone has one layer of hidden size 32. Its folder is what `save_pretrained` writes: config.json,
model.safetensors and the files of the tokenizer. Nothing is downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

TEXTS = (
    "日月潭位於南投縣魚池鄉，是台灣最大的湖泊，湖面海拔七百四十八公尺。",
    "阿里山在嘉義縣，鐵路在一九一二年通車，日出和雲海很有名。",
    "玉山是台灣最高的山，海拔三千九百五十二公尺，冬天會下雪。",
    "淡水在新北市，河口的夕陽、老街和紅毛城每年吸引很多遊客。",
    "Taipei 101 有 508 公尺高，2004 年完工；哪一座山最高？湖在哪裡？誰？什麼？",
)
BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
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

WriteTokenizer = Callable[[Path], None]


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


def characters() -> list[str]:
    """Return the characters of TEXTS, Latin letters, digits and marks, sorted."""
    more = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789，。？、；,?;"
    return sorted({letter for text in (*TEXTS, more) for letter in text if not letter.isspace()})


def pieces(special: Sequence[str]) -> list[str]:
    """Return a WordPiece vocabulary with the special tokens first."""
    return [*special, *characters(), *(f"##{letter}" for letter in characters())]


def wordpiece(name: str = "BertTokenizer", special: Sequence[str] = BERT_SPECIAL, **options: Any) -> WriteTokenizer:
    """Return a writer of a WordPiece tokenizer, by the name of its class."""

    def write(folder: Path) -> None:
        vocabulary = {piece: index for index, piece in enumerate(pieces(special))}
        _class(name)(vocab=vocabulary, do_lower_case=False, **options).save_pretrained(folder)

    return write


@lru_cache
def _merges(special: tuple[str, ...]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Train a byte-level BPE on TEXTS. Returns its vocabulary, special tokens first, and its merges."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]


def byte_level(name: str = "RobertaTokenizer", special: Sequence[str] = ROBERTA_SPECIAL, **more: Any) -> WriteTokenizer:
    """Return a writer of a byte-level BPE tokenizer, by the name of its class."""

    def write(folder: Path) -> None:
        vocabulary, merges = _merges((*special, *(() if "<mask>" in special or "[MASK]" in special else ("<mask>",))))
        _class(name)(vocab=dict(vocabulary), merges=list(merges), **more).save_pretrained(folder)

    return write


def framed_bytes(first: str, last: str, special: Sequence[str], **names: str) -> WriteTokenizer:
    """Return a writer of a byte-level BPE tokenizer without a class of its own: a text between two special tokens."""

    def write(folder: Path) -> None:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
        from transformers import PreTrainedTokenizerFast

        vocabulary, merges = _merges(tuple(special))
        tokenizer = Tokenizer(models.BPE(vocab=dict(vocabulary), merges=list(merges)))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[first, "$A", last],
            pair=[first, "$A", last, "$B", last],
            special_tokens=[(token, vocabulary[token]) for token in dict.fromkeys((first, last))],
        )
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)

    return write


def unigram(name: str, special: Sequence[str], last: Iterable[str] = (), **options: Any) -> WriteTokenizer:
    """Return a writer of a SentencePiece tokenizer of the Unigram kind, by the name of its class.

    `special` are its first pieces, `last` its last ones.
    """

    def write(folder: Path) -> None:
        vocabulary = [(piece, 0.0) for piece in special] + [("▁", -2.0)]
        vocabulary += [(letter, -6.0) for letter in characters()]
        vocabulary += [(pair, -7.0) for pair in ("台灣", "海拔", "公尺", "▁的")]
        vocabulary += [(piece, 0.0) for piece in last]
        _class(name)(vocab=vocabulary, **options).save_pretrained(folder)

    return write


def bare_files(tokenizer_class: str, **files: str) -> WriteTokenizer:
    """Return a writer of the files that a tokenizer without a fast form reads; underscores in names become dots."""

    def write(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        settings = json.dumps({"tokenizer_class": tokenizer_class})
        (folder / "tokenizer_config.json").write_text(settings, encoding="utf-8")
        for name, content in files.items():
            (folder / name.replace("__", ".")).write_text(content, encoding="utf-8")

    return write


def _class(name: str) -> Any:
    import transformers

    return getattr(transformers, name)


def _luke(folder: Path) -> None:
    """Write LUKE's tokenizer: RoBERTa's with a vocabulary of entities."""
    entities = {"[MASK]": 0, "[UNK]": 1, "[PAD]": 2, "[MASK2]": 3}
    byte_level("LukeTokenizer", entity_vocab=entities)(folder)


BERT = wordpiece()
ROBERTA = byte_level()
XLM_R = unigram("XLMRobertaTokenizer", ROBERTA_SPECIAL, ["<mask>"])
ALBERT = unigram("AlbertTokenizer", ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"), keep_accents=True)
T5 = unigram("T5Tokenizer", ("<pad>", "</s>", "<unk>"))
XLNET = unigram("XLNetTokenizer", ("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"))
DEBERTA_V2 = unigram("DebertaV2Tokenizer", ("[PAD]", "[CLS]", "[SEP]", "[UNK]"), ["[MASK]"])
BIG_BIRD = unigram("BigBirdTokenizer", ("<pad>", "</s>", "<s>", "<unk>", "[CLS]", "[SEP]", "[MASK]"))
REMBERT = unigram("RemBertTokenizer", ("<pad>", "[MASK]", "<unk>", "[CLS]", "[SEP]"))
FNET = unigram("FNetTokenizer", ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"), keep_accents=True)
CAMEMBERT = unigram("CamembertTokenizer", ("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>"), ["<s>", "</s>", "<mask>"])
MBART = unigram("MBartTokenizer", ROBERTA_SPECIAL, ["<mask>"], src_lang="zh_CN")
MODERN = framed_bytes(
    "[CLS]",
    "[SEP]",
    BERT_SPECIAL,
    cls_token="[CLS]",
    sep_token="[SEP]",
    pad_token="[PAD]",
    unk_token="[UNK]",
    mask_token="[MASK]",
)
EURO = framed_bytes(
    "<|begin_of_text|>",
    "<|end_of_text|>",
    ("<|begin_of_text|>", "<|end_of_text|>", "<mask>"),
    bos_token="<|begin_of_text|>",
    eos_token="<|end_of_text|>",
    pad_token="<|end_of_text|>",
    mask_token="<mask>",
)
GPT2 = byte_level("GPT2Tokenizer", ("<|endoftext|>",))
MPNET = wordpiece("MPNetTokenizer", ("<s>", "<pad>", "</s>", "[UNK]", "<mask>"))
FUNNEL = wordpiece("FunnelTokenizer", ("<pad>", "<unk>", "<cls>", "<sep>", "<mask>", "<s>", "</s>"))
SPLINTER = wordpiece("SplinterTokenizer", (*BERT_SPECIAL, "[QUESTION]", "."))
JIEBA = bare_files("RoFormerTokenizer", vocab__txt="\n".join((*pieces(BERT_SPECIAL), "台灣", "海拔", "公尺")) + "\n")
CANINE = bare_files("CanineTokenizer")
ROC_BERT = bare_files(
    "RoCBertTokenizer",
    vocab__txt="\n".join(pieces(BERT_SPECIAL)) + "\n",
    word_shape__json=json.dumps(dict.fromkeys(pieces(BERT_SPECIAL), 1)),
    word_pronunciation__json=json.dumps(dict.fromkeys(pieces(BERT_SPECIAL), 1)),
)
MOSES_VOCABULARY = json.dumps(
    {
        piece: index
        for index, piece in enumerate(
            (
                "<s>",
                "</s>",
                "<pad>",
                "<unk>",
                *(f"<special{number}>" for number in range(10)),
                *(f"{letter}</w>" for letter in characters()),
                *characters(),
            )
        )
    }
)
XLM = bare_files("XLMTokenizer", vocab__json=MOSES_VOCABULARY, merges__txt="#version: 0.2\n")
FLAUBERT = bare_files("FlaubertTokenizer", vocab__json=MOSES_VOCABULARY, merges__txt="#version: 0.2\n")

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
    "luke": Kind("luke", _luke, {**ONE_TYPE, "entity_vocab_size": 4, "entity_emb_size": 16}),
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
