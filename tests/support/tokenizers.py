"""Build tiny tokenizers of every kind: how they normalise, where they cut, and what their tokens are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers.normalizers import (
    NFC,
    NFD,
    NFKC,
    NFKD,
    BertNormalizer,
    Lowercase,
    Prepend,
    Replace,
    Strip,
    StripAccents,
)
from tokenizers.pre_tokenizers import (
    BertPreTokenizer,
    ByteLevel,
    Digits,
    Metaspace,
    Punctuation,
    Split,
    Whitespace,
    WhitespaceSplit,
)

from jobs.backbone.tokenizers import character_tokenizer
from tests.support.unusual import STRINGS

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
KNOWN = sorted({letter for text in list(STRINGS.values())[::2] for letter in text if not letter.isspace()})
WORDS = ("Moon", "Lake", "日月潭", "台灣", "湖。", "1987", "株式会社", "fi", "cafe")


def wordpiece(**options: Any) -> Tokenizer:
    """Return BERT's kind. It knows the characters of every second string."""
    tokenizer = Tokenizer(
        models.WordPiece(_numbered([*KNOWN, *WORDS, *(f"##{one}" for one in KNOWN)]), unk_token="[UNK]")
    )
    tokenizer.normalizer = BertNormalizer(**options)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


def byte_level(
    normalizer: Any = None, first: Sequence[Any] = (), last: Sequence[Any] = (), **options: Any
) -> Tokenizer:
    """Return GPT-2's and RoBERTa's kind."""
    tokenizer = Tokenizer(models.BPE(*_merges()))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*first, ByteLevel(**options), *last])
    return tokenizer


@lru_cache
def _merges() -> tuple[dict[str, int], list[tuple[str, str]]]:
    import json

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=list(SPECIAL), initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(STRINGS.values(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]


def unigram(*normalizer: Any, cut: Sequence[Any] = (Metaspace(),), fallback: bool = False) -> Tokenizer:
    """Return SentencePiece's Unigram kind."""
    pieces = [*SPECIAL, "▁", *KNOWN, *WORDS, "▁Moon", "▁湖", *(_bytes() if fallback else ())]
    scores = [(piece, -float(len(pieces)) if len(piece) == 1 else -9.0) for piece in dict.fromkeys(pieces)]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=1, byte_fallback=fallback))
    if normalizer:
        tokenizer.normalizer = normalizers.Sequence(list(normalizer))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(cut))
    return tokenizer


def pair_encoding(*normalizer: Any, cut: Any = None) -> Tokenizer:
    """Return SentencePiece's BPE kind: single bytes stand for unknown characters."""
    vocabulary = _numbered(["▁", *KNOWN, *_bytes(), "▁M", "oo", "▁湖"])
    merges = [pair for pair in (("▁", "M"), ("o", "o"), ("▁", "湖")) if set(pair) <= set(vocabulary)]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="[UNK]", fuse_unk=True, byte_fallback=True))
    if normalizer:
        tokenizer.normalizer = normalizers.Sequence(list(normalizer))
    if cut:
        tokenizer.pre_tokenizer = cut
    return tokenizer


def word_ends() -> Tokenizer:
    """Return CLIP's kind: lower-case letters, the last of a word marked."""
    vocabulary = _numbered([*KNOWN, *(f"{one}</w>" for one in KNOWN)])
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="[UNK]", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([NFC(), Replace(Regex(r"\s+"), " "), Lowercase()])
    tokenizer.pre_tokenizer = Whitespace()
    return tokenizer


def words() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(_numbered([*KNOWN, *WORDS]), unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return tokenizer


def _numbered(pieces: Sequence[str]) -> dict[str, int]:
    return {piece: number for number, piece in enumerate(dict.fromkeys([*SPECIAL, *pieces]))}


def _bytes() -> list[str]:
    return [f"<0x{byte:02X}>" for byte in range(256)]


def silent() -> Tokenizer:
    """Return a tokenizer that drops every character but Latin letters."""
    tokenizer = wordpiece()
    tokenizer.normalizer = Replace(Regex("[^a-z]"), "")
    return tokenizer


NEW_WORDS = Split(Regex(r"\p{L}+|\p{N}{1,3}|[^\s\p{L}\p{N}]+|\s+"), "isolated")
MAKERS: dict[str, Callable[[], Tokenizer]] = {
    "BERT, cased": lambda: wordpiece(lowercase=False),
    "BERT, uncased": lambda: wordpiece(lowercase=True, strip_accents=True),
    "BERT that keeps what it reads": lambda: wordpiece(clean_text=False, handle_chinese_chars=False, lowercase=False),
    "RoBERTa": lambda: byte_level(add_prefix_space=False),
    "RoBERTa, prefix space": lambda: byte_level(add_prefix_space=True),
    "RoBERTa, spaces kept": lambda: byte_level(add_prefix_space=True, trim_offsets=False),
    "new byte-level": lambda: byte_level(NFC(), [NEW_WORDS], add_prefix_space=False, use_regex=False),
    "single digits, bytes": lambda: byte_level(first=[Digits(individual_digits=True)], add_prefix_space=False),
    "RoBERTa, after words": lambda: byte_level(first=[Whitespace()], last=[Punctuation()], add_prefix_space=True),
    "XLM-R": lambda: unigram(NFKC(), Replace(Regex(" {2,}"), " ")),
    "XLM-R, split at spaces": lambda: unigram(NFKC(), cut=(WhitespaceSplit(), Metaspace())),
    "T5": lambda: unigram(cut=(WhitespaceSplit(), Metaspace(prepend_scheme="always", split=True))),
    "Unigram, first": lambda: unigram(NFKC(), cut=(Metaspace(prepend_scheme="first", split=False),)),
    "Unigram, never": lambda: unigram(cut=(Metaspace(prepend_scheme="never"),)),
    "Unigram, bytes": lambda: unigram(NFKC(), fallback=True),
    "ALBERT": lambda: unigram(Replace("``", '"'), NFKD(), StripAccents(), Lowercase()),
    "DeBERTa v2": lambda: unigram(Replace(Regex(r"\s{2,}|[\n\r\t]"), " "), NFC(), Strip(left=False, right=True)),
    "DeBERTa v3, marks apart": lambda: unigram(NFD(), cut=(Punctuation("isolated"), Metaspace())),
    "Llama": lambda: pair_encoding(Prepend("▁"), Replace(" ", "▁")),
    "Llama, new": lambda: pair_encoding(cut=Metaspace(prepend_scheme="first", split=False)),
    "Gemma": lambda: pair_encoding(Replace(" ", "▁"), cut=Split(" ", "merged_with_previous")),
    "CLIP": word_ends,
    "words": words,
    "drops all but Latin": silent,
}


@lru_cache
def build_tokenizer(kind: str) -> Any:
    """Return the tokenizer of a kind in MAKERS, or `characters`, with BERT's special tokens around a pair of texts."""
    from transformers import PreTrainedTokenizerFast

    if kind == "characters":
        return character_tokenizer(list(STRINGS.values())[::2])
    backend = MAKERS[kind]()
    numbers = [(token, SPECIAL.index(token)) for token in ("[CLS]", "[SEP]")]
    frame = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=numbers
    )
    trim = [processors.ByteLevel(trim_offsets=True)] if "RoBERTa" in kind and "kept" not in kind else []
    backend.post_processor = processors.Sequence([*trim, frame])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


KINDS = ("characters", *MAKERS)
