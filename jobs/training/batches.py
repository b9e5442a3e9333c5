"""Group rows of like length into batches and divide them over the workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

Batch = Mapping[str, torch.Tensor]
Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


class WorkerBatch(NamedTuple):
    """One worker's batch, of an optimizer step's rows.

    weight  what the mean loss of its rows counts for, so that the mean over all workers of what a worker's batches
            of a step add up to is the mean loss of the step's rows
    """

    rows: Sequence[int]
    weight: float


WEIGHT = "weight"


class InputDataset(Dataset[int]):  # type: ignore[misc]
    """Some inputs of a task by their numbers, and the function from numbers to a batch of tensors.

    PyTorch asks a dataset that has `__getitems__` for a whole batch at once, with what the batch sampler gives.
    """

    def __init__(self, numbers: Sequence[int], lengths: Ints, collate: Callable[[Sequence[int]], Batch]) -> None:
        self.numbers = numbers
        self.lengths = lengths
        self.collate = collate

    def __len__(self) -> int:
        return len(self.numbers)

    def batch(self, rows: Sequence[int] | Ints) -> Batch:
        return self.collate([int(self.numbers[row]) for row in rows])

    def __getitem__(self, row: int) -> Any:
        return self.batch([row])

    def __getitems__(self, share: WorkerBatch) -> Mapping[str, Any]:
        return {**self.batch(share.rows), WEIGHT: share.weight}


def keep_batch(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """The collate function for Inputs, whose batches come collated."""
    return batch


POOL_BATCHES = 50  # batches that are sorted together, at most, as in Trainer's own way of grouping


def batched_by_length(lengths: Ints, size: int, seed: int, epoch: int) -> Ints:
    """Every row once, so that each `size` in turn are alike in length, and the batches come in random order.

    Rows are shuffled, sorted within pools of batches, at least four pools where there are enough rows, and cut
    into batches. The incomplete batch is the last.
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
    """Every row once, in random order."""
    return np.random.default_rng([seed, epoch]).permutation(len(lengths))


ORDERS = {"group_by_length": batched_by_length, "random": shuffled}


def split_step(rows: Ints, most: int, count: int) -> list[list[WorkerBatch]]:
    """The rows of one optimizer step for each of `count` workers, in as many batches each: of at most `most` rows,
    alike in size, each row once. A worker for which no row is left repeats one, which counts nothing."""
    parts = np.array_split(rows, count * -(-len(rows) // (most * count)))
    weighed = [
        WorkerBatch(part.tolist() or rows[:1].tolist(), count * len(part) / len(rows))  # every worker steps as often
        for part in parts
    ]
    return [weighed[rank::count] for rank in range(count)]


class WorkerSampler(Sampler[WorkerBatch]):  # type: ignore[misc]
    """One worker's batches of an epoch, of `order(epoch)` in steps of `size` rows. They depend on that alone, so that
    a training that goes on in the middle of an epoch sees the rest of it."""

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
    """A DataLoader whose batch sampler is told of epochs, as Trainer does it."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)


CPU_BATCH_TOKENS = 1024  # tokens whose activations stay near a CPU: 32 inputs of 512 at once took 1.4 times as long


def batches_by_tokens(lengths: Ints, size: int, most: int | None = None) -> list[Ints]:
    """All rows, the longest first, in batches of as many tokens, with their padding, as `size` of the longest have;
    of `most` tokens where that is given and less, but one row at least."""
    order = np.argsort(-lengths, kind="stable")
    whole = size * int(lengths.max(initial=1))
    budget, at = min(whole, most or whole), 0
    batches: list[Ints] = []
    while at < len(order):
        batches.append(order[at : at + max(1, budget // int(lengths[order[at]]))])
        at += len(batches[-1])
    return batches


def evaluation_batches(lengths: Ints, size: int) -> list[Ints]:
    """`batches_by_tokens` for the device there is."""
    return batches_by_tokens(lengths, size, None if torch.cuda.is_available() else CPU_BATCH_TOKENS)


def worker_turns(batches: int, count: int, rank: int) -> list[int]:
    """The numbers of the batches that one of `count` workers evaluates. Each takes as many, since a sharded model
    gives its output to all or none: where there are too few, the last is taken more than once."""
    return [min(number, batches - 1) for number in range(rank, batches + -batches % count, count)]


def restore_order(batches: Sequence[NDArray[np.integer[Any]]], parts: Sequence[Floats]) -> Floats:
    """The rows of all batches, each where it came from, as wide as the widest."""
    table = np.zeros((sum(map(len, batches)), max(part.shape[1] for part in parts)), np.float32)
    for rows, part in zip(batches, parts, strict=True):
        table[rows, : part.shape[1]] = part
    return table
