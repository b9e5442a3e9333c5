"""Decide how many trials share a GPU under `gpus: auto`, from its speed and the memory that a trial takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jobs.backbone.footprint import training_bytes
from jobs.backbone.names import SCRATCH, scratch_size
from jobs.backbone.positions import local_config
from sweeper.cluster.devices import find_device
from sweeper.cluster.gpus import Gpu
from sweeper.ledger.record import TrialRecord
from sweeper.space.cases import largest_params
from sweeper.space.search_space import SearchSpace, resources_of
from sweeper.trial.gpu import CONTEXT_BYTES

Shape = tuple[Any, ...]  # values of SHAPE_PARAMS
Taken = tuple[tuple[Shape, int], ...]  # bytes of GPU memory that trials have taken, by shape
SHAPE_PARAMS = ("backbone", "max_length", "precision", "bf16")
ESTIMATED_JOBS = ("qa",)  # a row of the others has several sequences, or attention that stores more
SCRATCH_VOCABULARY = 21_128
USED_SHARE = 0.95  # of a trial's share; the search for a batch that fits leaves the rest free
AUTO_TOKENS = 2**15  # of a batch whose size is chosen on the device: no larger one is tried
MOST_TRIALS = 3  # that share a GPU: one of three nearly always computes, so a fourth gains nothing
# A GPU gains from a second trial if it computes faster than the host starts kernels for one: from an A100 on. One whose
# speed is not known is taken by its capability and memory.
SHARED_FLOPS, SHARED_CAPABILITY, SHARED_BYTES = 3e14, (9, 0), 40 * 2**30
GIB = 2**30


class TrialMemory(NamedTuple):
    """Tell how much GPU memory a trial takes: measured with earlier trials, or estimated from its model's sizes."""

    bytes: int
    measured: bool


def gains_from_sharing(gpu: Gpu) -> bool:
    """Return True if several trials on this GPU end sooner than one after the other."""
    if device := find_device(gpu.name):
        return (device.peak_flops("bf16") or 0.0) >= SHARED_FLOPS
    return (gpu.capability or (0, 0)) >= SHARED_CAPABILITY and gpu.memory_bytes >= SHARED_BYTES


def trials_per_gpu(gpu: Gpu | None, memory: TrialMemory | None) -> int:
    """Return how many trials share a GPU. One if the GPU or the memory of a trial is not known.

    >>> small = TrialMemory(20 * 2**30, measured=True)
    >>> trials_per_gpu(Gpu("NVIDIA H200", 139 * 2**30), small), trials_per_gpu(Gpu("Tesla T4", 15 * 2**30), small)
    (3, 1)
    """
    if gpu is None or memory is None or not gains_from_sharing(gpu):
        return 1
    return max(1, min(MOST_TRIALS, int(gpu.memory_bytes / (memory.bytes / USED_SHARE + CONTEXT_BYTES))))


def weakest(gpus: Sequence[Gpu]) -> Gpu | None:
    """Return the GPU of a machine on which the fewest trials fit."""
    return min(gpus, key=lambda gpu: (gains_from_sharing(gpu), gpu.memory_bytes), default=None)


def sharing_note(gpus: Iterable[Gpu | None], memory: TrialMemory | None) -> str:
    """Return why so many trials share a GPU, as the end of a line."""
    kinds = tuple(dict.fromkeys(gpus))
    if memory is None or None in kinds:
        return f"; gpus: auto: the {'memory of a trial' if memory is None else 'kind of the GPU'} is not known"
    how = "as earlier ones did" if memory.measured else "by an estimate"
    names = ", ".join(f"{gpu.name} {gpu.memory_bytes / GIB:.0f} GiB" for gpu in kinds if gpu)
    busy = [gpu.name for gpu in kinds if gpu and not gains_from_sharing(gpu)]
    alone = f"; one trial keeps {' and '.join(busy)} busy" if busy else ""
    return f"; gpus: auto: a trial takes {memory.bytes / GIB:.1f} GiB {how}, of {names}{alone}"


def memory_shape(params: Mapping[str, Any]) -> Shape:
    """Return the values of the params on which the memory of a trial depends."""
    return tuple(params.get(name) for name in SHAPE_PARAMS)


def taken_memory(records: Iterable[TrialRecord]) -> Taken:
    """Return the most memory that trials of each shape have taken.

    What the search for a batch has measured counts more than the peak, which holds memory that was free to use, too.
    """
    found: dict[Shape, int] = {}
    for record in records:
        if taken := record.conditions.get("needed_gpu_memory_bytes") or record.gpu_memory_bytes:
            shape = memory_shape(record.used)
            found[shape] = max(taken, found.get(shape, 0))
    return tuple(found.items())


def largest_memory(space: SearchSpace, taken: Taken) -> TrialMemory | None:
    """Return the GPU memory of the largest trial of this space with `gpus: auto`; None if one is not known.

    All these trials have the same share of a GPU, so that Ray reuses their processes, and a large trial does not wait
    until all small ones beside it have ended.
    """
    params = [vars(one) for one in largest_params(space).values()]
    shared = [one for one in params if (wanted := resources_of(space, one)) and wanted.shares_gpus]
    known = [trial_memory(space.job, one, taken) for one in shared]
    return None if None in known else max(filter(None, known), default=None)


def trial_memory(job: str, params: Mapping[str, Any], taken: Taken) -> TrialMemory | None:
    """Return the GPU memory of a trial: what earlier trials of its shape have taken, else an estimate, else None."""
    if found := dict(taken).get(memory_shape(params)):
        return TrialMemory(found, measured=True)
    config = _model_sizes(str(params.get("backbone")))
    if job not in ESTIMATED_JOBS or config is None:
        return None
    effective, size = params["effective_batch_size"], params["per_device_train_batch_size"]
    length, half = params["max_length"], params["bf16"] is not False and params["precision"] not in ("fp32", "tf32")
    tokens = min(effective * length, AUTO_TOKENS) if size == "auto" else min(size, effective) * length
    estimate = training_bytes(config, tokens, half, params["gradient_checkpointing"])
    return None if estimate is None else TrialMemory(estimate, measured=False)


def _model_sizes(backbone: str) -> Mapping[str, Any] | None:
    """Return the sizes in a backbone's config.json, or of one from scratch; None if it is not on this machine."""
    if not (match := SCRATCH.fullmatch(backbone)):
        return local_config(backbone)
    size = scratch_size(match)
    sizes = {"num_hidden_layers": size.layers, "hidden_size": size.hidden, "intermediate_size": 4 * size.hidden}
    return {**sizes, "vocab_size": SCRATCH_VOCABULARY}
