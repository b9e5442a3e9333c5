"""Read the vocabulary files of a backbone: which pieces they hold, and for which kind of tokenizer."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.backbone.names import is_path
from jobs.backbone.source import BackboneError
from jobs.checkpoint import load_json

# Kinds of tokenizers, named like the classes of the package tokenizers.
WORD_PIECE, BPE, UNIGRAM, WORD_LEVEL = "WordPiece", "BPE", "Unigram", "WordLevel"
BPE_OF_SENTENCEPIECE = 2  # ModelType of sentencepiece's format; 1 is Unigram
TOKENIZER_JSON = "tokenizer.json"
TIKTOKEN = "tiktoken.model"  # not SentencePiece's format in spite of its name
COPY_AGAIN = "copy it from the original again"
BYTE_ORDER_MARK = "\ufeff"  # some editors put it in front of a file in UTF-8
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
FILES = ("*.json", "*.txt", "*.model")


@dataclass(frozen=True)
class Vocabulary:
    """Holds what a vocabulary file says of its tokenizer.

    kind          a class of the package tokenizers
    pieces        the number of each piece
    replacements  SentencePiece's table of characters that are replaced before anything is looked up, if there is one
    """

    file: Path
    kind: str
    pieces: Mapping[str, int]
    replacements: bytes | None = None


def vocabulary_folder(name: str) -> Path | None:
    """Return the folder with a backbone's tokenizer files, downloaded if need be; None if none can be had."""
    if is_path(name):
        return Path(name).expanduser()
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES), ignore_patterns=["*/*"]))
    except (OSError, ValueError):  # reported when the tokenizer is loaded
        return None


def read_vocabularies(folder: Path) -> list[Vocabulary]:
    """Return what the folder's vocabulary files hold: tokenizer.json alone if there is one, because it is complete.

    Raises BackboneError when a file is damaged, or the package that reads it is missing.
    """
    for name in SETTINGS:
        if (folder / name).is_file():
            _content(folder / name)
    if (folder / TOKENIZER_JSON).is_file():
        return [_read_tokenizer_json(folder / TOKENIZER_JSON)]
    listed = [read(folder) for read in (_read_lines, _read_table)]
    models = [file for file in sorted(folder.glob("*.model")) if file.name != TIKTOKEN]
    return [one for one in listed if one] + [_read_sentencepiece(file) for file in models]


def _read_tokenizer_json(file: Path) -> Vocabulary:
    try:
        return _described(file, _content(file))
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise BackboneError(f"{file}: describes no tokenizer; {COPY_AGAIN}") from error


def _described(file: Path, content: dict[str, Any]) -> Vocabulary:
    model = content["model"]
    vocab = model["vocab"]
    pieces = vocab if isinstance(vocab, dict) else {piece: index for index, (piece, _) in enumerate(vocab)}
    added = {token["content"]: token["id"] for token in content.get("added_tokens", ())}
    # Early versions of the format name no type.
    kind = UNIGRAM if isinstance(vocab, list) else BPE if "merges" in model else WORD_PIECE
    return Vocabulary(file, model.get("type") or kind, {**pieces, **added}, _replacements(content.get("normalizer")))


def _replacements(normalizer: dict[str, Any] | None) -> bytes | None:
    parts = (normalizer or {}).get("normalizers") or [normalizer or {}]
    table = next((part["precompiled_charsmap"] for part in parts if part.get("precompiled_charsmap")), None)
    return b64decode(table) if table else None


def _read_lines(folder: Path) -> Vocabulary | None:
    """Read vocab.txt, which holds one piece a line; None if its lines are pieces and their numbers, as BERTweet's."""
    file = folder / "vocab.txt"
    if not file.is_file():
        return None
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise BackboneError(f"{file}: is not UTF-8; {COPY_AGAIN}") from error
    if lines[0].startswith(BYTE_ORDER_MARK):
        raise BackboneError(f"{file}: begins with a byte order mark, which hides its first piece; remove the mark")
    if sum(" " in line.strip() for line in lines) > len(lines) / 2:
        return None
    return Vocabulary(file, WORD_PIECE, {piece.rstrip("\r"): index for index, piece in enumerate(lines) if piece})


def _read_table(folder: Path) -> Vocabulary | None:
    file = folder / "vocab.json"
    if not file.is_file():
        return None
    return Vocabulary(file, BPE if (folder / "merges.txt").is_file() else WORD_LEVEL, _content(file))


def _content(file: Path) -> dict[str, Any]:
    try:
        content = load_json(file)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise BackboneError(f"{file}: is no JSON object; {COPY_AGAIN}")
    return content


def _read_sentencepiece(file: Path) -> Vocabulary:
    proto = _sentencepiece_proto(file)
    kind = BPE if proto.trainer_spec.model_type == BPE_OF_SENTENCEPIECE else UNIGRAM
    pieces = {piece.piece: index for index, piece in enumerate(proto.pieces)}
    return Vocabulary(file, kind, pieces, proto.normalizer_spec.precompiled_charsmap or None)


def _sentencepiece_proto(file: Path) -> Any:
    """Return the content of a SentencePiece model. Raises BackboneError when it is damaged or a package is missing."""
    try:
        from google.protobuf.message import DecodeError
        from sentencepiece.sentencepiece_model_pb2 import ModelProto
    except ImportError as error:
        raise BackboneError(f"{file}: {error}; pip install sentencepiece protobuf") from error
    proto = ModelProto()
    try:
        proto.ParseFromString(file.read_bytes())
    except DecodeError:
        proto.Clear()
    if not proto.pieces:
        raise BackboneError(f"{file}: is no SentencePiece model; {COPY_AGAIN}")
    return proto
