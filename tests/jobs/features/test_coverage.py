"""What a tokenizer does not represent is counted by hand on short texts."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertTokenizer, PreTrainedTokenizerFast

from jobs.features.coverage import measure_coverage
from tests.support.tokenizers import build_tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def bert(characters: str) -> BertTokenizer:
    pieces = [*SPECIAL, *characters]
    return BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)})


def test_unknown_and_dropped_characters_are_counted_and_white_space_is_not() -> None:
    found = measure_coverage(bert("日月潭"), ["日月 潭\n湖湖", "月\ue000鄉xyz"])
    assert (found.characters, found.tokens) == (11, 8)  # xyz is one token; BERT removes U+E000
    assert (found.unknown_tokens, found.unknown_characters, found.dropped_characters) == (4, 6, 1)
    assert (found.unknown_examples[0], found.dropped_examples) == ("湖", ("\ue000",))
    assert "U+E000" in found.lines()[1]


def test_an_invisible_character_that_has_a_token_is_not_dropped() -> None:
    found = measure_coverage(build_tokenizer("RoBERTa"), ["月\u200b鄉\u00ad"])
    assert (found.characters, found.dropped_characters) == (4, 0)


@pytest.mark.parametrize(
    ("text", "refused", "warned"), [("日" * 100, False, False), ("日" * 90 + "湖" * 10, False, True)]
)
def test_few_unknown_characters_are_a_warning(text: str, refused: bool, warned: bool) -> None:
    found = measure_coverage(bert("日"), [text])
    assert (found.refusal() is not None, bool(found.warnings())) == (refused, warned)


def test_examples_that_would_not_be_seen_are_numbers() -> None:
    found = measure_coverage(bert("日"), ["日\ufe0f"])
    assert found.lines()[1] == "dropped: 1 characters, such as U+FE0F"


def test_a_text_that_is_mostly_unknown_is_refused_with_the_characters() -> None:
    refusal = measure_coverage(bert("日"), ["日湖湖湖"]).refusal()
    assert refusal is not None
    assert "reads 25.0%" in refusal
    assert "湖" in refusal


def test_a_tokenizer_that_drops_the_text_is_refused() -> None:
    bare = Tokenizer(models.BPE(vocab={"<pad>": 0, "a": 1}, merges=[]))
    found = measure_coverage(PreTrainedTokenizerFast(tokenizer_object=bare, pad_token="<pad>"), ["日月a"])
    assert (found.tokens, found.dropped_characters) == (1, 2)
    assert found.refusal()


def test_three_tokens_of_a_character_are_a_warning() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = Tokenizer(models.BPE(vocab={piece: index for index, piece in enumerate(alphabet)}, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found = measure_coverage(PreTrainedTokenizerFast(tokenizer_object=bytewise, pad_token="!"), ["日月潭"])
    assert found.tokens_per_character == 3
    assert any("3.0 tokens of a character" in line for line in found.warnings())
    assert found.missing == ("separator", "classification")


def test_a_tokenizer_without_padding_is_refused() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bert("日").backend_tokenizer)
    assert "padding token" in (measure_coverage(tokenizer, ["日"]).refusal() or "")
    assert measure_coverage(bert("日"), ["日"]).missing == ()


def test_a_vocabulary_far_smaller_than_the_models_is_a_warning() -> None:
    assert measure_coverage(bert("日月"), ["日月"], pieces=10).warnings() == []
    assert "7 pieces and its model 21,128" in measure_coverage(bert("日月"), ["日月"], pieces=21_128).warnings()[0]
