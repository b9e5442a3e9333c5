from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from jobs.backbone import positions, tokenizers
from jobs.backbone.names import absolute_name, check_name
from jobs.backbone.source import BackboneError
from jobs.job import ParamError
from jobs.mc import McParams
from jobs.model import backbones
from tests.support.zoo import build

QA = "AutoModelForQuestionAnswering"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A whole small backbone in a folder, as a user would have one."""
    tokenizer = tokenizers.character_tokenizer(["日月潭在南投縣"])
    backbones.load_model("scratch:1x32x2", "AutoModel", tokenizer, 64).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name",
    ["bert-base-chinese", "hfl/chinese-macbert-large", "scratch:6x384x6", "scratch:2x64x2@bert-base-chinese"],
)
def test_right_names_pass(name: str) -> None:
    assert check_name(name) is None


WRONG = [
    ("bert-base-chines", "did you mean 'bert-base-chinese'?"),
    ("scrach:2x128x2", "did you mean 'scratch:2x128x2'?"),
    ("scratch:2x128", "is not scratch:LAYERSxHIDDENxHEADS"),
    ("scratch:0x128x2", "must be at least 1"),
    ("scratch:2x130x4", "130 is not a multiple of the 4 heads"),
    ("scratch:2x128x2@bert-base-chines", "did you mean 'bert-base-chinese'?"),
    ("./nowhere", "no such folder"),
    ("../../etc/passwd", "no such folder"),
    ("~nobody-of-this-name/x", "no such folder"),
    ("/" + "x" * 5000, "no such folder"),
    ("x" * 5000, "unknown backbone"),
    ("owner/..", "unknown backbone"),
    ("hfl/chinese--large", "unknown backbone"),
    ("hfl/chinese.git", "unknown backbone"),
    ("no", "unknown backbone 'no'; write OWNER/NAME"),
]


@pytest.mark.parametrize(("name", "message"), WRONG)
def test_wrong_names_are_answered_with_a_cure(name: str, message: str) -> None:
    assert message in str(check_name(name))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    assert "holds no config.json" in str(check_name(str(tmp_path)))


@pytest.mark.parametrize("inner", ["0_Transformer", "checkpoint-500"])
def test_a_model_in_a_subfolder_is_named(inner: str, saved: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outer = tmp_path_factory.mktemp("outer")
    shutil.copytree(saved, outer / inner)
    assert f"did you mean {str(outer / inner)!r}?" in str(check_name(str(outer)))


def test_only_folders_get_an_absolute_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bert").mkdir()
    for name in ("bert", "./bert", str(tmp_path / "bert")):
        assert absolute_name(name) == str(tmp_path / "bert")
        assert absolute_name(f"scratch:1x32x2@{name}") == f"scratch:1x32x2@{tmp_path}/bert"
    for name in ("owner/bert", "bert-base-chinese", "scratch:1x32x2", "scratch:1x32x2@owner/bert"):
        assert absolute_name(name) == name


def test_a_scratch_backbone_has_the_size_it_says() -> None:
    model = backbones.load_model("scratch:3x48x4", QA, tokenizers.character_tokenizer(["台灣"]), 600)
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (3, 48, 4)
    assert config.max_position_embeddings == 600
    assert config.vocab_size == 5 + 2 * 2


def test_a_scratch_backbone_has_as_many_classes_as_its_task_asks_for() -> None:
    tokenizer = tokenizers.load_tokenizer("scratch:1x32x2", ["日月潭"])
    model = backbones.load_model(
        "scratch:1x32x2", "AutoModelForSequenceClassification", tokenizer, 64, num_labels=5, hidden_dropout_prob=0.25
    )
    assert (model.config.num_labels, model.classifier.out_features) == (5, 5)
    assert model.config.hidden_dropout_prob == 0.25


@pytest.mark.parametrize(
    ("name", "spread", "dropout"), [("scratch:1x64x1", 0.125, 0.0), ("scratch:1x384x6", 0.02, 0.1)]
)
def test_only_a_narrow_scratch_backbone_starts_in_its_own_way(name: str, spread: float, dropout: float) -> None:
    model = backbones.load_model(name, QA, tokenizers.character_tokenizer(["日月潭在南投縣"]), 64)
    layer = model.bert.encoder.layer[0]
    assert float(layer.attention.self.query.weight.detach().std()) == pytest.approx(spread, rel=0.1)
    assert layer.output.dropout.p == layer.attention.output.dropout.p == dropout


def test_a_character_tokenizer_is_the_same_after_saving(tmp_path: Path) -> None:
    tokenizer = tokenizers.character_tokenizer(["台灣1985年abc"])
    tokenizer.save_pretrained(tmp_path)
    again = tokenizers.load_tokenizer(str(tmp_path), [])
    assert again.tokenize("台灣1985年ab龘") == [
        "台",
        "灣",
        "1",
        "##9",
        "##8",
        "##5",
        "年",
        "a",
        "##b",
        "[UNK]",
    ]


def test_a_local_folder_is_loaded(saved: Path) -> None:
    backbones.fetch_backbone(str(saved))
    model = backbones.load_model(str(saved), QA, tokenizers.load_tokenizer(str(saved), []), 64)
    assert type(model).__name__ == "BertForQuestionAnswering"


def test_weights_of_the_encoder_that_did_not_load_are_an_error(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(
        BackboneError,
        match=r"16 weights of the encoder are not in the checkpoint, such as bert.encoder.layer.1",
    ):
        backbones.load_model(str(saved), QA, tokenizers.load_tokenizer(str(saved), []), 64)


Weights = dict[str, torch.Tensor]


def change_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def change_weights(folder: Path, change: Callable[[Weights], Weights]) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_layers_that_the_config_does_not_ask_for_are_an_error(prefix: str, saved: Path) -> None:
    def second_layer(weights: Weights) -> Weights:
        own = {f"{prefix}{name}": value for name, value in weights.items()}
        return own | {name.replace(".0.", ".1."): value.clone() for name, value in own.items() if ".layer.0." in name}

    change_weights(saved, second_layer)
    tokenizer = tokenizers.load_tokenizer(str(saved), [])
    with pytest.raises(BackboneError, match=rf"more layers than its config.json .* {prefix}encoder.layer.1.attention"):
        backbones.load_model(str(saved), QA, tokenizer, 64)
    backbones.load_model(str(saved), QA, tokenizer, 64, num_hidden_layers=1)  # what a task asks for is no mistake


@pytest.mark.parametrize("prefix", ["module.", "module.bert.", "_orig_mod.bert.", "model."])
def test_weights_of_a_wrapped_model_are_told(prefix: str, saved: Path) -> None:
    change_weights(saved, lambda weights: {f"{prefix}{name}": value for name, value in weights.items()})
    wrapper = prefix.removesuffix("bert.")
    with pytest.raises(BackboneError, match=f"the names of its weights begin with '{wrapper}'"):
        backbones.load_model(str(saved), QA, tokenizers.load_tokenizer(str(saved), []), 64)


@pytest.mark.parametrize("task", [QA, "AutoModelForMaskedLM", "AutoModelForTokenClassification"])
def test_a_checkpoint_of_another_task_has_no_further_layers(task: str, saved: Path) -> None:
    tokenizer = tokenizers.load_tokenizer(str(saved), [])
    backbones.load_model(str(saved), task, tokenizer, 64).save_pretrained(saved)
    backbones.load_model(str(saved), "AutoModelForMultipleChoice", tokenizer, 64)


UNREAD = [
    ({"position_embedding_type": "relative_key"}, "position_embedding_type of relative_key"),
    ({"position_embedding_type": "alibi"}, "position_embedding_type of alibi"),
    ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "its weights are quantized"),
    ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "its weights are quantized"),
]


@pytest.mark.parametrize(("values", "cause"), UNREAD)
def test_what_transformers_does_not_compute_is_refused(values: dict[str, Any], cause: str, saved: Path) -> None:
    change_config(saved, **values)
    with pytest.raises(BackboneError, match=cause):
        backbones.fetch_backbone(str(saved))


@pytest.mark.parametrize(("kind", "value"), [("bert", "absolute"), ("bert", None), ("gte", "rope")])
def test_positions_that_a_model_has_are_taken(kind: str, value: str | None, tmp_path: Path) -> None:
    build(kind, tmp_path)
    change_config(tmp_path, position_embedding_type=value)
    backbones.fetch_backbone(str(tmp_path))


def test_tokens_without_embeddings_are_named(saved: Path) -> None:
    tokenizer = tokenizers.load_tokenizer(str(saved), [])
    tokenizer.add_tokens(["<e>", "</e>"])
    with pytest.raises(BackboneError, match="its tokenizer adds '<e>', '</e>' to its vocabulary"):
        backbones.load_model(str(saved), QA, tokenizer, 64)
    tokenizer.add_tokens([f"<{number}>" for number in range(9)])
    with pytest.raises(BackboneError, match="adds '<e>', '</e>', '<0>', … to its vocabulary"):
        backbones.load_model(str(saved), QA, tokenizer, 64)


def test_a_vocabulary_that_is_too_large_is_another_models(saved: Path) -> None:
    with pytest.raises(BackboneError, match="set the right tokenizer_class"):
        backbones.load_model(str(saved), QA, tokenizers.character_tokenizer(["日月潭在南投縣一二三"]), 64)


def test_weights_of_another_architecture_are_an_error(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(
        json.dumps({**config, "model_type": "electra", "architectures": ["ElectraModel"]})
    )
    with pytest.raises(BackboneError, match="its weights do not fit the model"):
        backbones.load_model(str(saved), QA, tokenizers.load_tokenizer(str(saved), []), 64)


def test_pickled_weights_are_not_read(saved: Path, tmp_path: Path) -> None:
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    with pytest.raises(BackboneError, match="holds no"):
        backbones.fetch_backbone(str(saved))
    with pytest.raises(BackboneError, match="holds no"):
        backbones.load_model(str(saved), QA, tokenizers.load_tokenizer(str(saved), []), 64)


def test_code_that_comes_with_a_backbone_is_not_run(saved: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = json.loads((saved / "config.json").read_text())
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForQuestionAnswering": "evil.Model"}
    (saved / "config.json").write_text(json.dumps({**config, "model_type": "evil", "auto_map": auto_map}))
    (saved / "evil.py").write_text(f"open({str(saved / 'marker')!r}, 'w')")
    with pytest.raises(BackboneError):
        backbones.load_model(str(saved), QA, tokenizers.character_tokenizer(["台"]), 64)
    assert not (saved / "marker").exists()


def test_a_backbone_that_is_too_short_is_an_error(saved: Path) -> None:
    with pytest.raises(BackboneError, match="reads at most 512 tokens; lower max_length from 600"):
        backbones.load_model(str(saved), QA, tokenizers.load_tokenizer(str(saved), []), 600)


def test_a_folder_says_how_much_its_model_reads(saved: Path) -> None:
    assert positions.position_limit(str(saved)) == 512
    (saved / "config.json").write_text('{"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}')
    assert positions.position_limit(str(saved)) == 512
    for unknown in ("{}", "[]", "{", '{"max_position_embeddings": "many"}'):
        (saved / "config.json").write_text(unknown)
        assert positions.position_limit(str(saved)) is None


def test_a_backbone_of_the_hub_says_so_once_it_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    params = McParams(backbone="owner/name", max_length=513)  # nothing is known of it yet
    snapshot = tmp_path / "models--owner--name/snapshots/0"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("0")
    (snapshot / "config.json").write_text('{"max_position_embeddings": 512}')
    with pytest.raises(ParamError) as caught:
        McParams(**asdict(params))
    assert (caught.value.key, str(caught.value)) == (
        "max_length",
        "513 is more than the 512 tokens that owner/name reads",
    )


@pytest.fixture
def snapshot(saved: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The backbone `owner/name` in the hub's cache, without its weights."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    made = cache / "models--owner--name/snapshots" / ("0" * 40)
    shutil.copytree(saved, made, ignore=shutil.ignore_patterns("*.safetensors"))
    (made.parents[1] / "refs").mkdir()
    (made.parents[1] / "refs/main").write_text(made.name)
    return made


@pytest.mark.parametrize("known", ["downloaded", "told by the hub"])
def test_a_backbone_of_the_hub_with_pickled_weights_only_is_told_what_to_do(known: str, snapshot: Path) -> None:
    absent = snapshot.parents[1] / ".no_exist" / snapshot.name
    absent.mkdir(parents=True)
    (snapshot / "pytorch_model.bin" if known == "downloaded" else absent / "model.safetensors").touch()
    tokenizer = tokenizers.load_tokenizer("owner/name", ())
    with pytest.raises(BackboneError, match=r"^owner/name: holds no \*\.safetensors on the hub; save its weights with"):
        backbones.load_model("owner/name", "AutoModelForQuestionAnswering", tokenizer, 64)


def test_weights_that_were_not_downloaded_yet_are_said_to_be_missing_here(snapshot: Path) -> None:
    tokenizer = tokenizers.load_tokenizer("owner/name", ())
    with pytest.raises(BackboneError, match=r"^owner/name: is not in the local model cache and the hub cannot be"):
        backbones.load_model("owner/name", QA, tokenizer, 64)


def test_weights_that_are_a_broken_link_are_refused_in_one_line(snapshot: Path, saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    for folder, name in ((saved, str(saved)), (snapshot, "owner/name")):
        (folder / "model.safetensors").symlink_to("nowhere")
        with pytest.raises(
            BackboneError, match=r"model.safetensors cannot be read \(No such file or directory\); copy"
        ):
            backbones.fetch_backbone(name)
    assert backbones.weight_bytes(str(saved)) is None


@pytest.mark.parametrize("fetch", [backbones.fetch_backbone, lambda name: tokenizers.load_tokenizer(name, [])])
def test_a_backbone_that_is_missing_offline_is_one_clear_line(fetch: Any) -> None:
    with pytest.raises(BackboneError) as caught:
        fetch("hfl/chinese-no-such-model")
    message = str(caught.value)
    assert message.startswith(
        "hfl/chinese-no-such-model: is not in the local model cache and the hub cannot be reached"
    )
    assert "\n" not in message


def test_the_size_of_weights_is_known_before_loading(saved: Path) -> None:
    loaded = backbones.load_model(str(saved), "AutoModel", tokenizers.load_tokenizer(str(saved), []), 64)
    assert backbones.weight_bytes(str(saved)) == 4 * sum(p.numel() for p in loaded.parameters())
    assert backbones.weight_bytes("hfl/chinese-macbert-large") is None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json; copy it and the *.safetensors"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no *.safetensors; save the weights again"),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "brt"}'),
            "names the model type 'brt', which transformers does not know; did you mean 'bart'? correct it",
        ),
    ],
)
def test_the_cause_and_the_cure_of_a_folder_that_is_not_whole_are_told(
    saved: Path, spoil: Callable[[Path], object], message: str
) -> None:
    tokenizer = tokenizers.load_tokenizer(str(saved), ())
    spoil(saved)
    with pytest.raises(BackboneError, match=re.escape(message)):
        backbones.load_model(str(saved), QA, tokenizer, 64)
