"""Load the tokenizer of a backbone, or build one from the characters of the data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from jobs.features.coverage import Coverage, measure_coverage
from jobs.features.tokens import Tokens
from jobs.model.folders import read_config
from jobs.model.names import SCRATCH
from jobs.model.source import BackboneError, config_file, from_pretrained

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def load_tokenizer(name: str, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Load the backbone's fast tokenizer. `texts` are the vocabulary of a scratch backbone.

    Raises BackboneError when it cannot be loaded.
    """
    match = SCRATCH.fullmatch(name)
    if match and not match["tokenizer"]:
        return character_tokenizer(texts)
    return _pretrained_tokenizer(match["tokenizer"] if match else name)


def _pretrained_tokenizer(source: str) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer

    tokenizer = from_pretrained(AutoTokenizer, source, use_fast=True)
    # If a checkpoint names no tokenizer class, transformers uses RoBERTa's for a Longformer and finds no vocabulary.
    # Chinese Longformers have BERT's vocabulary.
    if _is_bare(tokenizer):
        tokenizer = from_pretrained(AutoTokenizer, source, tokenizer_type="bert")
    if _is_bare(tokenizer):
        raise BackboneError(
            f"{source}: its tokenizer has no vocabulary; name the right tokenizer_class in its tokenizer_config.json"
        )
    if not tokenizer.is_fast:
        raise BackboneError(
            f"{source}: has no fast tokenizer, and spans need its character offsets; choose another backbone"
        )
    return tokenizer


def _is_bare(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Return True if a tokenizer has only special tokens, because it found no vocabulary file."""
    return len(tokenizer) <= len(set(tokenizer.all_special_ids))


def check_tokenizer(
    name: str, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], tokens: Tokens | None = None
) -> Coverage:
    """Return what the backbone's tokenizer makes of `texts`; `warnings()` of it are lines to show before a sweep.

    tokens  the tokens of `texts`, if they are known already

    Raises BackboneError when no model can learn from the tokens.
    """
    found = measure_coverage(tokenizer, texts, tokens, vocabulary_size(name))
    if refusal := found.refusal():
        raise BackboneError(f"{name}: {refusal}")
    return found


def vocabulary_size(name: str) -> int | None:
    """Return the vocabulary size in the backbone's config.json; None for `scratch:`, or if it has none."""
    file = config_file(name)
    try:
        size = read_config(file).get("vocab_size") if file else None
    except (OSError, ValueError):  # reported when the backbone is loaded
        return None
    return size if isinstance(size, int) else None


def character_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Build BERT's tokenizer with a vocabulary of the single characters in `texts`, sorted.

    Inside a run of Latin letters or digits a token is `##` and a character, as in WordPiece.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import BertTokenizerFast

    characters = sorted({character for text in texts for character in text if not character.isspace()})
    pieces = [*SPECIAL, *characters, *(f"##{character}" for character in characters)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    return BertTokenizerFast(tokenizer_object=tokenizer, do_lower_case=False)
