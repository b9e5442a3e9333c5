"""Write tokenizers of every kind with tiny vocabularies, made from a few Chinese texts. Nothing is downloaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
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

WriteTokenizer = Callable[[Path], None]


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


def write_luke(folder: Path) -> None:
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
