"""Choose the batch sizes of a training so that they fit into the memory of its GPUs.

On CPUs, and for a model that is sharded over GPUs, `auto` stands for the number that `jobs.params` has for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from jobs.params import AUTO, EVALUATION_BATCH, TRAIN_BATCH, Params, TrainingParams, batch_size, train_batch
from jobs.training import workers
from jobs.training.conditions import record_conditions
from jobs.training.memory.notes import note_shortage, noted_shortage
from jobs.training.memory.search import TrainingSize, divisors, halves, largest_fitting, largest_training_size, least
from jobs.training.memory.shortage import out_of_memory

MOST_TOKENS = 2**15  # of a batch: more at once take memory, and no less time
GIB = 2**30


class TooLittleMemory(RuntimeError):
    """Signal that not even one input fits into the memory of a GPU."""


class Memory(Protocol):
    """Describe the memory of a device, see `jobs.training.memory.device.DeviceMemory`."""

    name: str
    bytes: int
    peak: int
    precision: str
    recomputes: bool

    def longest(self, evaluation: bool) -> tuple[int, int]: ...
    def fits_training(self, rows: int, recompute: bool) -> bool: ...
    def fits_evaluation(self, rows: int) -> bool: ...


class BatchSizes(NamedTuple):
    """Hold the batch sizes that fit a device; None where not even one input fits."""

    training: TrainingSize | None
    evaluation: int | None


@dataclass(frozen=True)
class Fitting:
    """Fit the batch sizes of one training to the memory of this worker's device.

    job      name of the job
    memory   None if sizes are not searched
    workers  number of workers
    """

    job: str
    params: TrainingParams
    memory: Memory | None
    workers: int

    def sizes(self) -> BatchSizes:
        """Return the largest batch sizes that fit this worker's device; without memory to search, those of `auto`."""
        params, memory = self.params, self.memory
        training: TrainingSize | None = TrainingSize(train_batch(params, self.workers), params.gradient_checkpointing)
        evaluation: int | None = batch_size(params, EVALUATION_BATCH)
        if memory and params.per_device_train_batch_size == AUTO:
            training = self._training_size(memory)
        if memory and params.per_device_eval_batch_size == AUTO:
            evaluation = self._evaluation_size(memory) if training else None
        return BatchSizes(training, evaluation)

    def _training_size(self, memory: Memory) -> TrainingSize | None:
        part = self.params.effective_batch_size // self.workers
        ways = (True,) if self.params.gradient_checkpointing else (False, True)[: 1 + memory.recomputes]
        return largest_training_size(
            divisors(part, self._most(False)),
            ways,
            lambda recompute, rows: self._noted(
                self.training_setting(recompute), rows, memory.fits_training(rows, recompute)
            ),
            lambda recompute: noted_shortage(self.training_setting(recompute)),
        )

    def _evaluation_size(self, memory: Memory) -> int | None:
        setting = self.setting("evaluation")
        limit = noted_shortage(setting)
        sizes = [size for size in halves(self._most(True)) if limit is None or size < limit] or [1]
        return largest_fitting(sizes, lambda rows: self._noted(setting, rows, memory.fits_evaluation(rows)))

    def _most(self, evaluation: bool) -> int:
        """Return the largest power of two of rows that have up to MOST_TOKENS tokens; at least 1."""
        assert self.memory
        sequences, positions = self.memory.longest(evaluation)
        return 1 << (max(1, MOST_TOKENS // (sequences * positions)).bit_length() - 1)

    def _noted(self, setting: str, rows: int, fits: bool) -> bool:
        if not fits:
            note_shortage(setting, rows)
        return fits

    def training_setting(self, recompute: bool) -> str:
        return self.setting("training, activations computed again" if recompute else "training")

    def setting(self, purpose: str) -> str:
        """Return what decides how much memory a batch takes and how much there is, as one text."""
        assert self.memory
        params, memory = self.params, self.memory
        sequences, positions = memory.longest(purpose == "evaluation")
        device = f"{memory.name} with {memory.bytes // GIB} GiB"
        compiled = ["compiled"] if params.torch_compile else []
        return " | ".join(
            [
                *(purpose, self.job, params.backbone, f"{sequences} x {positions} tokens", memory.precision),
                *(params.optim, *compiled, device, f"{self.workers} workers"),
            ]
        )

    @contextmanager
    def noting_shortages(self, sizes: BatchSizes, trains: Callable[[], bool]) -> Iterator[None]:
        """Remember the batch that runs out of memory inside the block, so that the next training tries a smaller one.

        `trains` tells if the model trained at that moment; otherwise it was evaluated.
        """
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if self.memory and out_of_memory(error) and sizes.training and sizes.evaluation:
                if trains():
                    note_shortage(self.training_setting(sizes.training.recompute), sizes.training.rows)
                else:
                    note_shortage(self.setting("evaluation"), sizes.evaluation)
            raise


def agreed_sizes(fitting: Fitting) -> BatchSizes:
    """Return the batch sizes that fit the devices of all workers, and record them as conditions.

    Workers meet only after each has finished its search, since one that waits for another holds memory. Raises
    TooLittleMemory on all workers if not even one input fits one of them.
    """
    found = workers.gather_on_first(fitting.sizes())
    sizes = workers.once(lambda: smallest_sizes(found))
    rows, recompute = sizes.training or TrainingSize(1, fitting.memory is None or fitting.memory.recomputes)
    record_conditions(
        **{TRAIN_BATCH: rows, EVALUATION_BATCH: sizes.evaluation or 1, "gradient_checkpointing": recompute}
    )
    if fitting.memory and fitting.memory.peak:
        record_conditions(needed_gpu_memory_bytes=fitting.memory.peak)
    if fitting.memory and None in sizes:
        raise TooLittleMemory(shortage_line(fitting.memory, sizes.training is not None))
    return sizes


def smallest_sizes(found: list[BatchSizes]) -> BatchSizes:
    """Return the sizes that fit all workers, given the largest of each."""
    training = [one.training for one in found if one.training]
    evaluation = [one.evaluation for one in found if one.evaluation]
    return BatchSizes(
        least(training) if len(training) == len(found) else None,
        min(evaluation) if len(evaluation) == len(found) else None,
    )


def with_sizes(params: Params, sizes: BatchSizes) -> Params:
    """Return the params with these batch sizes."""
    assert sizes.training
    assert sizes.evaluation
    return replace(
        params,
        per_device_train_batch_size=sizes.training.rows,
        gradient_checkpointing=sizes.training.recompute,
        per_device_eval_batch_size=sizes.evaluation,
    )


def shortage_line(memory: Memory, evaluation: bool) -> str:
    """Return in one line that not even one input fits, with the cure."""
    sequences, positions = memory.longest(evaluation)
    what = f"{sequences} x {positions}" if sequences > 1 else f"{positions}"
    again = " with activations computed again" if memory.recomputes and not evaluation else ""
    return (
        f"out of memory: not even one input of {what} tokens fits into {memory.bytes / GIB:.1f} GiB of {memory.name}"
        f"{again}; lower max_length, or choose a smaller backbone"
    )
