"""Refuse a sweep whose trials lack something: a usable GPU, a precision of their device, a compiler for their model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jobs import get_job
from jobs.params import TrainingParams
from jobs.training.precision import Hardware, lacking
from sweeper.cluster.capacity import Machine, reservations, reserve
from sweeper.cluster.gpus import VISIBLE, GpuSurvey, hardware, survey_gpus, unusable_reason
from sweeper.cluster.sharing import largest_memory, taken_memory, weakest
from sweeper.errors import EnvironmentFailure
from sweeper.ledger.record import TrialRecord
from sweeper.space.cases import possible_resources, possible_with_resources
from sweeper.space.search_space import SearchSpace
from sweeper.trial.gpu import CHECK


def check_gpus(space: SearchSpace, machine: Machine) -> None:
    """Check the GPUs if a trial of this space reserves one, and that the devices have every precision that it names.

    Raises EnvironmentFailure if a trial cannot use the GPUs, would be refused for its precision, or finds no compiler.
    """
    checks = device_checks(space, machine)
    if reason := checks.reason_of_any_cpu():
        raise EnvironmentFailure(reason)
    every = "bf16" in checks.on_cpu or checks.compiled_on_cpu
    if not checks.gpus and not checks.compiled_on_gpu and not every:
        return  # PyTorch need not be started
    if machine.nodes:
        from sweeper.cluster.nodes import gpu_reasons

        reasons = gpu_reasons(checks.reason, every=every)
    else:
        reasons = list(filter(None, [checks.reason(survey_gpus(), machine.gpus, os.environ.get(VISIBLE))]))
    if reasons:
        raise EnvironmentFailure(reasons)


@dataclass(frozen=True)
class DeviceChecks:
    """Hold what a sweep asks of the devices.

    name     of the search space
    gpus     trials reserve GPUs, and these are checked
    on_gpu   precisions of the trials that reserve a GPU
    on_cpu   precisions of the others
    compiled_on_gpu, compiled_on_cpu  trials compile their model there
    """

    name: str
    gpus: bool
    on_gpu: Sequence[str]
    on_cpu: Sequence[str]
    compiled_on_gpu: bool = False
    compiled_on_cpu: bool = False

    def reason_of_any_cpu(self) -> str | None:
        """Return why trials on a CPU are refused, whatever the CPU is; None if they are not."""
        return self._lacking([one for one in self.on_cpu if one != "bf16"], Hardware())

    def reason(self, survey: GpuSurvey, shown: int, visible: str | None) -> str | None:
        """Return in one line why trials cannot train on a machine; None if they can. `unusable_reason` describes the
        arguments."""
        found = unusable_reason(survey, shown, visible) if self.gpus and shown else None
        cpu = Hardware(bf16=survey.cpu_bf16 is not False)
        lacks = (self._of_gpus(survey) if shown else None) or self._lacking(self.on_cpu, cpu)
        return found or lacks or self._without_compiler(survey, shown)

    def _without_compiler(self, survey: GpuSurvey, shown: int) -> str | None:
        wanted = (("C", "CC", self.compiled_on_gpu and shown), ("C++", "CXX", self.compiled_on_cpu))
        for language, variable, asked in wanted:
            if asked and language not in survey.compilers:
                cure = f"install gcc and g++, name a compiler in {variable}, or set torch_compile to false"
                return f"{self.name}: parameters.torch_compile: there is no {language} compiler; {cure}"
        return None

    def of_gpus(self, survey: GpuSurvey, shown: int, visible: str | None) -> str | None:
        """Return why trials with a GPU cannot train on a machine, whatever its CPU is; None if they can."""
        return replace(self, on_cpu=(), compiled_on_cpu=False).reason(survey, shown, visible)

    def _of_gpus(self, survey: GpuSurvey) -> str | None:
        lines = [self._lacking(self.on_gpu, hardware(gpu, survey)) for gpu in survey.usable] if self.gpus else []
        other = f", or name other GPUs in {VISIBLE}" if None in lines else ""
        return next((line + other for line in lines if line), None)

    def _lacking(self, precisions: Sequence[str], device: Hardware) -> str | None:
        mistake = next(filter(None, (lacking(one, device) for one in precisions)), None)
        return f"{self.name}: parameters.precision: {mistake}" if mistake else None


def device_checks(space: SearchSpace, machine: Machine) -> DeviceChecks:
    """Return what the trials of a space ask of the devices of this machine."""
    on_gpu, on_cpu = _values_by_device(space, machine, "precision")
    compiled = (True in values for values in _values_by_device(space, machine, "torch_compile"))
    checked = os.environ.get(CHECK) != "0" and any(one.gpus for one in reservations(space, machine))
    return DeviceChecks(space.name, checked, on_gpu, on_cpu, *compiled)


def _values_by_device(space: SearchSpace, machine: Machine, name: str) -> tuple[list[Any], list[Any]]:
    """Return the values that a parameter of TrainingParams can have in trials on a GPU, and those in trials on a CPU.

    Both are empty for a job with parameters of its own, where the name may mean anything.
    """
    if not issubclass(get_job(space.job).params, TrainingParams):
        return [], []
    wanted = [
        (value, bool(reserve(resources, machine, space.search.trials or 1).gpus))
        for value, resources in possible_with_resources(space, name)
    ]
    return [value for value, on_gpu in wanted if on_gpu], [value for value, on_gpu in wanted if not on_gpu]


def with_trial_memory(space: SearchSpace, machine: Machine, earlier: Iterable[TrialRecord]) -> Machine:
    """Return the machine with what `gpus: auto` needs to know: its GPUs, and the memory that a trial takes.

    earlier  trials of the same job; read only if a trial has `gpus: auto`
    """
    if not machine.gpus or not any(one and one.shares_gpus for one in possible_resources(space)):
        return machine
    memory = largest_memory(space, taken_memory(earlier))
    if machine.nodes:
        from sweeper.cluster.nodes import node_gpus

        gpus = node_gpus()
        nodes = tuple(replace(node, gpu=gpus.get(node.id)) for node in machine.nodes)
        return replace(machine, nodes=nodes, memory=memory)
    gpu = None if os.environ.get(CHECK) == "0" else weakest(survey_gpus().usable)
    return replace(machine, gpu=gpu, memory=memory)
