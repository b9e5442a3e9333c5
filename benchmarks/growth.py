"""Measure how the cost of each part of a sweep grows with its size, with jobs that do nothing.

    python benchmarks/growth.py [--trials 100,1000,10000] [--tpe 100,300,1000] [--mirror 100,1000,10000]
                                [--gpus 1,4,16,64] [--questions 1000,10000,100000] [--json]

`ledger`   CPU seconds per trial of ask, report (one evaluation) and tell, over the newest 50 trials of a ledger of
           that size; random sampler. `open`, `records` and `compare` are measured once for all trials.
`tpe`      ask alone with the TPE sampler, which models all trials each time.
`mirror`   CPU seconds per trial to record run, params, metrics and end in MLflow (SQLite); over the newest 50.
`gpus`     trials per second through Ray Tune with that many pretended devices, by the times in the ledger.
`data`     CPU seconds for all questions: features (tokenizing and windows), spans, metrics.

The exponent is log(ratio of total costs) / log(ratio of sizes); 1 means proportional. The total of a cost per trial is
the cost times the number of trials. An empty list of sizes skips a part.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import Ledger, create_ledger, load_ledger
from sweeper.ledger.record import State, TrialRecord
from sweeper.results import comparison
from sweeper.results.table import table_csv
from sweeper.space.reading import read_search_space
from sweeper.space.search_space import SearchSpace

STATES: tuple[State, ...] = ("RUNNING", "COMPLETE")
NEWEST = 50  # trials that are timed at each size
SPACE = """\
name: growth
job: benchmarks.idle:JOB
data: sample
objective: score
parameters:
  backbone: {values: [none, other]}
  learning_rate: {min: 1e-6, max: 1e-1, log: true}
  num_train_epochs: 1
"""


@dataclass(frozen=True)
class Cost:
    """Hold CPU or wall seconds of one part at one size; `each` marks seconds per trial."""

    part: str
    size: int
    seconds: float
    each: bool = False

    @property
    def whole(self) -> float:
        return self.seconds * self.size if self.each else self.seconds


def space_of(folder: Path, *overrides: str) -> SearchSpace:
    path = folder / "growth.yaml"
    path.write_text(SPACE, encoding="utf-8")
    return read_search_space(path, overrides)


def cpu(action: Callable[[], object]) -> float:
    """Return the CPU seconds of all threads of this process."""
    began = time.process_time()
    action()
    return time.process_time() - began


def evaluation(number: int) -> dict[str, float]:
    return {"score": (number * 7919 % 1000) / 1000, "epoch": 1.0, "seconds": 1.0}


def fill(ledger: Ledger, space: SearchSpace, size: int) -> dict[str, float]:
    """Fill the ledger up to `size` trials; return CPU seconds per trial of the newest."""
    spent = {"ask": 0.0, "report": 0.0, "tell": 0.0}
    begin = ledger.tally.searched
    timed = min(NEWEST, size - begin)
    for place in range(begin, size):
        if place == size - timed:
            spent = dict.fromkeys(spent, 0.0)
        moments = [time.process_time()]
        record = ledger.ask(space)
        assert record is not None
        moments.append(time.process_time())
        ledger.report(record.number, evaluation(record.number), None)
        moments.append(time.process_time())
        ledger.finish(record.number, "COMPLETE")
        moments.append(time.process_time())
        for name, (first, last) in zip(spent, pairwise(moments), strict=True):
            spent[name] += last - first
    return {name: seconds / timed for name, seconds in spent.items()}


def compare(ledgers: Sequence[Ledger]) -> None:
    table_csv(comparison.compare_sweeps(ledgers)[1])


def ledger_costs(sizes: Sequence[int], folder: Path, sampler: str) -> Iterator[Cost]:

    space = space_of(folder, f"search={{sampler: {sampler}, trials: {max(sizes)}, seed: 1}}")
    url = f"sqlite:///{folder}/{sampler}.db"
    ledger = create_ledger(open_storage(url), space, "growth")
    for size in sizes:
        steps = fill(ledger, space, size)
        if sampler == "tpe":
            yield Cost("tpe ask", size, steps["ask"], each=True)
            continue
        yield from (Cost(f"ledger {name}", size, seconds, each=True) for name, seconds in steps.items())
        opened: list[Ledger] = []
        yield Cost("ledger open", size, cpu(lambda: opened.append(load_ledger(open_storage(url), "growth"))))  # noqa: B023
        yield Cost("ledger records", size, cpu(opened[0].records))
        yield Cost("compare", size, cpu(partial(compare, list(opened))))


def shown_trial(number: int, state: State) -> TrialRecord:
    params = {"backbone": "none", "learning_rate": number, "num_train_epochs": 1}
    evaluations = (evaluation(number),) if state == "COMPLETE" else ()
    unknown: dict[str, Any] = dict.fromkeys(("value", "checkpoint", "reason", "run_id", "started", "ended"))
    return TrialRecord(number, f"key-{number}", state, params, evaluations, metrics={}, **unknown)


def show(mirror: Any, numbers: range) -> None:
    """Start and end a trial, and wait until MLflow has recorded both."""
    for number in numbers:
        for state in STATES:
            mirror.put(shown_trial(number, state))
            assert mirror.flush(60.0), mirror.failure


def mirror_costs(sizes: Sequence[int], folder: Path) -> Iterator[Cost]:
    from sweeper.tracking.mirror import Mirror
    from sweeper.tracking.runs import SweepInfo

    info = SweepInfo("growth", "growth", "score")
    with Mirror(f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts"), "growth", info) as mirror:
        done = 0
        for size in sizes:
            timed = min(NEWEST, size - done)
            show(mirror, range(done, size - timed))
            yield Cost("mirror", size, cpu(lambda: show(mirror, range(size - timed, size))) / timed, each=True)  # noqa: B023
            done = size


def gpu_costs(sizes: Sequence[int], folder: Path, rounds: int = 3) -> Iterator[Cost]:
    """Return wall seconds per trial over the middle half of the trials, when processes are warm."""
    from sweeper.cluster.capacity import Machine
    from sweeper.driver.sweep import Sweep
    from sweeper.driver.tuning import ray_session, run_trials
    from sweeper.process.output import output_to

    for size in sizes:
        machine = Machine(cpus=max(2, size), gpus=size)
        trials = f"search={{sampler: random, trials: {max(8, rounds * size)}, seed: 1}}"
        space = space_of(folder, trials, "resources={gpus: 1, cpus: 1}")
        ledger = create_ledger(open_storage(f"sqlite:///{folder}/gpus-{size}.db"), space, "growth")
        with output_to(folder / "log.txt"), ray_session(machine):
            run_trials(Sweep(ledger, space, folder / f"gpus-{size}", machine), lambda record: None)
        yield Cost("ray", size, pace(ledger.records()))


def pace(records: Sequence[TrialRecord]) -> float:
    """Return the mean seconds between the ends of trials, over the middle half of them."""
    ends = sorted(record.ended.timestamp() for record in records if record.ended)
    first, last = len(ends) // 4, 3 * len(ends) // 4
    return (ends[last] - ends[first]) / (last - first)


def data_costs(sizes: Sequence[int], folder: Path) -> Iterator[Cost]:
    """Measure features, spans and metrics on questions of the sample, made different by a number each.

    There are four paragraphs per hundred questions.
    """
    import numpy as np

    from jobs.backbone.tokenizers import load_tokenizer
    from jobs.dataset.data import read_data, vocabulary
    from jobs.features.spans import best_spans
    from jobs.features.tokens import cached_tokens
    from jobs.features.windows import Pair, cut_windows
    from jobs.metrics import mean_scores

    data = read_data("sample")
    tokenizer = load_tokenizer("scratch:1x32x2", vocabulary(data))
    for size in sizes:
        texts = [f"{data.train[n % len(data.train)].question}{n}" for n in range(size)]
        paragraphs = [f"{data.paragraphs[n % len(data.paragraphs)]}{n}" for n in range(max(1, size // 25))]
        pairs = [Pair(n, n % len(paragraphs), 0, 2) for n in range(size)]

        def features() -> None:
            asked = cached_tokens(folder / f"features-{size}", tokenizer, texts)  # noqa: B023
            read_in = cached_tokens(folder / f"features-{size}", tokenizer, paragraphs)  # noqa: B023
            cut_windows(tokenizer, asked, read_in, pairs, 384, 128)  # noqa: B023

        yield Cost("features", size, cpu(features))
        logits = np.random.default_rng(0).standard_normal((2, 1000, 384)).astype(np.float32)
        allowed = np.ones((1000, 384), bool)
        rounds = range(math.ceil(size / 1000))
        yield Cost("spans", size, cpu(lambda: [best_spans(*logits, allowed, 30) for _ in rounds]))  # noqa: B023
        right = [[text[:8]] for text in texts]
        yield Cost("metrics", size, cpu(lambda: mean_scores([t[:9] for t in texts], right)))  # noqa: B023


def exponents(costs: Sequence[Cost]) -> list[dict[str, Any]]:
    """Return one row per cost, with the exponent between its size and the size before."""
    rows = []
    for cost in costs:
        before = [one for one in costs if one.part == cost.part and one.size < cost.size][-1:]
        grown = [math.log(cost.whole / one.whole) / math.log(cost.size / one.size) for one in before if one.whole]
        exponent = round(grown[0], 2) if grown else None
        rows.append({"part": cost.part, "size": cost.size, "seconds": cost.seconds, "exponent": exponent})
    return rows


def measure(options: argparse.Namespace, folder: Path) -> list[Cost]:
    parts: list[tuple[list[int], Callable[[list[int]], Iterator[Cost]]]] = [
        (options.trials, lambda sizes: ledger_costs(sizes, folder, "random")),
        (options.tpe, lambda sizes: ledger_costs(sizes, folder, "tpe")),
        (options.mirror, lambda sizes: mirror_costs(sizes, folder)),
        (options.gpus, lambda sizes: gpu_costs(sizes, folder)),
        (options.questions, lambda sizes: data_costs(sizes, folder)),
    ]
    return [cost for sizes, costs in parts if sizes for cost in costs(sizes)]


def sizes(text: str) -> list[int]:
    return sorted(int(part) for part in text.split(",") if part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=sizes, default=[100, 1000, 10_000])
    parser.add_argument("--tpe", type=sizes, default=[100, 300, 1000])
    parser.add_argument("--mirror", type=sizes, default=[100, 1000, 10_000])
    parser.add_argument("--gpus", type=sizes, default=[1, 4, 16, 64])
    parser.add_argument("--questions", type=sizes, default=[1000, 10_000, 100_000])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows = exponents(measure(options, Path(scratch)))
    if options.json:
        print(json.dumps(rows))
        return
    print(f"{'part':<16}{'size':>8}{'seconds':>12}{'exponent':>10}")
    for row in rows:
        print(f"{row['part']:<16}{row['size']:>8}{row['seconds']:>12.5f}{row['exponent'] or '':>10}")


if __name__ == "__main__":
    main()
