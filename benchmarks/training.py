"""Compare training and evaluation: the Trainer and batches of jobs against the example scripts, from equal weights.

    python benchmarks/training.py [--job qa|mc] [--max-length 384] [--train 100] [--valid 64] [--pairs 5]
        [--cpu 0] [--json]

Both take the steps of one epoch, each over 8 windows (`qa`) or 2 questions with their candidates (`mc`). Then both
answer the validation questions. Features and checkpoints are not timed.
`gemm_share` is the speed of the matrix products relative to `gemm_peak`, the GFLOP/s of one large product.
`--bf16 1` affects ours only; the reference uses fp32.
`--cpu 1` counts CPU seconds, which depend less on other work; use it with OMP_NUM_THREADS=1.
`--padded 0` pads the reference's multiple-choice rows to the longest of a batch, as that script does by default.
`--epochs N` trains both on `--train` questions instead, once for each of three seeds. It compares the mean training
loss of the last epoch, the evaluation loss and the score (exact match or accuracy). It prints mean and standard
deviation of each, and the difference of the means in standard errors. A difference below about 2.8 is not
significant with three seeds (Student's t at 5 %, 4 degrees of freedom).
    python benchmarks/training.py --epochs 4 --data sample --backbone 2x128x2 --rate 1e-3 --train 768 --valid 384
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import datasets
import pairs
import reference
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PrinterCallback, default_data_collator, set_seed

from jobs.dataset.data import Data
from jobs.metrics import mean_scores
from jobs.model import dropout
from jobs.params import TrainingParams
from jobs.task import Task
from jobs.training import batches
from jobs.training import trainer as training
from jobs.training.arguments import training_arguments
from jobs.training.precision import this_device, training_precision

SEEDS = (42, 43, 44)
BATCH = {"qa": 8, "mc": 2}


@dataclass(frozen=True)
class Way:
    """Hold one implementation. `train` takes its steps over `samples`, `evaluate` answers and returns the score,
    `loss` is the mean evaluation loss of an input."""

    trainer: Any
    evaluate: Callable[[], float]
    loss: Callable[[], float]

    @property
    def samples(self) -> int:
        return len(self.trainer.train_dataset)

    def train(self) -> float:
        """Train a model; return the mean loss of the last epoch, or of all steps if no epoch is logged."""
        mean = float(self.trainer.train().training_loss)
        return float(next((log["loss"] for log in reversed(self.trainer.state.log_history) if "loss" in log), mean))


@dataclass(frozen=True)
class Setting:
    data: Data
    tokenizer: Any
    task: Task
    params: TrainingParams
    folder: Path
    padded: bool

    @property
    def batch(self) -> int:
        return BATCH[self.task.name]

    def model(self) -> Any:
        """Return a model with the same random weights each time."""
        set_seed(self.params.seed)
        return self.task.model(self.params, self.tokenizer)


def setting(name: str, size: str, data: Data, folder: Path, padded: bool, **knobs: Any) -> Setting:
    module = import_module(f"jobs.{name}")
    made = getattr(module, f"{name.title()}Params")(
        backbone=f"scratch:{size}",
        effective_batch_size=BATCH[name],
        per_device_train_batch_size=BATCH[name],
        **knobs,
    )
    return Setting(data, reference.tokenizer(data), module.TASK, made, folder, padded)


def ours(one: Setting, limits: dict[str, Any]) -> Way:
    task, params = one.task, one.params
    train, valid = (
        task.inputs(params, one.tokenizer, one.data, rows, one.folder / "cache")
        for rows in (one.data.train, one.data.valid)
    )
    precision = training_precision(params, [this_device()])
    # and what is timed is cut down to the same
    arguments = training_arguments(params, one.folder / "ours", precision=precision)
    for name, value in {**limits, "eval_strategy": "no", "save_strategy": "no"}.items():
        setattr(arguments, name, value)
    scores: dict[str, float] = {}

    def score(logits: tuple[Any, ...]) -> dict[str, float]:
        scores.update(task.evaluate(valid, one.data, logits if len(logits) > 1 else logits[0], params)[0])
        return scores

    trainer = training.BatchTrainer(
        score=score,
        precision=precision,
        model=dropout.quicken(one.model()),
        args=arguments,
        data_collator=batches.keep_batch,
        train_dataset=training.input_dataset(task, train, task.trained(train, params), params),
        eval_dataset=training.input_dataset(task, valid, range(len(valid)), params),
        processing_class=one.tokenizer,
        compute_loss_func=task.loss,
    )
    trainer.remove_callback(PrinterCallback)

    def evaluate() -> float:
        trainer.evaluate()
        return scores["exact_match" if task.name == "qa" else "accuracy"]

    return Way(trainer, evaluate, lambda: float(trainer.evaluate()["eval_loss"]))


def theirs(one: Setting, limits: dict[str, Any]) -> Way:
    return (_theirs_qa if one.task.name == "qa" else _theirs_mc)(one, limits)


def _trainer(one: Setting, features: datasets.Dataset, limits: dict[str, Any], collate: Any) -> Any:
    options = {"learning_rate": one.params.learning_rate, "seed": one.params.seed, "save_strategy": "no", **limits}
    trainer = reference.trainer(
        one.model(),
        one.tokenizer,
        features,
        one.folder / "theirs",
        collate,
        per_device_train_batch_size=one.batch,
        **options,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _theirs_qa(one: Setting, limits: dict[str, Any]) -> Way:
    rows, asked = (reference.answer_rows(one.data, part) for part in (one.data.train, one.data.valid))
    length = int(one.params.max_length)  # type: ignore[attr-defined]
    trainer = _trainer(one, reference.training_features(one.tokenizer, rows, length), limits, default_data_collator)
    features = reference.validation_features(one.tokenizer, asked, length)
    right = [[row.answer or ""] for row in one.data.valid]

    def evaluate() -> float:
        starts, ends = trainer.predict(features.remove_columns(["example_id", "offset_mapping"])).predictions
        given = reference.answers(asked, features, starts, ends)
        return mean_scores([given[row.id] for row in one.data.valid], right, "strict")["exact_match"]

    def loss() -> float:
        return float(trainer.evaluate(reference.training_features(one.tokenizer, asked, length))["eval_loss"])

    return Way(trainer, evaluate, loss)


def _theirs_mc(one: Setting, limits: dict[str, Any]) -> Way:
    length = int(one.params.max_length)  # type: ignore[attr-defined]
    train, valid = (
        reference.choice_features(one.tokenizer, reference.choice_rows(one.data, rows), length, one.padded)
        for rows in (one.data.train, one.data.valid)
    )
    trainer = _trainer(one, train, limits, reference.choice_collator(one.tokenizer))

    def evaluate() -> float:
        found = trainer.predict(valid)
        return float((found.predictions.argmax(axis=1) == found.label_ids).mean())

    return Way(trainer, evaluate, lambda: float(trainer.evaluate(valid)["eval_loss"]))


def measure(one: Setting, count: int, cpu: bool = False) -> dict[str, Any]:
    """Time both implementations in turn, after one run of each to warm up."""
    limits = {"num_train_epochs": 1, "logging_strategy": "no"}
    mine, their = ours(one, limits), theirs(one, limits)
    assert mine.samples == their.samples
    for way in (mine, their):
        way.train()
        way.evaluate()
    trained = pairs.alternate(mine.train, their.train, count, cpu)
    asked = pairs.alternate(mine.evaluate, their.evaluate, count, cpu)
    questions = len(one.data.valid)
    most, their_most = peak(one.params.bf16), peak()
    return {
        "training_ours": mine.samples / trained.ours,
        "training_reference": mine.samples / trained.reference,
        "training_ratio": trained.ratio,
        "training_ours_gemm_share": flops(mine.train) / trained.ours / most,
        "training_reference_gemm_share": flops(their.train) / trained.reference / their_most,
        "evaluation_ours": questions / asked.ours,
        "evaluation_reference": questions / asked.reference,
        "evaluation_ratio": asked.ratio,
        "gemm_peak": most / 1e9,
        "pairs": count,
    }


def flops(train: Callable[[], float]) -> int:
    """Count floating-point operations in matrix products, padding included, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter:
        train()
    return int(counter.get_total_flops())


def learned(one: Callable[[int], Setting], epochs: int) -> dict[str, Any]:
    """Train both completely for each of SEEDS, and compare losses and scores."""
    limits = {"num_train_epochs": epochs, "logging_strategy": "epoch"}
    ends = {
        name: [end(make(one(seed), limits)) for seed in SEEDS] for name, make in (("ours", ours), ("reference", theirs))
    }
    found: dict[str, Any] = {"seeds": SEEDS}
    for key in ("loss", "eval_loss", "score"):
        both = {name: [run[key] for run in runs] for name, runs in ends.items()}
        for name, values in both.items():
            found |= {f"{name}_{key}": values, f"{name}_{key}_mean": statistics.mean(values)}
            found[f"{name}_{key}_std"] = statistics.stdev(values)
        found |= apart(key, *both.values())
    return found


def end(way: Way) -> dict[str, float]:
    return {"loss": round(way.train(), 4), "eval_loss": round(way.loss(), 4), "score": round(way.evaluate(), 4)}


def apart(key: str, mine: list[float], others: list[float]) -> dict[str, float]:
    """Return the difference of two means, and the same in standard errors; 0 if they are equal."""
    difference = statistics.mean(mine) - statistics.mean(others)
    error = math.sqrt(sum(statistics.variance(values) / len(values) for values in (mine, others)))
    errors = abs(difference) / max(error, 1e-12)
    return {f"{key}_difference": difference, f"{key}_errors": errors}


def peak(bf16: bool = False) -> float:
    """Measure the operations per second of one large matrix product, an upper bound for a training step."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    left, right = torch.randn(2, 2048, 2048).to(dtype)
    best = min(pairs.seconds(lambda: left @ right) for _ in range(5))
    return 2 * 2048**3 / best


def main() -> None:
    given = pairs.arguments(
        __doc__, data=reference.location(), job="qa", max_length=384, backbone="4x256x4", train=100, valid=64,
        bf16=0, padded=1, epochs=0, rate=3e-4, cpu=0,
    )  # fmt: skip
    datasets.disable_progress_bars()
    data = reference.first(given.data, given.train, given.valid)
    knobs = {"max_length": given.max_length, "bf16": bool(given.bf16), "learning_rate": given.rate}
    if given.job == "qa":
        knobs["doc_stride"] = min(reference.DOC_STRIDE, given.max_length // 4)
        reference.DOC_STRIDE = knobs["doc_stride"]
    with tempfile.TemporaryDirectory() as folder:

        def one(seed: int) -> Setting:
            place = Path(folder) / str(seed)
            return setting(given.job, given.backbone, data, place, bool(given.padded), seed=seed, **knobs)

        result = learned(one, given.epochs) if given.epochs else measure(one(42), given.pairs, bool(given.cpu))
    shown = {"job": given.job, "max_length": given.max_length, "bf16": bool(given.bf16), "padded": bool(given.padded)}
    pairs.show({**shown, "threads": torch.get_num_threads(), **result}, given.json)


if __name__ == "__main__":
    main()
