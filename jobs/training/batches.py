"""Group rows of similar length into batches and divide the batches among the workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from jobs.model.facts import batch_facts

Batch = Mapping[str, torch.Tensor]
Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


class WorkerBatch(NamedTuple):
    """Hold the rows of one worker's batch and the factor for its mean loss.

    In one optimizer step, each worker adds up the weighted losses of its batches. With these weights, the mean of the
    workers' sums is the mean loss of the step's rows.
    """

    rows: Sequence[int]
    weight: float


WEIGHT, FACTS = "weight", "facts"  # of a batch; no inputs of the model
_collating = Lock()  # batches of training and evaluation may be prepared at once, and a tokenizer serves one thread


class InputDataset(Dataset[int]):  # type: ignore[misc]
    """Provide some inputs of a task to a DataLoader, one collated batch at a time.

    PyTorch calls `__getitems__` once per batch, with the element that the batch sampler yields: a WorkerBatch.
    `numbers` are the inputs to use, `lengths` their tokens, `counts` their sequences (None for one each), and `collate`
    builds a batch of tensors from numbers.
    """

    def __init__(
        self,
        numbers: Sequence[int],
        lengths: Ints,
        collate: Callable[[Sequence[int]], Batch],
        counts: Ints | None = None,
    ) -> None:
        self.numbers = numbers
        self.lengths = lengths
        self.collate = collate
        self.counts = np.ones(len(lengths), int) if counts is None else counts

    def __len__(self) -> int:
        return len(self.numbers)

    def batch(self, rows: Sequence[int] | Ints) -> Batch:
        """Return the batch of these rows, which count within `numbers`."""
        with _collating:
            return self.collate([int(self.numbers[row]) for row in rows])

    def told_batch(self, rows: Sequence[int] | Ints) -> Mapping[str, Any]:
        """Return the batch of these rows with its BatchFacts."""
        batch = self.batch(rows)
        return {**batch, FACTS: batch_facts(batch)}

    def __getitem__(self, row: int) -> Any:
        return self.batch([row])

    def __getitems__(self, own: WorkerBatch) -> Mapping[str, Any]:
        return {**self.told_batch(own.rows), WEIGHT: own.weight}


def pinned_batch(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the batch in memory from which a GPU copies while the host goes on; unchanged without a GPU."""
    if not torch.cuda.is_available():
        return batch
    return {name: value.pin_memory() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def keep_batch(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the batch unchanged: the collate function for InputDataset, which collates batches itself."""
    return batch


POOL_BATCHES = 50  # most batches in a pool, as in Trainer's group_by_length


def batched_by_length(lengths: Ints, size: int, seed: int, epoch: int) -> Ints:
    """Return every row once, ordered so that each batch of `size` consecutive rows has similar lengths.

    Rows are shuffled, divided into pools, sorted by length within each pool and cut into batches. The batches are then
    shuffled. There are at least four pools if there are enough rows. An incomplete batch comes last.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    pool = size * min(POOL_BATCHES, max(1, len(order) // (4 * size)))
    pools = [order[at : at + pool] for at in range(0, len(order), pool)]
    order = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in pools])
    whole = len(order) // size
    batches = order[: whole * size].reshape(whole, size)[rng.permutation(whole)]
    return np.concatenate([batches.ravel(), order[whole * size :]])


def shuffled(lengths: Ints, size: int, seed: int, epoch: int) -> Ints:
    """Return every row once, in random order."""
    return np.random.default_rng([seed, epoch]).permutation(len(lengths))


ORDERS = {"group_by_length": batched_by_length, "random": shuffled}


def split_step(rows: Ints, most: int, count: int) -> list[list[WorkerBatch]]:
    """Divide the rows of one optimizer step among `count` workers: for each worker, a list of batches.

    All workers get the same number of batches, of at most `most` rows and similar size. A worker for which no row is
    left gets a repeated row with weight 0, since all workers must take part in every step.
    """
    parts = np.array_split(rows, count * -(-len(rows) // (most * count)))
    weighed = [WorkerBatch(part.tolist() or rows[:1].tolist(), count * len(part) / len(rows)) for part in parts]
    return [weighed[rank::count] for rank in range(count)]


class WorkerSampler(Sampler[WorkerBatch]):  # type: ignore[misc]
    """Yield one worker's batches of an epoch, given `order(epoch)` and optimizer steps of `size` rows.

    Batches depend only on the epoch, so a run resumed in the middle of an epoch gets the remaining batches. `length` is
    the number of rows, `most` the largest batch on a device, `count` the number of workers and `rank` this worker's.
    """

    def __init__(
        self, order: Callable[[int], Ints], length: int, size: int, most: int, count: int = 1, rank: int = 0
    ) -> None:
        self.order = order
        self.length = length
        self.size = size
        self.most = most
        self.count = count
        self.rank = rank
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(self.length, self.size)
        at_once = self.most * self.count
        return whole * (self.size // at_once) - (-rest // at_once)

    def __iter__(self) -> Iterator[WorkerBatch]:
        order = self.order(self.epoch)
        for at in range(0, len(order), self.size):
            yield from split_step(order[at : at + self.size], self.most, self.count)[self.rank]


class EpochLoader(DataLoader[Any]):  # type: ignore[misc]
    """Load batches and pass the epoch, which Trainer sets, on to the batch sampler."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)


CPU_BATCH_TOKENS = 1024  # their activations fit into a CPU's cache; batches of 32 x 512 tokens took 1.4 times as long


def batches_by_tokens(lengths: Ints, size: int, most: int | None = None) -> list[Ints]:
    """Divide all rows, the longest first, into batches with a limited number of tokens, padding included.

    The limit is `size` times the longest row's tokens, or `most` if that is less. A batch has at least one row.
    """
    order = np.argsort(-lengths, kind="stable")
    whole = size * int(lengths.max(initial=1))
    budget, at = min(whole, most or whole), 0
    batches: list[Ints] = []
    while at < len(order):
        batches.append(order[at : at + max(1, budget // int(lengths[order[at]]))])
        at += len(batches[-1])
    return batches


def evaluation_batches(lengths: Ints, size: int) -> list[Ints]:
    """Return `batches_by_tokens` with the limit that suits this machine's device."""
    return batches_by_tokens(lengths, size, None if torch.cuda.is_available() else CPU_BATCH_TOKENS)


def worker_turns(batches: int, count: int, rank: int) -> list[int]:
    """Return the numbers of the batches that worker `rank` of `count` evaluates.

    Every worker gets the same number of batches, because the forward pass of a sharded model needs all workers. If the
    batches do not divide evenly, several workers evaluate the last one.
    """
    return [min(number, batches - 1) for number in range(rank, batches + -batches % count, count)]


def restore_order(batches: Sequence[NDArray[np.integer[Any]]], parts: Sequence[Floats]) -> Floats:
    """Return the scores of all batches as one array [rows, widest], in the original order of the rows."""
    table = np.zeros((sum(map(len, batches)), max(part.shape[1] for part in parts)), np.float32)
    for rows, part in zip(batches, parts, strict=True):
        table[rows, : part.shape[1]] = part
    return table
