"""Calculate how long parts of a trial take, from its work and from the speed of the device."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache

import numpy as np

from sweeper.cluster.devices import Device
from sweeper.forecast.work import Work

# Share of a GPU's published speed that training reaches. NVIDIA's DeepLearningExamples, BERT-large at 384 tokens: A100
# mixed 26 %, A100 TF32 29 %, V100 mixed 32 %, T4 fp16 24 %, T4 fp32 49 %.
REACHED = {"bf16": 0.27, "fp16": 0.27, "tf32": 0.29, "fp32": 0.49}
GEFORCE_REACHED = 0.5  # the published speed of a GeForce with sums in fp32 is half of its speed with sums in fp16
KERNELS_PER_LAYER = 93  # in a forward and a backward pass, counted for a BERT of 12 layers
LAUNCH_SECONDS = 6e-6  # a GPU waits about this long for each kernel if the kernels are small
# Of one CPU: share of the speed of matrix products that training reaches with wide models, width of a model that
# reaches half of that, and least seconds of a training step for each layer. Fitted to 1 to 6 layers on one machine.
CPU_REACHED, CPU_HALF_WIDTH, CPU_LAYER_SECONDS = 0.8, 100, 1.5e-3
PRODUCT_ROWS = 384  # of the matrices with which a CPU is measured
MEASURED_SECONDS = 0.1
CALCULATED_SPREAD = 1.7  # the true time is within this factor, up or down, of a calculated one
READ_BYTES_PER_SECOND = 5e8  # of weights, from a disk
WRITTEN_BYTES_PER_SECOND = 2e8  # of a checkpoint, hashed and synced
CHECKPOINT_BYTES = 12  # of each weight: the weight and two moments of AdamW, 4 bytes each
FIRST_START_SECONDS = 5.0  # of a process: to import torch and transformers
START_SECONDS = 0.5  # of the next trial in the same process


@dataclass(frozen=True)
class Rate:
    """Hold how fast a trial's device computes.

    flops       FLOP per second that training reaches with a wide model
    half_width  width of a model that reaches half of it
    layer_s     least seconds of a training step for each layer
    """

    flops: float
    half_width: int
    layer_s: float


@dataclass(frozen=True)
class TrialSeconds:
    """Hold the seconds that parts of a trial take.

    first       from the start of a process to the first step of its first trial
    start       the same for a later trial in the process
    epoch       of training
    evaluation  one evaluation, with its checkpoint
    spread      the true values are within this factor, up or down
    """

    first: float
    start: float
    epoch: float
    evaluation: float
    spread: float


# Stands for the calculated seconds of a trial that cannot be calculated. What is learned from others corrects it.
UNIT = TrialSeconds(FIRST_START_SECONDS, START_SECONDS, epoch=1.0, evaluation=1.0, spread=CALCULATED_SPREAD)


def gpu_rate(device: Device, precision: str) -> Rate | None:
    """Return the rate of a GPU in a precision; None if the device lacks it."""
    peak = device.peak_flops(precision)
    reached = GEFORCE_REACHED if device.name.startswith("RTX") else REACHED[precision]
    return Rate(reached * peak, 0, KERNELS_PER_LAYER * LAUNCH_SECONDS) if peak else None


def cpu_rate(cpus: float) -> Rate:
    """Return the rate of a trial with this number of CPUs of this machine."""
    return Rate(CPU_REACHED * cpu_flops() * max(1.0, cpus), CPU_HALF_WIDTH, CPU_LAYER_SECONDS)


@cache
def cpu_flops() -> float:
    """Return the FLOP per second of one CPU, measured with products of matrices for MEASURED_SECONDS.

    Time that the CPU gives to other processes does not count.
    """
    from threadpoolctl import threadpool_limits

    values, count = np.ones((PRODUCT_ROWS, PRODUCT_ROWS), np.float32), 0
    with threadpool_limits(1):
        began = time.process_time()
        while (taken := time.process_time() - began) < MEASURED_SECONDS:
            values @ values
            count += 1
    return count * 2 * PRODUCT_ROWS**3 / taken


def calculated_seconds(work: Work, rate: Rate) -> TrialSeconds:
    """Return the seconds of a trial by calculation."""
    speed = rate.flops * work.width / (work.width + rate.half_width)
    read, written = 4 * work.weights / READ_BYTES_PER_SECOND, CHECKPOINT_BYTES * work.weights / WRITTEN_BYTES_PER_SECOND
    epoch = work.train / speed + work.steps * work.layers * rate.layer_s
    evaluation = work.valid / speed + work.batches * work.layers * rate.layer_s / 3
    return TrialSeconds(
        FIRST_START_SECONDS + read, START_SECONDS + read, epoch, evaluation + written, CALCULATED_SPREAD
    )
