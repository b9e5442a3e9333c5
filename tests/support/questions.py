"""A small data set that is whole, for tests to spoil."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CONTEXT = ["日月潭在南投縣。", "阿里山在嘉義縣。", "玉山很高，玉山。", "🎉淡水在新北市。"]


def row(number: int, relevant: int, text: str, start: int) -> dict[str, Any]:
    return {
        "id": f"q{number}",
        "question": "在哪裡？",
        "paragraphs": [0, 1, 2, 3],
        "relevant": relevant,
        "answer": {"text": text, "start": start},
    }


GOOD: dict[str, Any] = {
    "context": CONTEXT,
    "train": [row(0, 0, "南投縣", 4), row(1, 2, "玉山", 5)],
    "valid": [row(2, 3, "新北市", 4)],
    "test": [{"id": "q3", "question": "多高？", "paragraphs": [3, 2, 1, 0]}],
}


def write(folder: Path, content: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, value in content.items():
        (folder / f"{name}.json").write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return folder
