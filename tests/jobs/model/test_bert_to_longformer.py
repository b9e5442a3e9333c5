"""A converted BERT is right when it gives the BERT's own hidden states wherever every token sees every other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import BertConfig

from jobs.model import backbones, tokenizers
from jobs.model import bert_to_longformer as conversion
from jobs.model.bert_to_longformer import made_long
from jobs.model.source import BackboneError

WINDOW = 32
SEES_ALL = WINDOW // 2 + 1  # tokens: from the first one, half a window reaches the last one


def bert(model_class: str = "BertModel", **config: Any) -> Any:
    """Two layers whose weights are all random, norms and biases too, and large enough to matter."""
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    values = {"intermediate_size": 48, "max_position_embeddings": 80, "type_vocab_size": 3, **sizes, **config}
    model = getattr(transformers, model_class)(BertConfig(**values)).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    return model


def batch(length: int, pad: int) -> dict[str, torch.Tensor]:
    """Two inputs, the second three tokens shorter, with three token types."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(2, 50, (2, length), generator=generator)
    mask = torch.ones_like(ids)
    ids[1, -3:], mask[1, -3:] = pad, 0
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": torch.arange(length).expand(2, -1) % 3,
    }


def hidden(model: Any, inputs: dict[str, torch.Tensor], **more: torch.Tensor) -> torch.Tensor:
    """The last hidden states of all tokens that are not padding, [tokens, hidden]."""
    with torch.no_grad():
        states = model(**inputs, **more).last_hidden_state
    return states[inputs["attention_mask"].bool()]


def difference(short: Any, long: Any, inputs: dict[str, torch.Tensor], everywhere: int = 0) -> float:
    """Largest difference of the hidden states; global attention on the first `everywhere` tokens."""
    place = torch.arange(inputs["input_ids"].shape[1])
    wide = (place < everywhere).long() * inputs["attention_mask"]
    return float((hidden(short, inputs) - hidden(long, inputs, global_attention_mask=wide)).abs().max())


@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize("everywhere", [0, 1, 7, SEES_ALL])
def test_a_token_that_sees_all_others_gets_the_berts_hidden_state(pad: int, everywhere: int) -> None:
    short = bert(pad_token_id=pad)
    assert difference(short, made_long(short, WINDOW, 200), batch(SEES_ALL, pad), everywhere) < 1e-4


@pytest.mark.parametrize("length", [SEES_ALL + 1, 80])
def test_one_token_more_is_out_of_sight_until_attention_is_global(length: int) -> None:
    short = bert()
    long = made_long(short, WINDOW, 200)
    assert difference(short, long, batch(length, 0)) > 1e-3
    assert difference(short, long, batch(length, 0), everywhere=length) < 1e-4


@pytest.mark.parametrize("config", [{"hidden_act": "relu"}, {"layer_norm_eps": 1e-2}])
def test_what_the_config_says_of_the_arithmetic_is_carried_over(config: dict[str, Any]) -> None:
    short = bert(**config)
    long = made_long(short, WINDOW, 200)
    assert difference(short, long, batch(SEES_ALL, 0)) < 1e-4
    assert difference(bert(), long, batch(SEES_ALL, 0)) > 1e-3


def test_dropout_is_carried_over() -> None:
    config = made_long(bert(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2), WINDOW, 64).config
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.3, 0.2)


@pytest.mark.parametrize("pad", [0, 1])
def test_past_the_berts_512_positions_they_begin_again(pad: int) -> None:
    short = bert(pad_token_id=pad, max_position_embeddings=512).embeddings
    long = made_long(bert(pad_token_id=pad, max_position_embeddings=512), WINDOW, 1200).embeddings
    ids = torch.full((1, 1200), 7)
    expected = short(ids, position_ids=torch.arange(1200)[None] % 512)
    torch.testing.assert_close(long(ids), expected)
    assert not torch.allclose(expected[0, 511], expected[0, 512])


def test_fewer_positions_than_the_bert_has_are_its_first_ones() -> None:
    short = bert()
    long = made_long(short, WINDOW, 40)
    assert long.config.max_position_embeddings == 40 + 1
    torch.testing.assert_close(
        long.embeddings.position_embeddings.weight[1:], short.embeddings.position_embeddings.weight[:40]
    )


def test_global_projections_begin_as_copies_and_are_trained_apart() -> None:
    attention = made_long(bert(), WINDOW, 64).encoder.layer[1].attention.self
    for name in ("query", "key", "value"):
        local, wide = getattr(attention, name).weight, getattr(attention, f"{name}_global").weight
        assert torch.equal(local, wide)
        assert local.data_ptr() != wide.data_ptr()


def test_a_trained_head_for_spans_is_kept() -> None:
    short = bert("BertForQuestionAnswering")
    long = made_long(short, WINDOW, 64)
    inputs = batch(SEES_ALL, 0)
    with torch.no_grad():
        ours, theirs = (
            long(**inputs, global_attention_mask=torch.zeros_like(inputs["input_ids"])),
            short(**inputs),
        )
    here = inputs["attention_mask"].bool()
    torch.testing.assert_close(ours.start_logits[here], theirs.start_logits[here], atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.end_logits[here], theirs.end_logits[here], atol=1e-4, rtol=0)


def test_a_real_encoder_keeps_its_hidden_states(shared: Path) -> None:
    name = str(shared / "models/me5-small-zh")
    tokenizer = tokenizers.load_tokenizer(name, [])
    short = backbones.load_model(name, "AutoModel", tokenizer, 512).eval()
    long = made_long(short, 128, 4096)
    inputs = tokenizer(["日月潭在南投縣魚池鄉，是台灣最大的湖。" * 3, "玉山"], padding=True, return_tensors="pt")
    length = inputs["input_ids"].shape[1]
    assert 40 < length <= 65
    assert difference(short, long, inputs) < 1e-4
    narrow = made_long(short, 16, 4096)
    assert difference(short, narrow, inputs) > 1e-3
    assert difference(short, narrow, inputs, everywhere=length) < 1e-4


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A BERT in a folder, with the tokenizer it was made for."""
    tokenizer = tokenizers.character_tokenizer(["日月潭在南投縣"])
    bert(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def loaded(folder: Path | str, window: int = WINDOW, max_length: int = 96) -> Any:
    return conversion.load_long_model(
        str(folder), tokenizers.load_tokenizer(str(folder), ["日月潭"]), window, max_length
    )


def save_longformer(folder: Path, target: Path, max_length: int = 96) -> Path:
    loaded(folder, max_length=max_length).save_pretrained(target)
    tokenizers.load_tokenizer(str(folder), []).save_pretrained(target)
    return target


def test_a_bert_from_a_folder_becomes_a_longformer_for_spans(saved: Path) -> None:
    conversion.fetch_long(str(saved))
    model = loaded(saved)
    assert type(model).__name__ == "LongformerForQuestionAnswering"
    original = bert(vocab_size=model.config.vocab_size)
    torch.testing.assert_close(
        model.longformer.encoder.layer[0].output.dense.weight, original.encoder.layer[0].output.dense.weight
    )
    assert model.config.sep_token_id == tokenizers.load_tokenizer(str(saved), []).sep_token_id


def test_a_longformer_from_a_folder_keeps_its_weights_and_takes_the_window_asked_for(
    saved: Path, tmp_path: Path
) -> None:
    long = save_longformer(saved, tmp_path / "long")
    conversion.fetch_long(str(long))
    again = loaded(long, window=64)
    assert again.config.attention_window == [64, 64]
    assert again.longformer.encoder.layer[0].attention.self.one_sided_attn_window_size == 32
    first, second = loaded(saved).longformer.state_dict(), again.longformer.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_longformer_that_reads_less_than_max_length_is_an_error(saved: Path, tmp_path: Path) -> None:
    long = save_longformer(saved, tmp_path / "long")
    with pytest.raises(BackboneError, match="reads at most 96 tokens; lower max_length from 97"):
        loaded(long, max_length=97)


def test_a_scratch_backbone_has_a_position_of_its_own_for_every_token() -> None:
    model = loaded("scratch:2x32x4", max_length=700)
    rows = model.longformer.embeddings.position_embeddings.weight[1:]
    assert len(rows) == 700
    assert len(rows.unique(dim=0)) == 700
    assert model.config.num_hidden_layers == 2


@pytest.mark.parametrize("do", [conversion.fetch_long, loaded])
def test_another_architecture_is_one_clear_line(saved: Path, do: Any) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "model_type": "electra"}))
    with pytest.raises(BackboneError) as caught:
        do(str(saved))
    assert (
        str(caught.value)
        == f"{saved}: its architecture is electra, which cannot become a Longformer; choose a BERT or a Longformer"
    )


def test_a_longformer_whose_weights_are_anothers_is_an_error(saved: Path, tmp_path: Path) -> None:
    long = save_longformer(saved, tmp_path / "long", max_length=79)  # with as many rows of positions as the BERT
    shutil.copy(saved / "model.safetensors", long)
    with pytest.raises(
        BackboneError, match=r"12 weights of the encoder are not in the checkpoint, such as .*key_global"
    ):
        loaded(long, max_length=79)


@pytest.mark.parametrize("told", [None, "{}", '{"tokenizer_class": "BertTokenizer"}'])
def test_a_chinese_longformer_gets_berts_tokenizer(saved: Path, tmp_path: Path, told: str | None) -> None:
    """As they lie on the hub: vocab.txt, and a tokenizer_config.json that is missing or names no class."""
    long = save_longformer(saved, tmp_path / "long")
    pieces = json.loads((long / "tokenizer.json").read_text())["model"]["vocab"]
    for file in long.glob("tokenizer*"):
        file.unlink()
    (long / "vocab.txt").write_text("".join(f"{piece}\n" for piece in sorted(pieces, key=pieces.__getitem__)))
    if told:
        (long / "tokenizer_config.json").write_text(told)
    tokenizer = tokenizers.load_tokenizer(str(long), [])
    assert tokenizer.tokenize("日月潭龘") == ["日", "月", "潭", "[UNK]"]
    assert tokenizer("南投")["input_ids"] == tokenizers.load_tokenizer(str(saved), [])("南投")["input_ids"]


def test_a_folder_without_a_vocabulary_is_an_error(saved: Path, tmp_path: Path) -> None:
    long = save_longformer(saved, tmp_path / "long")
    for file in long.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(BackboneError, match="its tokenizer has no vocabulary; name the right tokenizer_class"):
        conversion.fetch_long(str(long))


def test_a_tokenizer_with_more_pieces_than_the_model_is_an_error(saved: Path) -> None:
    other = tokenizers.character_tokenizer(["日月潭在南投縣，阿里山在嘉義縣"])
    with pytest.raises(BackboneError, match=r"its tokenizer has \d+ pieces and the model only \d+"):
        conversion.load_long_model(str(saved), other, WINDOW, 96)
