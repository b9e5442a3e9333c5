"""The tokenizer of a folder is the one of its vocabulary file, whatever model its config.json describes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import PreTokenizer
from transformers import BertTokenizer

from jobs.backbone.source import BackboneError
from jobs.backbone.tokenizers import check_tokenizer, load_tokenizer
from jobs.features.tokens import cached_tokens, tokenize
from tests.support import zoo, zoo_tokenizers
from tests.support.vocabularies import folder_of, sentencepiece_model, vocab_txt

TEXT = zoo_tokenizers.TEXTS[0]
ALBERT_PIECES = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "user_defined_symbols": "[CLS],[SEP],[MASK]"}


@pytest.mark.parametrize(
    "model_type",
    [
        "deberta-v2",
        "deberta",
        "roberta",
        "electra",
        "ernie",
        "albert",
        "longformer",
        "xlm-roberta",
        "xlnet",
        "mpnet",
        "big_bird",
        "bart",
        "modernbert",
        "nystromformer",
        "nezha",
        "rembert",
    ],
)
def test_a_vocab_txt_is_read_as_berts_with_any_config(tmp_path: Path, model_type: str) -> None:
    name = folder_of(tmp_path, model_type, {"vocab.txt": vocab_txt()})
    tokenizer = load_tokenizer(name, ())
    assert tokenizer.tokenize(TEXT) == list(TEXT)
    assert (len(tokenizer), tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id) == (
        len(zoo_tokenizers.pieces(zoo_tokenizers.BERT_SPECIAL)),
        0,
        2,
        3,
    )
    assert tokenizer("湖", "山")["input_ids"][::2] == [2, 3, 3]
    assert check_tokenizer(name, tokenizer, zoo_tokenizers.TEXTS).warnings() == []


@pytest.mark.parametrize(
    "model_type", ["deberta-v2", "roberta", "longformer", "xlm-roberta", "bart", "deberta", "mpnet"]
)
def test_a_tokenizer_json_is_taken_as_it_is_if_the_models_class_is_of_another_kind(
    tmp_path: Path, model_type: str
) -> None:
    zoo_tokenizers.BERT(tmp_path)
    described = (tmp_path / "tokenizer.json").read_text(encoding="utf-8")
    name = folder_of(tmp_path / "bare", model_type, {"tokenizer.json": described})
    tokenizer = load_tokenizer(name, ())
    assert tokenizer.tokenize(TEXT + " ABC") == [*TEXT, "A", "##B", "##C"]  # it does not lower-case
    assert (tokenizer.pad_token, tokenizer.unk_token, tokenizer.cls_token, tokenizer.sep_token) == (
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
    )
    assert tokenizer("湖", "山", return_token_type_ids=True)["token_type_ids"] == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("lower", [True, False])
def test_lower_casing_and_special_tokens_of_tokenizer_config_are_kept(tmp_path: Path, lower: bool) -> None:
    special = ("[PAD]", "[UNK]", "[BEGIN]", "[SEP]", "[MASK]")
    settings = {"do_lower_case": lower, "cls_token": "[BEGIN]", "model_max_length": 512}
    files = {"vocab.txt": vocab_txt(special), "tokenizer_config.json": settings}
    tokenizer = load_tokenizer(folder_of(tmp_path, "deberta-v2", files), ())
    assert tokenizer.tokenize("AB") == (["a", "##b"] if lower else ["A", "##B"])
    assert tokenizer("湖")["input_ids"][0] == tokenizer.cls_token_id == 2
    assert tokenizer.model_max_length == 512


def test_special_tokens_that_the_vocabulary_lacks_are_replaced_by_its_own(tmp_path: Path) -> None:
    settings = {"tokenizer_class": "RobertaTokenizer", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}
    settings |= {"bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>"}
    files = {"vocab.txt": vocab_txt(), "tokenizer_config.json": settings}
    tokenizer = load_tokenizer(folder_of(tmp_path, "roberta", files), ())
    assert tokenizer("湖")["input_ids"] == [2, tokenizer.convert_tokens_to_ids("湖"), 3]
    assert (tokenizer.pad_token, len(tokenizer)) == ("[PAD]", len(zoo_tokenizers.pieces(zoo_tokenizers.BERT_SPECIAL)))


@pytest.mark.parametrize(
    ("model_type", "special"), [("bert", zoo_tokenizers.ROBERTA_SPECIAL), ("xlm-roberta", zoo_tokenizers.BERT_SPECIAL)]
)
def test_a_byte_level_vocabulary_is_taken_with_any_config(
    tmp_path: Path, model_type: str, special: tuple[str, ...]
) -> None:
    vocabulary, merges = zoo_tokenizers._merges((*special, "<mask>") if "[MASK]" not in special else special)
    lines = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)])
    name = folder_of(tmp_path, model_type, {"vocab.json": vocabulary, "merges.txt": lines})
    tokenizer = load_tokenizer(name, ())
    assert tokenizer.decode(tokenizer(TEXT, add_special_tokens=False)["input_ids"]) == TEXT
    assert tokenizer("湖")["input_ids"][0] == vocabulary[special[0] if "<s>" in special else "[CLS]"]


@pytest.mark.parametrize(
    ("model_type", "file", "options"),
    [
        ("deberta-v2", "spm.model", {}),
        ("deberta-v2", "spiece.model", {}),
        ("xlm-roberta", "sentencepiece.bpe.model", {}),
        ("xlm-roberta", "tokenizer.model", {}),
        ("roberta", "sentencepiece.bpe.model", {}),
        ("albert", "spiece.model", ALBERT_PIECES),
        ("bert", "spiece.model", ALBERT_PIECES),
        ("xlnet", "spiece.model", {"user_defined_symbols": "<cls>,<sep>,<pad>,<mask>"}),
        ("xlnet", "spm.model", {"user_defined_symbols": "<cls>,<sep>,<pad>,<mask>"}),
    ],
)
def test_a_sentencepiece_model_alone_is_enough(
    tmp_path: Path, model_type: str, file: str, options: dict[str, Any]
) -> None:
    name = folder_of(tmp_path, model_type, {file: sentencepiece_model(**options)})
    tokenizer = load_tokenizer(name, ())
    found = check_tokenizer(
        name, tokenizer, zoo_tokenizers.TEXTS[:4]
    )  # the last text has letters that ALBERT lower-cases
    assert (found.unknown_tokens, found.dropped_characters, found.missing) == (0, 0, ())
    assert "公尺" in tokenizer.decode(tokenizer(TEXT)["input_ids"])


def test_xlm_robertas_pieces_move_by_one(tmp_path: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    content = sentencepiece_model()
    tokenizer = load_tokenizer(folder_of(tmp_path, "xlm-roberta", {"sentencepiece.bpe.model": content}), ())
    reference = SentencePieceProcessor(model_proto=content)
    assert tokenizer(TEXT, add_special_tokens=False)["input_ids"] == [piece + 1 for piece in reference.encode(TEXT)]


@pytest.mark.parametrize("model_type", ["deberta-v2", "xlm-roberta", "big_bird"])
def test_full_width_characters_are_replaced_as_sentencepiece_does_also_after_saving(
    tmp_path: Path, model_type: str
) -> None:
    from sentencepiece import SentencePieceProcessor

    text, file = "海拔（１０１）公尺；", {"deberta-v2": "spm.model", "big_bird": "spiece.model"}
    content = sentencepiece_model()
    name = folder_of(tmp_path, model_type, {file.get(model_type, "sentencepiece.bpe.model"): content})
    tokenizer = load_tokenizer(name, ())
    expected = SentencePieceProcessor(model_proto=content).encode(text, out_type=str)
    assert tokenizer.tokenize(text) == expected
    assert tokenize(tokenizer, [text]).chars[-1].tolist() == [len(text) - 1, len(text)]
    tokenizer.save_pretrained(tmp_path / "saved")
    folder_of(tmp_path / "saved", model_type, {})
    assert load_tokenizer(str(tmp_path / "saved"), ()).tokenize(text) == expected


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", b"\x00\xff" * 50]
)
@pytest.mark.parametrize("model_type", ["deberta-v2", "albert", "bert"])
def test_a_damaged_sentencepiece_model_is_one_line(tmp_path: Path, content: bytes, model_type: str) -> None:
    refused(
        folder_of(tmp_path, model_type, {"spm.model": content}),
        "spm.model: is no SentencePiece model; copy it from the original again",
    )


def refused(name: str, reason: str) -> None:
    with pytest.raises(BackboneError) as caught:
        load_tokenizer(name, ())
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = folder_of(tmp_path, "deberta-v2", {"spm.model": sentencepiece_model()})
    for module in ("sentencepiece", "sentencepiece.sentencepiece_model_pb2"):
        monkeypatch.setitem(sys.modules, module, None)
    refused(name, "pip install sentencepiece")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "holds no vocabulary (tokenizer.json, vocab.txt, vocab.json with merges.txt, or *.model)"),
        ({"tokenizer.json": "{"}, "tokenizer.json: is no JSON object"),
        ({"tokenizer.json": {"model": None}}, "tokenizer.json: describes no tokenizer"),
        ({"tokenizer.json": {"model": {"vocab": [1, 2]}}}, "tokenizer.json: describes no tokenizer"),
        ({"tokenizer.json": {"model": {"vocab": {"a": 1}}, "added_tokens": [3]}}, "describes no tokenizer"),
        ({"tokenizer_config.json": "[]"}, "tokenizer_config.json: is no JSON object"),
        ({"vocab.txt": "\ufeff[PAD]\n[UNK]\n"}, "begins with a byte order mark"),
        ({"vocab.txt": "[PAD]\n[CLS]\n[SEP]\n湖\n"}, "fails on unknown characters (WordPiece error: Missing [UNK]"),
        ({"vocab.json": {"a": 0, "b": 1}}, "holds vocab.json without merges.txt"),
        ({"vocab.txt": b"\xff\xfe\n"}, "vocab.txt: is not UTF-8"),
        (
            {"spm.model": sentencepiece_model},
            "its spm.model is not the vocabulary of the tokenizer that its config.json",
        ),
    ],
)
def test_files_that_no_tokenizer_reads_are_refused_with_the_cause(
    tmp_path: Path, files: dict[str, Any], reason: str
) -> None:
    made = {name: content() if callable(content) else content for name, content in files.items()}
    refused(folder_of(tmp_path, "bert", made), reason)


@pytest.mark.parametrize("kind", ["roc_bert", "xlm", "flaubert"])
def test_a_tokenizer_without_a_fast_form_is_refused(tmp_path: Path, kind: str) -> None:
    zoo.TABLE[kind].tokenizer(tmp_path)
    refused(
        folder_of(tmp_path, zoo.TABLE[kind].model, {}), "has no fast tokenizer, and spans need its character offsets"
    )


def test_a_slow_tokenizers_vocabulary_is_not_read_as_berts(tmp_path: Path) -> None:
    refused(folder_of(tmp_path, "roc_bert", {"vocab.txt": vocab_txt()}), "has no fast tokenizer")


def test_a_cached_backbone_of_the_hub_gets_the_tokenizer_of_its_vocabulary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--owner--name"
    folder_of(repository / "snapshots/0", "deberta-v2", {"vocab.txt": vocab_txt()})
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0")
    assert load_tokenizer("owner/name", ()).tokenize(TEXT) == list(TEXT)


def test_a_folders_own_tokenizer_stays_where_it_has_its_vocabulary(tmp_path: Path) -> None:
    zoo_tokenizers.XLM_R(tmp_path)
    (tmp_path / "vocab.txt").write_text("unused\n")
    assert type(load_tokenizer(folder_of(tmp_path, "xlm-roberta", {}), ())).__name__ == "XLMRobertaTokenizer"


@pytest.mark.parametrize(("surplus", "expected"), [(0, "BertTokenizer"), (-200, "AlbertTokenizer")])
def test_of_two_vocabularies_the_one_of_the_models_size_is_taken(tmp_path: Path, surplus: int, expected: str) -> None:
    files = {"vocab.txt": vocab_txt(), "spiece.model": sentencepiece_model(**ALBERT_PIECES)}
    size = len(zoo_tokenizers.pieces(zoo_tokenizers.BERT_SPECIAL)) + surplus
    name = folder_of(tmp_path, "modernbert", files, vocab_size=size)
    assert type(load_tokenizer(name, ())).__name__ == expected


def test_a_saved_tokenizer_reads_the_same_again(tmp_path: Path) -> None:
    name = folder_of(
        tmp_path, "deberta-v2", {"vocab.txt": vocab_txt(), "tokenizer_config.json": {"do_lower_case": False}}
    )
    tokenizer = load_tokenizer(name, ())
    tokenizer.save_pretrained(tmp_path / "saved")
    again = load_tokenizer(folder_of(tmp_path / "saved", "deberta-v2", {}), ())
    assert again(TEXT + "ABC", "湖")["input_ids"] == tokenizer(TEXT + "ABC", "湖")["input_ids"]


@pytest.fixture
def roformer(tmp_path: Path) -> str:
    pytest.importorskip("rjieba")
    return folder_of(tmp_path / "roformer", "roformer", {"vocab.txt": vocab_txt(more=("台灣", "海拔", "公尺"))})


def test_roformer_finds_words_also_after_saving_and_its_tokens_are_cached(tmp_path: Path, roformer: str) -> None:
    tokenizer = load_tokenizer(roformer, ())
    assert {"公尺", "海拔"} & {*tokenizer.tokenize(TEXT)}
    tokens = cached_tokens(tmp_path / "cache", tokenizer, [TEXT])
    assert (tokens.chars[:, 1] - tokens.chars[:, 0]).max() == 2
    tokenizer.save_pretrained(tmp_path / "saved")
    again = load_tokenizer(folder_of(tmp_path / "saved", "roformer", {}), ())
    assert again.tokenize(TEXT) == tokenizer.tokenize(TEXT)
    cached_tokens(tmp_path / "cache", again, [TEXT])
    assert len([*(tmp_path / "cache").glob("*.lock")]) == 1
    cached_tokens(tmp_path / "cache", BertTokenizer(vocab={"[UNK]": 0, "[CLS]": 1, "[SEP]": 2}), [TEXT])
    assert len([*(tmp_path / "cache").glob("*.lock")]) == 2


def test_roformer_without_its_package_names_it(roformer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rjieba", None)
    refused(roformer, "rjieba")


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_special_tokens_stand_around_texts_where_a_class_leaves_them_out(tmp_path: Path, kind: str) -> None:
    name = folder_of(tmp_path, "rembert", {"sentencepiece.model": sentencepiece_model(kind, **ALBERT_PIECES)})
    tokenizer = load_tokenizer(name, ())
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("湖", "山")["input_ids"])
    assert tokens == ["[CLS]", "▁", "湖", "[SEP]", "▁", "山", "[SEP]"]


def test_a_tokenizer_that_reads_differently_after_saving_is_refused(tmp_path: Path) -> None:
    name = folder_of(tmp_path, "bert", {"vocab.txt": vocab_txt()})
    tokenizer = load_tokenizer(name, ())
    check_tokenizer(name, tokenizer, [TEXT])
    tokenizer.do_lower_case = False  # it lower-cases still
    with pytest.raises(BackboneError, match="reads texts differently once it is saved"):
        check_tokenizer(name, tokenizer, [TEXT])


def test_a_full_disk_is_no_fault_of_the_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = folder_of(tmp_path, "bert", {"vocab.txt": vocab_txt()})
    tokenizer = load_tokenizer(name, ())

    def full(folder: str) -> None:
        raise Exception("No space left on device (os error 28)")  # as tokenizers 0.23 tells it

    monkeypatch.setattr(tokenizer, "save_pretrained", full)
    assert check_tokenizer(name, tokenizer, [TEXT]).unknown_tokens == 0


def test_a_tokenizer_that_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    name = folder_of(tmp_path, "bert", {"vocab.txt": vocab_txt()})
    tokenizer = load_tokenizer(name, ())

    class Letters:
        def pre_tokenize(self, text: Any) -> None:
            text.split(lambda _, part: [part[place : place + 1] for place in range(len(str(part)))])

    tokenizer.backend_tokenizer.normalizer = Lowercase()
    tokenizer.backend_tokenizer.pre_tokenizer = PreTokenizer.custom(Letters())
    with pytest.raises(BackboneError, match="its tokenizer cannot be saved"):
        check_tokenizer(name, tokenizer, ["湖"])


def test_a_backbone_that_does_not_read_the_data_is_refused_by_name(tmp_path: Path) -> None:
    name = folder_of(tmp_path, "bert", {"vocab.txt": "\n".join((*zoo_tokenizers.BERT_SPECIAL, "湖"))})
    with pytest.raises(BackboneError) as caught:
        check_tokenizer(name, load_tokenizer(name, ()), zoo_tokenizers.TEXTS)
    assert str(caught.value).startswith(f"{name}: its tokenizer of 6 pieces reads")


def test_a_vocabulary_far_smaller_than_config_says_is_a_warning(tmp_path: Path) -> None:
    name = folder_of(tmp_path, "bert", {"vocab.txt": vocab_txt()}, vocab_size=21_128)
    (warning,) = check_tokenizer(name, load_tokenizer(name, ()), zoo_tokenizers.TEXTS).warnings()
    assert warning.endswith("pieces and its model 21,128")
