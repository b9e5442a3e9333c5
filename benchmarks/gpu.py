"""Compare training on this machine's first GPU: ours against the example scripts of transformers, at equal precision.

    python benchmarks/gpu.py [--precision auto|bf16|fp16|tf32|fp32] [--minutes 8] [--pairs 3] [--seconds 4] [--json]
    python benchmarks/gpu.py --tiny                     tiny models on any machine: shows that the script works

The reference is a plain Trainer over inputs that are all padded to `max_length`, as run_qa.py and run_swag.py make
them. Weights are random and texts are made, with the lengths of DRCD. Both ways train on the same inputs, one epoch in
each turn, `--pairs` turns after one to warm up. `--seconds` is about the time of a turn.

    steps/s     optimizer steps, of 8 inputs with qa and mc (2 questions with 4 candidates) and 2 with longformer
    inputs/s    windows (candidates with mc) in training; `answered` is the same in evaluation
    MFU         operations that the inputs need without padding, by the time and the published speed of the GPU
    peak        GiB that PyTorch had allocated at most in training

Each figure is the median of the turns. A ratio is the median over the pairs of a turn. When a batch does not fit into
memory, both ways halve it and accumulate gradients. What would begin after `--minutes` is left out.
"""

from __future__ import annotations

import gc
import json
import logging
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pairs
import torch
from transformers import (
    IntervalStrategy,
    LongformerForQuestionAnswering,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

from jobs.backbone import tokenizers
from jobs.backbone.flops import TRAINING, forward_flops
from jobs.dataset.data import read_data, vocabulary
from jobs.job import ParamError
from jobs.training import trainer as training
from jobs.training.precision import UsedPrecision, choose_precision, computing_in, this_device
from sweeper.cluster.devices import find_device

GPU = torch.cuda.is_available()
SIZES = {"base": "12x768x12", "large": "24x1024x16", "tiny": "2x32x2"}
BATCH = {"qa": 8, "mc": 2, "longformer": 2}  # windows, or questions with mc, in an optimizer step
PLAN = (("qa", "large"), ("qa", "base"), ("mc", "base"), ("longformer", "base"), ("mc", "large"))
TINY = (("qa", "tiny"), ("mc", "tiny"), ("longformer", "tiny"))
MEDIAN_CHARACTERS, SPREAD, LEAST_CHARACTERS = 405, 0.29, 250  # of DRCD's paragraphs: log-normal
USUAL_SHARE = 0.25  # of the measured speed of products, for the number of steps in a turn
LEAST_STEPS, MOST_STEPS = 8, 60


def made_data(folder: Path, questions: int, median: int, characters: int) -> Path:
    """Write questions with four paragraphs each, of random characters and the lengths of DRCD. Return the folder."""
    rng = random.Random(0)
    alphabet = [chr(0x4E00 + n) for n in range(characters)]
    least = LEAST_CHARACTERS * median // MEDIAN_CHARACTERS
    lengths = [max(least, int(rng.lognormvariate(math.log(median), SPREAD))) for _ in range(questions)]
    texts = ["".join(rng.choices(alphabet, k=length)) for length in lengths]

    def row(number: int) -> dict[str, Any]:
        paragraphs = [number, *rng.sample([n for n in range(questions) if n != number], 3)]
        rng.shuffle(paragraphs)
        start, length = rng.randrange(len(texts[number]) - 8), rng.randint(1, 8)
        return {
            "id": str(number),
            "question": "".join(rng.choices(alphabet, k=rng.randint(12, 34))),
            "paragraphs": paragraphs,
            "relevant": number,
            "answer": {"text": texts[number][start : start + length], "start": start},
        }

    folder.mkdir(parents=True)
    rows = [row(number) for number in range(questions)]
    cut = questions // 8  # are answered in evaluation
    for name, content in (("context", texts), ("train", rows[cut:]), ("valid", rows[:cut])):
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


class EpochClock(TrainerCallback):
    """Measure the seconds of an epoch without what comes before and after it."""

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        wait()
        self.began = time.perf_counter()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        wait()
        self.seconds = time.perf_counter() - self.began


@dataclass(frozen=True)
class Turn:
    """Hold the seconds of an epoch and of an evaluation, and the peak of the GPU's memory in training, in bytes."""

    training: float
    evaluation: float
    peak: int


@dataclass
class Case:
    """A job with one size of model. `micro` is the largest batch on the device, `steps` the steps of a turn."""

    job: str
    size: str
    data: Path
    work: Path
    precision: str
    max_length: int
    micro: int
    steps: int = LEAST_STEPS

    @cached_property
    def task(self) -> Any:
        return import_module(f"jobs.{self.job}").TASK

    @property
    def params(self) -> Any:
        knobs: dict[str, Any] = {"max_length": self.max_length, "num_train_epochs": 1}
        if self.job != "mc":
            knobs["doc_stride"] = self.max_length // (4 if self.job == "qa" else 16)
        if self.job == "longformer":
            knobs["attention_window"] = self.window
        return getattr(import_module(f"jobs.{self.job}"), f"{self.job.title()}Params")(
            backbone=f"scratch:{SIZES[self.size]}",
            effective_batch_size=BATCH[self.job],
            per_device_train_batch_size=self.micro,
            precision=self.precision,
            **knobs,
        )

    @property
    def window(self) -> int:
        return self.max_length // 8

    @cached_property
    def inputs(self) -> tuple[Any, Any]:
        """Return the inputs to train on and those to answer."""
        found, cache = read_data(str(self.data)), self.work / "features"
        train, valid = (
            self.task.inputs(self.params, self.tokenizer, found, rows, cache) for rows in (found.train, found.valid)
        )
        return train, valid

    @cached_property
    def tokenizer(self) -> Any:
        return tokenizers.load_tokenizer(self.params.backbone, vocabulary(read_data(str(self.data))))

    @cached_property
    def model(self) -> Any:
        """Return the model that both ways copy."""
        torch.manual_seed(0)
        return self.task.model(self.params, self.tokenizer)

    @property
    def trained(self) -> range:
        """Return the numbers of the inputs of a turn."""
        return range(min(len(self.inputs[0]), self.steps * BATCH[self.job]))

    def tokens(self, inputs: Any, numbers: Sequence[int]) -> list[int]:
        """Return the number of tokens of each row that the model reads."""
        if self.job != "mc":
            return inputs.lengths()[list(numbers)].tolist()
        first, last = inputs.bounds[numbers[0]], inputs.bounds[numbers[-1] + 1]
        return inputs.windows.lengths()[inputs.opening[first:last]].tolist()

    def flops(self, numbers: Sequence[int]) -> float:
        """Return the operations that training on some inputs needs."""
        config, window = self.model.config.to_dict(), self.window if self.job == "longformer" else None
        return TRAINING * sum(forward_flops(config, n, window) or 0 for n in self.tokens(self.inputs[0], numbers))

    def ours(self) -> Turn:
        """Train as a trial does, without evaluation and checkpoint."""
        task = replace(self.task, model=lambda *_: deepcopy(self.model), trained=lambda *_: self.trained)
        workdir = self.work / "trial"
        workdir.mkdir(exist_ok=True)
        trainer = training.make_trainer(task, self.params, str(self.data), workdir, lambda *_: None)
        for strategy in ("eval_strategy", "save_strategy", "logging_strategy"):
            setattr(trainer.args, strategy, IntervalStrategy.NO)
        with computing_in(used(self.precision)):
            return measured(trainer, trainer.evaluate)

    def theirs(self) -> Turn:
        """Train as the example script does."""
        accumulated = BATCH[self.job] // self.micro
        arguments = TrainingArguments(
            output_dir=str(self.work / "theirs"), num_train_epochs=1, learning_rate=self.params.learning_rate,
            per_device_train_batch_size=self.micro, gradient_accumulation_steps=accumulated,
            per_device_eval_batch_size=8 // (4 if self.job == "mc" else 1), bf16=self.precision == "bf16",
            fp16=self.precision == "fp16", save_strategy="no", logging_strategy="no", report_to="none",
            disable_tqdm=True, use_cpu=not GPU, dataloader_pin_memory=GPU, remove_unused_columns=False,
        )  # fmt: skip
        arguments._n_gpu = min(arguments.n_gpu, 1)  # with two GPUs, Trainer would train on both
        train, valid = self.padded
        trainer = Trainer(
            self.usual_model(), arguments, data_collator=default_data_collator,
            train_dataset=train[: len(self.trained)], eval_dataset=valid,
        )  # fmt: skip
        with computing_in(used(self.precision)):
            return measured(trainer, lambda: trainer.predict(valid))

    def usual_model(self) -> Any:
        """Return a copy of the model with the attention of transformers."""
        if self.job != "longformer":
            return deepcopy(self.model)
        made = LongformerForQuestionAnswering(self.model.config)
        made.load_state_dict(self.model.state_dict())
        return made

    @cached_property
    def padded(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the inputs as the example scripts make them, padded to `max_length`."""
        train, valid = self.inputs
        most = range(min(len(train), MOST_STEPS * BATCH[self.job]))
        return [self._row(train, number) for number in most], [self._row(valid, n) for n in range(len(valid))]

    def _row(self, inputs: Any, number: int) -> dict[str, Any]:
        row: dict[str, Any] = {}
        for name, values in self.task.collate(inputs, [number], self.params).items():
            own = values[0].numpy()
            if name == "labels":  # of mc: the right candidate is marked
                row[name] = int((own != -100).argmax())
            elif own.ndim:
                fill = self.tokenizer.pad_token_id if name == "input_ids" else 0
                missing = [(0, 0)] * (own.ndim - 1) + [(0, self.max_length - own.shape[-1])]
                row[name] = np.pad(own, missing, constant_values=fill)
            else:
                row[name] = int(own)
        return row


def measured(trainer: Any, evaluate: Callable[[], object]) -> Turn:
    """Train one epoch, then evaluate."""
    clock = EpochClock()
    trainer.add_callback(clock)
    trainer.remove_callback(PrinterCallback)
    if GPU:
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    peak = torch.cuda.max_memory_allocated() if GPU else 0
    taken = pairs.seconds(lambda: (evaluate(), wait()))
    return Turn(clock.seconds, taken, peak)


def wait() -> None:
    if GPU:
        torch.cuda.synchronize()


def emptied(way: Callable[[], Turn]) -> Turn:
    """Measure a way after freeing what earlier ones have left."""
    gc.collect()
    if GPU:
        torch.cuda.empty_cache()
    return way()


def compared(case: Case, count: int, seconds: float, speed: float) -> dict[str, Any]:
    """Measure both ways in turn and return the medians and the ratios."""
    one_step = case.flops(range(BATCH[case.job])) / (USUAL_SHARE * speed)
    case.steps = int(min(max(seconds / one_step, LEAST_STEPS), MOST_STEPS)) if GPU else 2
    warm_up(case)
    turns: dict[str, list[Turn]] = {"ours": [], "reference": []}
    ways = {"ours": case.ours, "reference": case.theirs}
    for turn in range(count):
        for name in list(ways)[:: 1 if turn % 2 == 0 else -1]:
            turns[name].append(emptied(ways[name]))
    return {**about(case), **{name: figures(case, all_turns) for name, all_turns in turns.items()}, **ratios(turns)}


def warm_up(case: Case) -> None:
    """Take a turn of each way; halve the batch on the device until both fit into memory."""
    while True:
        try:
            for way in (case.theirs, case.ours):
                emptied(way)
            return
        except torch.OutOfMemoryError:
            if case.micro == 1:
                raise
        case.micro //= 2


def about(case: Case) -> dict[str, Any]:
    tokens = case.tokens(case.inputs[0], case.trained)
    return {
        "job": case.job, "size": case.size, "precision": case.precision, "max_length": case.max_length,
        "batch": BATCH[case.job], "micro_batch": case.micro, "steps": len(case.trained) // BATCH[case.job],
        "tokens": statistics.mean(tokens),
    }  # fmt: skip


def figures(case: Case, turns: Sequence[Turn]) -> dict[str, float | None]:
    """Return the medians of one way's turns. MFU is None for a GPU whose speed is not known."""
    training_s, evaluation_s = (
        statistics.median(getattr(one, of) for one in turns) for of in ("training", "evaluation")
    )
    device = find_device(torch.cuda.get_device_name()) if GPU else None
    most = device.peak_flops(case.precision) if device else None
    answered = range(len(case.inputs[1]))
    return {
        "steps_per_s": len(case.trained) / BATCH[case.job] / training_s,
        "inputs_per_s": len(case.tokens(case.inputs[0], case.trained)) / training_s,
        "mfu": case.flops(case.trained) / training_s / most if most else None,
        "peak_gib": max(one.peak for one in turns) / 2**30 if GPU else None,
        "answered_per_s": len(case.tokens(case.inputs[1], answered)) / evaluation_s,
    }


def ratios(turns: dict[str, list[Turn]]) -> dict[str, float]:
    together = list(zip(turns["ours"], turns["reference"], strict=True))
    return {
        "ratio": statistics.median(other.training / own.training for own, other in together),
        "answered_ratio": statistics.median(other.evaluation / own.evaluation for own, other in together),
    }


def used(precision: str) -> UsedPrecision:
    """Return what a precision is on this device; refuse one that it lacks, as a sweep does."""
    return choose_precision(precision, None, [this_device()])


def product_speed(precision: str) -> float:
    """Measure the operations per second of one large matrix product."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    size = 8192 if GPU else 512
    left, right = (torch.randn(size, size, device="cuda" if GPU else "cpu").to(dtype) for _ in range(2))

    def product() -> None:
        left @ right
        wait()

    with computing_in(used(precision)):
        product()
        return 2 * size**3 / min(pairs.seconds(product) for _ in range(5))


def environment(precision: str, speed: float) -> dict[str, Any]:
    shown = {"torch": torch.__version__, "precision": precision, "product_tflops": speed / 1e12, "device": "CPU"}
    if GPU:
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        shown |= {"device": torch.cuda.get_device_name(), "capability": capability, "cuda": torch.version.cuda}
    return shown


def all_cases(given: Any, precision: str, speed: float, folder: Path) -> list[dict[str, Any]]:
    """Measure every case; one that would begin too late, or fails for want of memory, has the reason in `left_out`."""
    began, longest, rows = time.monotonic(), 0.0, []
    data = {
        long: made_data(
            folder / ("long" if long else "short"),
            *((12, 60, 300) if given.tiny else (count, MEDIAN_CHARACTERS, 10_560)),
        )
        for long, count in ((False, 480), (True, 128))
    }
    for job, size in TINY if given.tiny else PLAN:
        long = job == "longformer"
        length = (256 if long else 96) if given.tiny else (4096 if long else 512)
        work = folder / f"{job}-{size}"
        work.mkdir()
        since = time.monotonic()
        if since + longest - began > 60 * given.minutes:
            rows.append({"job": job, "size": size, "left_out": f"it would end after {given.minutes:g} minutes"})
            continue
        try:
            case = Case(job, size, data[long], work, precision, length, BATCH[job])
            rows.append(compared(case, given.pairs, given.seconds, speed))
        except torch.OutOfMemoryError:
            rows.append({"job": job, "size": size, "left_out": "the GPU has too little memory for one input"})
        longest = max(longest, time.monotonic() - since)
    return rows


HEADERS = (
    "job",
    "model",
    "tokens",
    "way",
    "batch",
    "steps/s",
    "inputs/s",
    "ratio",
    "MFU",
    "peak",
    "answered/s",
    "ratio",
)


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of a Markdown table, two for each case."""
    lines = [HEADERS, ("---",) * len(HEADERS)]
    for row in rows:
        if "left_out" in row:
            lines.append((row["job"], row["size"], "", f"left out: {row['left_out']}", *[""] * 8))
            continue
        for way in ("reference", "ours"):
            one, mine = row[way], way == "ours"
            mfu = "–" if one["mfu"] is None else f"{one['mfu']:.0%}"
            peak = "–" if one["peak_gib"] is None else f"{one['peak_gib']:.1f} GiB"
            lines.append((
                row["job"], row["size"], f"{row['max_length']}", way, f"{row['micro_batch']} of {row['batch']}",
                f"{one['steps_per_s']:.3g}", f"{one['inputs_per_s']:.4g}", f"{row['ratio']:.2f}" if mine else "", mfu,
                peak, f"{one['answered_per_s']:.4g}", f"{row['answered_ratio']:.2f}" if mine else "",
            ))  # fmt: skip
    return [f"| {' | '.join(line)} |" for line in lines]


def main() -> None:
    given = pairs.arguments(__doc__, precision="auto", minutes=8.0, seconds=4.0, tiny=False)
    logging.disable(logging.WARNING)
    try:
        precision = used(given.precision).name
    except ParamError as error:
        raise SystemExit(f"--precision: {error}") from None
    if given.tiny:
        given.pairs = min(given.pairs, 1)
    speed = product_speed(precision)
    with tempfile.TemporaryDirectory() as folder:
        rows = all_cases(given, precision, speed, Path(folder))
    shown = environment(precision, speed)
    if given.json:
        pairs.show({**shown, "cases": rows}, True)
        return
    pairs.show(shown, False)
    print("\n".join(["", *table(rows)]))


if __name__ == "__main__":
    main()
