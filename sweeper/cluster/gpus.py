"""Find out which GPUs this machine shows, and whether the installed PyTorch can use them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import takewhile
from pathlib import Path

from jobs.training.precision import Hardware
from sweeper.trial.gpu import ON_CPU, first_sentence

VISIBLE = "CUDA_VISIBLE_DEVICES"
PROBE_SECONDS = 120  # importing torch from a slow disk takes its time
# Files in /dev: one for each of NVIDIA's GPUs; those of NVIDIA's driver, of Windows' subsystem for Linux, of NVIDIA's
# boards, and of AMD's driver.
GPU_FILES = "nvidia[0-9]*"
DRIVER_FILES = ("nvidiactl", "dxg", "nvmap", "kfd")
LEAST_DRIVERS = {11: 450, 12: 525, 13: 580}  # by the major version of CUDA: the oldest driver on Linux
KERNEL = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")


@dataclass(frozen=True)
class Gpu:
    """Describe one GPU. `driver` and `capability` are None if nothing tells them."""

    name: str
    memory_bytes: int
    driver: str | None = None
    capability: tuple[int, int] | None = None

    def __str__(self) -> str:
        driver = f"driver {self.driver or 'not known'}"
        capability = "capability {}.{}".format(*self.capability) if self.capability else "capability not known"
        return f"{self.name}, {self.memory_bytes / 2**30:.1f} GiB, {driver}, {capability}"


@dataclass(frozen=True)
class GpuSurvey:
    """Hold what PyTorch and the driver tell about a machine's GPUs.

    cuda     version of CUDA that PyTorch was built for; None for another build
    rocm     PyTorch was built for AMD's GPUs
    kernels  names of what PyTorch holds machine code for, such as sm_90, and compute_90 for code of any later GPU
    trouble  why CUDA cannot be initialised; empty if it can
    present  GPUs of the machine that the driver shows, in the driver's order
    usable   GPUs that CUDA shows to this process, in CUDA's order
    failure  why PyTorch has told nothing; empty if it has
    cpu_bf16 the CPU has instructions for bfloat16; None if nothing tells it
    compilers languages, of C and C++, for which the machine has a compiler
    """

    torch: str = "torch"
    cuda: str | None = None
    rocm: bool = False
    kernels: tuple[str, ...] = ()
    trouble: str = ""
    present: tuple[Gpu, ...] = ()
    usable: tuple[Gpu, ...] = ()
    failure: str = ""
    cpu_bf16: bool | None = None
    compilers: tuple[str, ...] = ("C", "C++")

    @property
    def known(self) -> tuple[Gpu, ...]:
        """Return the GPUs that CUDA shows; if it shows none, those that the driver shows."""
        return self.usable or self.present

    @property
    def wheel(self) -> str:
        return f"torch {self.torch}" + (f" for CUDA {self.cuda}" if self.cuda else "")


def named_gpus(visible: str) -> int:
    """Return the number of GPUs that CUDA_VISIBLE_DEVICES names. CUDA ignores what follows -1.

    >>> named_gpus("0,2"), named_gpus(""), named_gpus("1,-1,2"), named_gpus("NoDevFiles")
    (2, 0, 1, 0)
    """
    names = takewhile(lambda name: name != "-1", map(str.strip, visible.split(",")))
    return len([name for name in names if name and name != "NoDevFiles"])  # Slurm's word for none


def shown_gpus(environ: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> int:
    """Return the number of GPUs that trials would use, whether they can or not. Imports torch in no case."""
    if VISIBLE in environ:
        return named_gpus(environ[VISIBLE])
    files = len(list(devices.glob(GPU_FILES)))
    if not files and not any((devices / name).exists() for name in DRIVER_FILES):
        return 0
    return len(survey_gpus().known) or files


@cache
def survey_gpus() -> GpuSurvey:
    """Ask PyTorch and the driver in a process of its own, since the driver of a sweep must not initialise CUDA."""
    # Without -P, this folder would come first on the import path and its modules would hide libraries.
    command = [sys.executable, "-P", str(Path(__file__).with_name("probe.py"))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, stdin=subprocess.DEVNULL)
        return read_survey(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return GpuSurvey(failure=f"has not answered for {PROBE_SECONDS} s")
    except (IndexError, ValueError):
        lines = done.stderr.strip().splitlines() or [f"its process ended with exit code {done.returncode}"]
        return GpuSurvey(failure=lines[-1])


def read_survey(text: str) -> GpuSurvey:
    """Return the survey that `probe.py` printed. Raises ValueError if it is none."""
    found = json.loads(text)
    present = tuple(
        Gpu(name, int(mib) * 2**20 if mib.isdecimal() else 0, driver, _capability(capability))
        for name, mib, driver, capability in found["driver"]
    )
    driver = present[0].driver if present else None  # a machine has one driver
    usable = tuple(Gpu(name, size, driver, (major, minor)) for name, size, (major, minor) in found["usable"])
    kernels = tuple(found["kernels"])
    whole = GpuSurvey(found["torch"], found["cuda"], found["rocm"], kernels, found["trouble"], present, usable)
    return replace(whole, cpu_bf16=found.get("cpu_bf16"), compilers=tuple(found.get("compilers", ("C", "C++"))))


def hardware(gpu: Gpu, survey: GpuSurvey) -> Hardware:
    """Return what decides in which precision a GPU trains. PyTorch 2.13 takes every AMD GPU to have bfloat16."""
    return Hardware("rocm" if survey.rocm else "cuda", gpu.name, gpu.capability or (0, 0), survey.rocm)


def _capability(text: str) -> tuple[int, int] | None:
    found = re.fullmatch(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def has_kernels(capability: tuple[int, int], kernels: Sequence[str]) -> bool:
    """Return True if a GPU of this capability can run one of the kernels.

    Machine code runs on later GPUs of the same major version, `compute_` code on all later ones. A letter at the end
    limits both: `a` to this capability, `f` to this major version.

    >>> has_kernels((8, 9), ["sm_75", "sm_86"]), has_kernels((7, 0), ["sm_75", "sm_86"])
    (True, False)
    """
    return any(_runs(capability, *found.groups()) for found in map(KERNEL.fullmatch, kernels) if found)


def _runs(capability: tuple[int, int], kind: str, major: str, minor: str, letter: str) -> bool:
    built = int(major), int(minor)
    if letter == "a":
        return capability == built
    return capability >= built and (capability[0] == built[0] or (kind == "compute" and not letter))


def gpu_problem(gpu: Gpu, survey: GpuSurvey) -> str | None:
    """Return why PyTorch has no kernels for a GPU that CUDA shows, or None."""
    if survey.rocm or not survey.kernels or gpu.capability is None or has_kernels(gpu.capability, survey.kernels):
        return None
    return f"{survey.wheel} has no kernels for it, only for {' '.join(survey.kernels)}"


def unusable_reason(survey: GpuSurvey, shown: int, visible: str | None) -> str | None:
    """Return in one line why trials cannot use the GPUs, with the cure; None if they can.

    shown    number of GPUs that trials would use
    visible  value of CUDA_VISIBLE_DEVICES; None if it is not set
    """
    named = f"{VISIBLE}={visible}" if visible is not None else None
    if survey.failure:
        return f"GPUs: PyTorch does not tell whether it can use them; {survey.failure}; repair it, {ON_CPU}"
    if not survey.known:
        return _without_gpus(survey, named)
    if not survey.usable:
        return _without_cuda(survey, named)
    if len(survey.usable) < shown:
        has = f"CUDA shows {len(survey.usable)}: {'; '.join(map(str, survey.usable))}"
        return f"GPUs: {named or 'Ray'} names {shown} and {has}; name existing ones in {VISIBLE}, {ON_CPU}"
    for number, gpu in enumerate(survey.usable):
        if problem := gpu_problem(gpu, survey):
            other = f"name others in {VISIBLE}, " if len(survey.usable) > 1 else ""
            return f"GPU {number}: {gpu}: {problem}; install a wheel of torch that has them, {other}{ON_CPU}"
    return None


def _without_gpus(survey: GpuSurvey, named: str | None) -> str:
    """Return why neither CUDA nor the driver shows a GPU."""
    told = f"; {survey.wheel} says: {first_sentence(survey.trouble)}" if survey.trouble else ""
    cause = f"{named} names a GPU and no driver shows one" if named else "the driver does not answer"
    cure = f"unset {VISIBLE}" if named else "check the driver with nvidia-smi"
    return f"GPUs: {cause} on this machine{told}; {cure}, {ON_CPU}"


def _without_cuda(survey: GpuSurvey, named: str | None) -> str:
    """Return why CUDA shows none of the GPUs that the driver shows."""
    gpu = survey.present[0]
    if survey.cuda is None:
        cure = "install its wheel for CUDA"
        return f"GPUs: {gpu}: torch {survey.torch} is built without CUDA and cannot use it; {cure}, {ON_CPU}"
    least = LEAST_DRIVERS.get(int(survey.cuda.partition(".")[0]))
    if least and gpu.driver and int(gpu.driver.partition(".")[0]) < least:
        cure = f"install driver {least} or newer, or a wheel of torch for an older CUDA"
        return f"GPUs: {gpu}: the driver is too old for {survey.wheel}; {cure}, {ON_CPU}"
    told = first_sentence(survey.trouble) or "CUDA shows no GPU"
    cure = f"correct {VISIBLE}" if named else "check the driver with nvidia-smi"
    return f"GPUs: {gpu}: {survey.wheel} cannot use it{f' with {named}' if named else ''}; {told}; {cure}, {ON_CPU}"
