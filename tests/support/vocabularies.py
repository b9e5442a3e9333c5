"""Write folders that hold a config.json and vocabulary files, without weights, as backbones on the hub do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

from tests.support.zoo_tokenizers import BERT_SPECIAL, TEXTS, pieces


def folder_of(folder: Path, model_type: str, files: dict[str, str | bytes | dict[str, Any]], **config: Any) -> str:
    """Write a folder with config.json and `files` by name, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {"config.json": {"model_type": model_type, **config}, **files}.items():
        if isinstance(content, dict):
            content = json.dumps(content)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return str(folder)


def vocab_txt(special: Sequence[str] = BERT_SPECIAL, more: Sequence[str] = ()) -> str:
    """Return a vocab.txt of WordPiece that has the characters of the zoo's texts."""
    return "\n".join((*pieces(special), *more)) + "\n"


@lru_cache
def sentencepiece_model(kind: str = "unigram", **options: Any) -> bytes:
    """Train a SentencePiece model on the zoo's texts and return its file's content."""
    from sentencepiece import SentencePieceTrainer

    written = BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20),
        model_writer=written,
        model_type=kind,
        vocab_size=190,
        character_coverage=1.0,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return written.getvalue()
