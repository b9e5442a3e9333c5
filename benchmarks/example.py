"""Train and evaluate one setting with the example script for question answering; print one line of JSON.

    python benchmarks/example.py DATA --store FOLDER --output FOLDER [--backbone 2x128x2] [--max-length 384]
        [--learning-rate 5e-5] [--warmup-ratio 0] [--epochs 3] [--seed 42]

DATA holds context.json, train.json and valid.json. The first process stores its features in `--store`; later processes
with the same arguments reuse them. The model is saved and evaluated after training.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import datasets
import reference
from transformers import PrinterCallback, set_seed

from jobs.backbone import tokenizers
from jobs.dataset.data import Data, read_data, vocabulary
from jobs.metrics import mean_scores
from jobs.model import backbones


def given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    for name in ("store", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name, default in (("backbone", "2x128x2"), ("max-length", 384), ("doc-stride", reference.DOC_STRIDE)):
        parser.add_argument(f"--{name}", type=type(default), default=default)
    for name, default in (("learning-rate", 5e-5), ("warmup-ratio", 0.0), ("epochs", 3), ("seed", 42)):
        parser.add_argument(f"--{name}", type=type(default), default=default)
    return parser.parse_args()


def stored(data: Data, store: Path) -> list[datasets.Dataset]:
    """Write training and validation questions to disk, as `load_dataset` does, so that mapped features are stored."""
    for name in ("train", "valid"):
        if not (store / name).exists():
            reference.answer_rows(data, getattr(data, name)).save_to_disk(str(store / name))
    return [datasets.load_from_disk(str(store / name)) for name in ("train", "valid")]


def run(asked: argparse.Namespace) -> dict[str, float]:
    """Train, save and evaluate one model; return its scores."""
    set_seed(asked.seed)
    data = read_data(asked.data)
    train, valid = stored(data, asked.store)
    tokenizer = tokenizers.load_tokenizer(f"scratch:{asked.backbone}", vocabulary(data))
    model = backbones.load_model(
        f"scratch:{asked.backbone}", "AutoModelForQuestionAnswering", tokenizer, asked.max_length
    )
    reference.DOC_STRIDE = asked.doc_stride
    features = reference.training_features(tokenizer, train, asked.max_length, cached=True)
    windows = reference.validation_features(tokenizer, valid, asked.max_length, cached=True)
    trainer = reference.trainer(
        model, tokenizer, features, asked.output,
        num_train_epochs=asked.epochs, learning_rate=asked.learning_rate, warmup_steps=asked.warmup_ratio,
        seed=asked.seed,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    loss = float(trainer.train().training_loss)
    trainer.save_model()
    starts, ends = trainer.predict(windows.remove_columns(["example_id", "offset_mapping"])).predictions
    answers = reference.answers(valid, windows, starts, ends)
    right = [[row.answer or ""] for row in data.valid]
    return {**mean_scores([answers[row.id] for row in data.valid], right, "strict"), "train_loss": loss}


if __name__ == "__main__":
    datasets.disable_progress_bars()
    print(json.dumps(run(given())))
