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

from jobs.backbone import tokenizers
from jobs.backbone.source import BackboneError
from jobs.model import backbones, conversion
from jobs.model.conversion import made_long

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


# Berts under another name

RELATIVES: dict[str, tuple[str, dict[str, Any]]] = {
    "electra": ("Electra", {"embedding_size": 32}),
    "roberta": ("Roberta", {"pad_token_id": 1}),
    "roberta with another padding": ("Roberta", {"pad_token_id": 5}),
    "xlm-roberta": ("XLMRoberta", {"pad_token_id": 1, "type_vocab_size": 1}),
    "camembert": ("Camembert", {"pad_token_id": 1}),
    "ernie": ("Ernie", {"use_task_id": False}),
    "ernie with tasks": ("Ernie", {"use_task_id": True, "task_type_vocab_size": 3, "type_vocab_size": 4}),
    "data2vec": ("Data2VecText", {"pad_token_id": 1}),
    "distilbert": ("DistilBert", {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "activation": "relu"}),
}


def relative(kind: str, head: str = "ForQuestionAnswering", **config: Any) -> Any:
    """Return a model of two layers in which all weights, norms and biases too, are random and large."""
    family, own = RELATIVES[kind]
    sizes = {"vocab_size": 50, "max_position_embeddings": 80}
    if family != "DistilBert":
        sizes |= {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    made = getattr(transformers, f"{family}Config")(**{**sizes, **own, **config})
    model = getattr(transformers, family + head)(made).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    return model


def inputs_for(model: Any, length: int = SEES_ALL) -> dict[str, torch.Tensor]:
    """Two inputs as the model's tokenizer makes them; the ids leave out the padding's."""
    pad = model.config.pad_token_id
    inputs = batch(length, pad)
    real = inputs["attention_mask"].bool()
    inputs["input_ids"][real] = inputs["input_ids"][real].clamp(min=pad + 1)
    inputs["token_type_ids"] %= getattr(model.config, "type_vocab_size", 1)
    return inputs


def own_inputs(model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inputs that the model takes: a DistilBERT has no token types."""
    without = ["token_type_ids"] if model.config.model_type == "distilbert" else []
    return {name: value for name, value in inputs.items() if name not in without}


def assert_same_scores(short: Any, long: Any, everywhere: int = 0, length: int = SEES_ALL) -> None:
    """Compare the scores of both models for all tokens that are not padding."""
    inputs = inputs_for(short, length)
    here = inputs["attention_mask"].bool()
    wide = (torch.arange(length) < everywhere).long() * inputs["attention_mask"]
    with torch.no_grad():
        ours, theirs = long(**inputs, global_attention_mask=wide), short(**own_inputs(short, inputs))
    torch.testing.assert_close(ours.start_logits[here], theirs.start_logits[here], atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.end_logits[here], theirs.end_logits[here], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", RELATIVES)
def test_a_bert_under_another_name_keeps_the_scores_of_its_head(kind: str) -> None:
    short = relative(kind)
    long = made_long(short, WINDOW, 200)
    assert_same_scores(short, long)
    assert_same_scores(short, long, everywhere=7)
    # The first 70 positions, each seen by all others.
    assert_same_scores(short, long, everywhere=70, length=70)


@pytest.mark.parametrize("kind", RELATIVES)
def test_a_bert_under_another_name_keeps_its_hidden_states_without_a_head(kind: str) -> None:
    short = relative(kind, "Model")
    inputs = inputs_for(short)
    ours = hidden(made_long(short, WINDOW, 200), inputs, global_attention_mask=torch.zeros_like(inputs["input_ids"]))
    torch.testing.assert_close(ours, hidden(short, own_inputs(short, inputs)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", RELATIVES)
def test_only_the_positions_of_tokens_begin_again(kind: str) -> None:
    """RoBERTa and its like have positions for padding in front of the others; these are not repeated."""
    short = relative(kind)
    first = short.config.pad_token_id + 1 if hasattr(short.base_model.embeddings, "padding_idx") else 0
    rows = made_long(short, WINDOW, 200).longformer.embeddings.position_embeddings.weight
    real = short.base_model.embeddings.position_embeddings.weight[first:]
    rows = rows[short.config.pad_token_id + 1 :]
    assert len(rows) == 200
    torch.testing.assert_close(rows, real[torch.arange(200) % len(real)])


@pytest.mark.parametrize(("kind", "config_says", "tokenizer_says"), [("electra", 0, 1), ("roberta", 1, 0)])
def test_the_padding_is_the_tokenizers_even_if_the_config_names_another_token(
    kind: str, config_says: int, tokenizer_says: int
) -> None:
    """A multilingual BERT's config may say 0, which is the first token of every text for its tokenizer."""
    short = relative(kind, pad_token_id=config_says)
    inputs = batch(SEES_ALL, tokenizer_says)
    if kind == "electra":
        inputs["input_ids"][:, 0] = config_says
    inputs["token_type_ids"] %= 2
    here = inputs["attention_mask"].bool()
    long = made_long(short, WINDOW, 200, pad_token_id=tokenizer_says)
    with torch.no_grad():
        ours, theirs = long(**inputs, global_attention_mask=0 * inputs["input_ids"]), short(**inputs)
    torch.testing.assert_close(ours.start_logits[here], theirs.start_logits[here], atol=1e-4, rtol=0)
    assert long.config.pad_token_id == tokenizer_says


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "electra", "embedding_size": 16, "hidden_size": 32}, "16 numbers and its layers 32"),
        ({"model_type": "electra"}, "128 numbers and its layers 256"),
        ({"model_type": "bert", "is_decoder": True}, "attend to earlier ones only"),
        ({"model_type": "roberta-prelayernorm"}, "architecture is roberta-prelayernorm"),
        ({"model_type": "megatron-bert"}, "architecture is megatron-bert"),
        ({}, "architecture is None"),
    ],
)
def test_what_differs_from_a_bert_is_told(config: dict[str, Any], reason: str) -> None:
    assert reason in str(conversion.unlike_bert(config))


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
    backbones.fetch_backbone(str(saved))
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
    backbones.fetch_backbone(str(long))
    again = loaded(long, window=64)
    assert again.config.attention_window == [64, 64]
    assert again.longformer.encoder.layer[0].attention.self.one_sided_attn_window_size == 32
    first, second = loaded(saved).longformer.state_dict(), again.longformer.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_longformer_that_reads_less_than_max_length_is_an_error(saved: Path, tmp_path: Path) -> None:
    long = save_longformer(saved, tmp_path / "long")
    with pytest.raises(BackboneError, match="reads at most 96 tokens; set max_length to at most 96"):
        loaded(long, max_length=97)


def test_a_scratch_backbone_has_a_position_of_its_own_for_every_token() -> None:
    model = loaded("scratch:2x32x4", max_length=700)
    rows = model.longformer.embeddings.position_embeddings.weight[1:]
    assert len(rows) == 700
    assert len(rows.unique(dim=0)) == 700
    assert model.config.num_hidden_layers == 2


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
    with pytest.raises(BackboneError, match="holds no vocabulary"):
        backbones.fetch_backbone(str(long))


def test_a_tokenizer_with_more_pieces_than_the_model_is_an_error(saved: Path) -> None:
    other = tokenizers.character_tokenizer(["日月潭在南投縣，阿里山在嘉義縣"])
    with pytest.raises(BackboneError, match=r"its tokenizer has \d+ pieces and the model only \d+"):
        conversion.load_long_model(str(saved), other, WINDOW, 96)
