"""Provide the reference: Hugging Face's example scripts for question answering and multiple choice, rewritten.

They keep their defaults: one setting, one `datasets.map`, one Trainer.

Windows overlap by 128 tokens and are padded to `max_length`; batches of 8 are drawn at random; weights and products
are fp32; an answer is the best combination of the 20 best starts and the 20 best ends, found by a Python loop.
The multiple-choice script pads rows to the longest of a batch, or to `max_length` with `--pad_to_max_length`; both are
here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Trainer, TrainingArguments, default_data_collator

from jobs.backbone import tokenizers
from jobs.dataset.data import SAMPLE, Data, Question, read_data, vocabulary

SHARED = Path(__file__).parents[2] / "shared"
DOC_STRIDE, N_BEST, MOST_TOKENS, BATCH = 128, 20, 30, 8


def location() -> str:
    """Return the folder of real data if it exists beside the project, else the sample."""
    folder = SHARED / "data" / "drcd"
    return str(folder) if folder.is_dir() else SAMPLE


def tokenizer(data: Data) -> PreTrainedTokenizerFast:
    """Return BERT's Chinese tokenizer if it exists beside the project, else one over the data's characters."""
    folder = SHARED / "models" / "bert-base-chinese-tokenizer"
    return tokenizers.load_tokenizer(str(folder) if folder.is_dir() else "scratch:1x32x2", vocabulary(data))


def first(place: str, train: int, valid: int) -> Data:
    """Return a data set with its first questions only; 0 keeps all."""
    data = read_data(place)
    return Data(data.location, data.paragraphs, data.train[: train or None], data.valid[: valid or None], ())


def answer_rows(data: Data, questions: Sequence[Question]) -> datasets.Dataset:
    """Return question, paragraph and answer as columns."""
    return datasets.Dataset.from_dict(
        {
            "id": [row.id for row in questions],
            "question": [row.question for row in questions],
            "context": [data.paragraphs[row.relevant or 0] for row in questions],
            "text": [row.answer for row in questions],
            "start": [row.start for row in questions],
        }
    )


def choice_rows(data: Data, questions: Sequence[Question]) -> datasets.Dataset:
    """Return question, candidates and the number of the right one as columns."""
    return datasets.Dataset.from_dict(
        {
            "question": [row.question for row in questions],
            "candidates": [[data.paragraphs[number] for number in row.paragraphs] for row in questions],
            "label": [row.paragraphs.index(row.relevant or 0) for row in questions],
        }
    )


def training_features(
    tokenizer: PreTrainedTokenizerFast, rows: datasets.Dataset, max_length: int, cached: bool = False
) -> datasets.Dataset:
    """Return one row per window with the answer's positions; [CLS] if the window lacks part of the answer."""

    def labelled(batch: Mapping[str, list[Any]]) -> dict[str, Any]:
        windows = _windows(tokenizer, batch, max_length)
        places = [
            _place(windows.sequence_ids(number), offsets, batch["start"][row], batch["text"][row])
            for number, (row, offsets) in enumerate(
                zip(windows["overflow_to_sample_mapping"], windows["offset_mapping"], strict=True)
            )
        ]
        inputs = {name: windows[name] for name in tokenizer.model_input_names}
        return {**inputs, "start_positions": [at[0] for at in places], "end_positions": [at[1] for at in places]}

    return _mapped(rows, labelled, cached)


def validation_features(
    tokenizer: PreTrainedTokenizerFast, rows: datasets.Dataset, max_length: int, cached: bool = False
) -> datasets.Dataset:
    """Return one row per window with the question's id and each token's characters; None outside the paragraph."""

    def traceable(batch: Mapping[str, list[Any]]) -> dict[str, Any]:
        windows = _windows(tokenizer, batch, max_length)
        offsets = [
            [place if part == 1 else None for place, part in zip(places, windows.sequence_ids(number), strict=True)]
            for number, places in enumerate(windows["offset_mapping"])
        ]
        ids = [batch["id"][row] for row in windows["overflow_to_sample_mapping"]]
        inputs = {name: windows[name] for name in tokenizer.model_input_names}
        return {**inputs, "example_id": ids, "offset_mapping": offsets}

    return _mapped(rows, traceable, cached)


def choice_features(
    tokenizer: PreTrainedTokenizerFast, rows: datasets.Dataset, max_length: int, padded: bool, cached: bool = False
) -> datasets.Dataset:
    """Return one row per question: the inputs of its candidates, each after the question."""

    def paired(batch: Mapping[str, list[Any]]) -> dict[str, Any]:
        counts = [len(candidates) for candidates in batch["candidates"]]
        asked = [question for question, count in zip(batch["question"], counts, strict=True) for _ in range(count)]
        texts = [text for candidates in batch["candidates"] for text in candidates]
        padding = "max_length" if padded else False
        inputs = tokenizer(asked, texts, truncation=True, max_length=max_length, padding=padding)
        ends = np.cumsum(counts).tolist()
        spans = list(zip([0, *ends[:-1]], ends, strict=True))
        return {name: [values[begin:end] for begin, end in spans] for name, values in inputs.items()}

    return _mapped(rows, paired, cached, keep=("label",))


def _windows(tokenizer: PreTrainedTokenizerFast, batch: Mapping[str, list[Any]], max_length: int) -> Any:
    return tokenizer(
        [question.lstrip() for question in batch["question"]],
        batch["context"],
        truncation="only_second",
        max_length=max_length,
        stride=DOC_STRIDE,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding="max_length",
    )


def _place(parts: list[int | None], offsets: list[tuple[int, int]], start: int, text: str) -> tuple[int, int]:
    """Return the positions of an answer in one window, by a walk from both ends of the paragraph."""
    end = start + len(text)
    low, high = parts.index(1), len(parts) - 1 - parts[::-1].index(1)
    if offsets[low][0] > start or offsets[high][1] < end:
        return 0, 0
    while low < len(offsets) and offsets[low][0] <= start:
        low += 1
    while offsets[high][1] >= end:
        high -= 1
    return low - 1, high + 1


def _mapped(
    rows: datasets.Dataset, function: Callable[..., Any], cached: bool, keep: Sequence[str] = ()
) -> datasets.Dataset:
    """Call `map` as the scripts do. It reuses stored results if the fingerprint of the function, which includes the
    tokenizer, is the same. `cached=False` stands for a different fingerprint."""
    others = [name for name in rows.column_names if name not in keep]
    return rows.map(function, batched=True, remove_columns=others, load_from_cache_file=cached)


def answers(rows: datasets.Dataset, features: datasets.Dataset, starts: np.ndarray, ends: np.ndarray) -> dict[str, str]:
    """Return the answer to each question by its id, from logits [windows, positions] of its windows."""
    windows: dict[str, list[int]] = {}
    for number, feature in enumerate(features):
        windows.setdefault(feature["example_id"], []).append(number)
    found = {}
    for row in rows:
        candidates = []
        for number in windows[row["id"]]:
            candidates += _candidates(features[number]["offset_mapping"], starts[number], ends[number])
        best = sorted(candidates, key=lambda one: one["score"], reverse=True)[:N_BEST]
        found[row["id"]] = row["context"][best[0]["first"] : best[0]["last"]] if best else "empty"
        _probabilities(best)
    return found


def _candidates(offsets: Sequence[Any], start: np.ndarray, end: np.ndarray) -> list[dict[str, Any]]:
    """Return the spans from one of the best starts to one of the best ends, within the paragraph."""
    found = []
    ends = np.argsort(end)[: -N_BEST - 1 : -1].tolist()
    for i in np.argsort(start)[: -N_BEST - 1 : -1].tolist():
        for j in ends:
            if offsets[i] is None or offsets[j] is None or j < i or j - i + 1 > MOST_TOKENS:
                continue
            found.append({"first": offsets[i][0], "last": offsets[j][1], "score": start[i] + end[j]})
    return found


def _probabilities(best: list[dict[str, Any]]) -> None:
    """Add the softmax of the scores to the candidates, as the scripts do."""
    if not best:
        return
    scores = np.array([one["score"] for one in best])
    weights = np.exp(scores - scores.max())
    for one, weight in zip(best, weights / weights.sum(), strict=True):
        one["probability"] = float(weight)


def choice_collator(tokenizer: PreTrainedTokenizerFast) -> Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]:
    """Collate all candidates of a batch's questions, padded to the longest."""

    def collate(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        names = [name for name in features[0] if name != "label"]
        count = len(features[0]["input_ids"])
        flat = [{name: one[name][n] for name in names} for one in features for n in range(count)]
        batch = tokenizer.pad(flat, padding=True, return_tensors="pt")
        inputs = {name: values.view(len(features), count, -1) for name, values in batch.items()}
        return {**inputs, "labels": torch.tensor([one["label"] for one in features])}

    return collate


def trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    features: datasets.Dataset | None,
    output: Path,
    collate: Callable[..., Any] = default_data_collator,
    **arguments: Any,
) -> Trainer:
    """Return a Trainer with default settings, except those in `arguments` that make a comparison fair."""
    made = TrainingArguments(
        output_dir=str(output),
        per_device_train_batch_size=arguments.pop("per_device_train_batch_size", BATCH),
        per_device_eval_batch_size=arguments.pop("per_device_eval_batch_size", BATCH),
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        **arguments,
    )
    return Trainer(model, made, train_dataset=features, processing_class=tokenizer, data_collator=collate)
