"""Train on a few questions as a trial does, in processes of their own, and measure how long the parts take."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jobs import get_job
from jobs.dataset.data import SAMPLE
from jobs.dataset.sample import sample_files
from jobs.timing import START, TRAINING, Stopwatch, phase, timed_by
from sweeper.cluster.gpus import VISIBLE
from sweeper.process.import_path import append_folders
from sweeper.process.output import output_to

EPOCHS = 2  # the first one also warms up caches and kernels; the second one is measured


@dataclass(frozen=True)
class Rehearsal:
    """Describe a training to measure; all values are plain.

    params   params of a trial; the epochs are replaced
    data     folder with a few questions
    cpus     threads, as a trial has them
    folders  folders from which a job of the user's own is imported
    """

    job: str
    params: Mapping[str, Any]
    data: str
    workdir: str
    cpus: float
    folders: tuple[str, ...] = ()


def rehearse_at_once(rehearsal: Rehearsal, copies: int, gpus: int) -> list[dict[str, float]]:
    """Run as many copies as trials run at once, since they slow each other down. Return the seconds of each by phase.

    gpus  number of GPUs to divide the copies among; 0 hides them

    Raises what the job raises.
    """
    visible = os.environ.get(VISIBLE, ",".join(map(str, range(gpus)))).split(",")
    names = [visible[number % gpus] if gpus else "" for number in range(copies)]
    with ProcessPoolExecutor(copies, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(_rehearse, rehearsal, copy, gpu) for copy, gpu in enumerate(names)]
        return [one.result() for one in running]


def _rehearse(rehearsal: Rehearsal, copy: int, gpu: str) -> dict[str, float]:
    """Return the seconds to the first step, and of the last epoch by phase."""
    os.environ[VISIBLE] = gpu
    append_folders(rehearsal.folders)
    workdir = Path(rehearsal.workdir) / f"{copy}"
    workdir.mkdir()
    watch, taken = Stopwatch(START), list[dict[str, float]]()
    with output_to(Path(os.devnull)), timed_by(watch), phase(TRAINING):
        import torch

        torch.set_num_threads(max(1, int(rehearsal.cpus)))
        job = get_job(rehearsal.job)
        params = job.params(**{**rehearsal.params, "num_train_epochs": EPOCHS, **_every_epoch(rehearsal.params)})
        job.train(params, rehearsal.data, workdir, partial(_note, watch, taken))
    return {**taken[-1], START: taken[0].get(START, 0.0)}


def _every_epoch(params: Mapping[str, Any]) -> dict[str, int]:
    return {"eval_steps": 0} if "eval_steps" in params else {}


def _note(
    watch: Stopwatch, taken: list[dict[str, float]], metrics: Mapping[str, float], checkpoint: Path | None = None
) -> None:
    taken.append(watch.taken())


def write_few(location: str, folder: Path, train: int, valid: int) -> None:
    """Write a data set with some questions of another one, drawn at random, and all its paragraphs."""
    rng = random.Random(0)
    content = sample_files() if location == SAMPLE else None
    for name, most in (("context", None), ("train", train), ("valid", valid)):
        rows: Sequence[Any] = (
            content[name] if content else json.loads((Path(location) / f"{name}.json").read_text(encoding="utf-8-sig"))
        )
        chosen = rows if most is None else rng.sample(rows, min(most, len(rows)))
        (folder / f"{name}.json").write_text(json.dumps(chosen, ensure_ascii=False), encoding="utf-8")
    origin = Path(location) / "origin.json"
    if content is None and origin.is_file():
        (folder / "origin.json").write_bytes(origin.read_bytes())
