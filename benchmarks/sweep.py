"""Compare a whole search: `sweeper run` against one process of the example script per setting, in sequence.

    python benchmarks/sweep.py [--data FOLDER] [--settings 8] [--train 768] [--valid 384] [--epochs 4] [--json]

All searches run the same settings (learning rate and warm-up) in the same order, with equal data, model, seed, batch
and epochs. Each search is timed from the start of its first process to the end of its last. `reference` runs one
process per setting with all threads. `equal` is ours without early stopping, `early` is ours with it. The best EM is
printed in points. `--max-length` is the default of the example script, which pads to it; `--parts` chooses the
searches to run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pairs
import yaml

ROOT = Path(__file__).parents[1]
CLI = "from sweeper.cli import main; main()"
SEED = 42


@dataclass(frozen=True)
class Setting:
    learning_rate: float
    warmup_ratio: float


@dataclass(frozen=True)
class Outcome:
    """Hold the seconds of a search, its best EM in points, and the EM of each setting in order."""

    seconds: float
    best: float
    scores: list[float]


def settings(count: int) -> list[Setting]:
    """Draw settings from the quickstart's ranges, in the order in which they run."""
    rng = np.random.default_rng(SEED)
    rates, warmups = np.exp(rng.uniform(*np.log([3e-5, 3e-3]), count)), rng.uniform(0, 0.2, count)
    return [Setting(float(f"{rate:.3g}"), round(float(warmup), 3)) for rate, warmup in zip(rates, warmups, strict=True)]


def subset(place: str, folder: Path, train: int, valid: int) -> Path:
    """Write a data set's first questions to a folder of their own; 0 writes all."""
    folder.mkdir(parents=True)
    for name, count in (("context", 0), ("train", train), ("valid", valid)):
        rows = json.dumps(content(place, name)[: count or None], ensure_ascii=False)
        (folder / f"{name}.json").write_text(rows, encoding="utf-8")
    return folder


def content(place: str, name: str) -> list[Any]:
    from jobs.dataset.sample import sample_files

    rows = sample_files()[name] if place == "sample" else json.loads((Path(place) / f"{name}.json").read_text("utf-8"))
    return list(rows)


def space(asked: Namespace, data: Path, name: str, drawn: Sequence[Setting]) -> dict[str, Any]:
    """Write a search-space file that runs these settings in this order."""
    parameters = {
        "backbone": f"scratch:{asked.backbone}",
        "learning_rate": {"min": 1e-6, "max": 1.0, "log": True},
        "warmup_ratio": {"min": 0.0, "max": 0.5},
        "effective_batch_size": 8,
        "num_train_epochs": asked.epochs,
        "max_length": asked.max_length,
        "doc_stride": stride(asked),
        "seed": SEED,
    }
    search = {"sampler": "random", "trials": len(drawn), "seed": SEED, "enqueue": [vars(one) for one in drawn]}
    made = {"name": name, "job": "qa", "data": str(data), "objective": "exact_match"}
    early = {"scheduler": "asha", "grace_period": 1, "reduction_factor": asked.reduction_factor}
    stopping = {"early_stopping": early} if name == "early" else {}
    return {**made, "parameters": parameters, "search": search, **stopping}


def stride(asked: Namespace) -> int:
    """Return the example script's 128 tokens, or fewer if windows are short."""
    return int(min(128, asked.max_length // 4))


def process(command: Sequence[str], folder: Path, threads: int | None) -> str:
    """Run a process and return its output. Prints the output's end and raises CalledProcessError if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SWEEPER_ROOT": str(folder / "sweeps")}
    for name in ("OMP_NUM_THREADS", "SWEEPER_LEDGER", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-2000:], file=sys.stderr)
    done.check_returncode()
    return done.stdout


def ours(asked: Namespace, data: Path, folder: Path, name: str, drawn: Sequence[Setting]) -> Outcome:
    """Run `sweeper run` and read its table."""
    folder.mkdir()
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(space(asked, data, name, drawn), sort_keys=False), encoding="utf-8")
    began = time.perf_counter()
    process([sys.executable, "-c", CLI, "run", str(file)], folder, None)
    seconds = time.perf_counter() - began
    rows = json.loads(process([sys.executable, "-c", CLI, "compare", name, "--all", "--json"], folder, None))
    values = {row["trial"]: 100 * row["value"] for row in rows}
    return Outcome(seconds, max(values.values()), [values[number] for number in sorted(values)])


def theirs(asked: Namespace, data: Path, folder: Path, drawn: Sequence[Setting]) -> Outcome:
    """Run one process per setting in sequence, each with all CPUs."""
    folder.mkdir()
    began = time.perf_counter()
    scores = [
        json.loads(process(script(asked, data, folder, number, one), folder, len(os.sched_getaffinity(0))))
        for number, one in enumerate(drawn)
    ]
    seconds = time.perf_counter() - began
    values = [100 * score["exact_match"] for score in scores]
    return Outcome(seconds, max(values), values)


def script(asked: Namespace, data: Path, folder: Path, number: int, one: Setting) -> list[str]:
    options = {
        "store": folder / "store", "output": folder / str(number), "backbone": asked.backbone,
        "max-length": asked.max_length, "doc-stride": stride(asked), "epochs": asked.epochs, "seed": SEED,
        "learning-rate": one.learning_rate, "warmup-ratio": one.warmup_ratio,
    }  # fmt: skip
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return [sys.executable, str(ROOT / "benchmarks" / "example.py"), str(data), *flags]


def measure(asked: Namespace) -> dict[str, Any]:
    drawn = settings(asked.settings)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = subset(asked.data, folder / "data", asked.train, asked.valid)
        ways = {
            "early": lambda: ours(asked, data, folder / "early", "early", drawn),
            "equal": lambda: ours(asked, data, folder / "equal", "equal", drawn),
            "reference": lambda: theirs(asked, data, folder / "reference", drawn),
        }
        outcomes = {name: ways[name]() for name in asked.parts.split(",")}
    return {**summary(outcomes), "settings": [vars(one) for one in drawn]}


def summary(outcomes: dict[str, Outcome]) -> dict[str, Any]:
    """Return seconds, best EM and all EMs of each search, with speed and best EM relative to the reference."""
    found: dict[str, Any] = {
        f"{name}_{key}": value for name, one in outcomes.items() for key, value in vars(one).items()
    }
    if base := outcomes.get("reference"):
        for name in outcomes.keys() & {"equal", "early"}:
            found[f"{name}_ratio"] = base.seconds / outcomes[name].seconds
            found[f"{name}_gap"] = outcomes[name].best - base.best
    return found


def main() -> None:
    asked = pairs.arguments(
        __doc__, data="sample", settings=8, train=768, valid=384, epochs=4, backbone="2x128x2", max_length=384,
        reduction_factor=4, parts="early,equal,reference",
    )  # fmt: skip
    pairs.show(measure(asked), asked.json)


if __name__ == "__main__":
    main()
