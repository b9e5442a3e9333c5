"""Find out how long the trials of a sweep take: from the ledger where it knows similar ones, else by calculation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jobs import get_job
from jobs.dataset.data import Data
from jobs.job import ParamError
from jobs.training.precision import Hardware, choose_precision
from sweeper.cluster.capacity import Machine, reservation_of
from sweeper.cluster.devices import Device
from sweeper.forecast.history import Sighting, learned_seconds, shape_of, sightings
from sweeper.forecast.speed import UNIT, Rate, TrialSeconds, calculated_seconds, cpu_rate, gpu_rate
from sweeper.forecast.work import Work, work_of
from sweeper.ledger.ledger import Ledger
from sweeper.space.search_space import SearchSpace

TRIALS = "the seconds of {count} earlier trial{plural}"
PROBED = "a probe of this machine"
OTHERS = ", with other backbones or lengths"
CALCULATION = "a calculation from the models' sizes and the speed of {device}"
COMPILE_SECONDS = 60.0  # of a small model on a CPU, in one trial
ASSUMED = "; sizes by the names of the backbones that are not here"


@dataclass(frozen=True)
class Calculation:
    """Calculate the seconds of trials of a space on its data.

    device    GPU of each trial, if its speed is known; None for this machine's CPUs
    hardware  what decides the precision
    """

    space: SearchSpace
    machine: Machine
    data: Data
    device: Device | None
    hardware: Hardware
    known: dict[tuple[Any, ...], Work | None] = field(default_factory=dict)

    def work(self, params: Mapping[str, Any]) -> Work | None:
        """Return the work of a trial with these params, counted once for each shape of trials."""
        key = (*shape_of(params), *(params.get(name) for name in ("effective_batch_size", "unanswered_share")))
        if key not in self.known:
            job = get_job(self.space.job)
            self.known[key] = work_of(job, job.params(**params), self.data)
        return self.known[key]

    def seconds(self, params: Mapping[str, Any]) -> TrialSeconds | None:
        """Return the seconds of a trial with these params; None if its job or its device is not known well enough."""
        work, rate = self.work(params), self._rate(params)
        if not (work and rate):
            return None
        found = calculated_seconds(work, rate)
        more = COMPILE_SECONDS if params.get("torch_compile") else 0.0
        return replace(found, first=found.first + more, start=found.start + more)

    def precision(self, params: Mapping[str, Any]) -> str | None:
        """Return the precision of a trial with these params; None if the device lacks it or the job has none."""
        try:
            return choose_precision(params.get("precision", "auto"), params.get("bf16"), [self.hardware]).name
        except ParamError:
            return None

    def place(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the conditions on which the time of a trial with these params depends."""
        reserved = reservation_of(self.space, params, self.machine)
        return {
            "device": self.hardware.name,
            "precision": self.precision(params),
            **{"cpus": reserved.cpus, "gpus": reserved.gpus, "workers": reserved.workers},
        }

    def assumes_sizes(self, configurations: Iterable[Mapping[str, Any]]) -> bool:
        return any(work.assumed for params in configurations if (work := self.work(params)))

    def _rate(self, params: Mapping[str, Any]) -> Rate | None:
        reserved = reservation_of(self.space, params, self.machine)
        if reserved.gpus:
            precision = self.precision(params)
            return gpu_rate(self.device, precision) if self.device and precision else None
        return cpu_rate(reserved.cpus * reserved.workers)


@dataclass(frozen=True)
class Experience:
    """Know the seconds of trials from recorded ones.

    seen    what was learned from the trials of the same job in the same place
    probed  how many of these come from probes
    """

    calculation: Calculation
    seen: Sequence[Sighting]
    probed: int = 0

    @property
    def shapes(self) -> set[tuple[Any, ...]]:
        return {one.shape for one in self.seen}

    def seconds(self, params: Mapping[str, Any]) -> TrialSeconds | None:
        """Return the seconds of a trial; None if they cannot be calculated and no trial of its shape was seen."""
        calculated = self.calculation.seconds(params)
        seen = self.seen if calculated else [one for one in self.seen if one.shape == shape_of(params)]
        return learned_seconds(calculated or UNIT, seen, params) if seen else calculated

    def source(self, configurations: Sequence[Mapping[str, Any]]) -> str:
        """Return in words from what the seconds of these trials are known."""
        if self.seen:
            same = all(shape_of(params) in self.shapes for params in configurations)
            trials = len(self.seen) - self.probed
            parts = [TRIALS.format(count=trials, plural="s" * (trials != 1))] * bool(trials) + [PROBED] * bool(
                self.probed
            )
            return " and ".join(parts) + ("" if same else OTHERS)
        device = self.calculation.device.name if self.calculation.device else "this machine's CPUs"
        assumed = ASSUMED if self.calculation.assumes_sizes(configurations) else ""
        return CALCULATION.format(device=device) + assumed


def experience(calculation: Calculation, ledgers: Iterable[Ledger]) -> Experience:
    """Return what the trials of these sweeps teach about trials of the calculation's space."""
    space = calculation.space
    same = [one for one in ledgers if one.attributes.get("job") == space.job and _has_data(one, space)]
    records = [record for ledger in same for record in ledger.records()]
    return Experience(calculation, sightings(records, calculation.place, lambda one: calculation.seconds(one) or UNIT))


def _has_data(ledger: Ledger, space: SearchSpace) -> bool:
    return bool(ledger.attributes.get("data_fingerprint") == space.data_fingerprint)
