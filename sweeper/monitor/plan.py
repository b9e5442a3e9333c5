"""Describe a sweep as text without running it: the space, the first configurations, the disk space it needs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from jobs.model.backbones import weight_bytes
from sweeper.cluster.capacity import Machine, idle_budget_lines, memory_text, reservations
from sweeper.ledger.database import open_storage
from sweeper.ledger.ledger import create_ledger
from sweeper.monitor.progress import short_value
from sweeper.space.cases import backbones, idle_lines, list_cases, max_epochs, max_evaluations
from sweeper.space.search_space import SearchSpace, searched_parameters
from sweeper.space.sections import MEDIAN_TRIALS, bracket_count

STATE_COPIES = 2  # the two moments of AdamW have the size of the weights each
RUNNING_CHECKPOINTS = 3  # of a running trial: its best, its newest, and the one that is being written


def plan_lines(space: SearchSpace, machine: Machine, first: int) -> Iterator[str]:
    """Yield the lines of the plan: branches of the space, concurrent trials, first configurations, disk space."""
    search = space.search
    goal = f"{space.objective} ({space.direction})"
    yield f"{space.name}: {search.trials} trials of {space.job} on {space.data}, by {goal}"
    for number, case in enumerate(list_cases(space), 1):
        yield f"branch {number}"
        yield from (f"  {name}: {domain}" for name, domain in case.domains.items())
    yield from idle_lines(space)
    yield from idle_budget_lines(space, machine)
    yield from (f"trials: {share.why(machine)}" for share in reservations(space, machine))
    if not machine.nodes:
        yield f"memory: {memory_text()} for all trials that run at once"
    yield early_stopping_line(space)
    if space.repeats:
        seeds = ", ".join(map(str, space.repeats.seeds))
        yield f"repeats: then the best {space.repeats.top} again, with seeds {seeds}"
    configurations = first_configurations(space, first)
    if configurations:
        yield configurations_title(len(configurations), space.search.trials)
    shown = dict.fromkeys(
        [*searched_parameters(space), *(name for settings in space.search.enqueue for name in settings)]
    )
    yield from (f"  {' '.join(f'{name}={short_value(params[name])}' for name in shown)}" for params in configurations)
    yield disk_forecast(space, max(share.slots for share in reservations(space, machine)))


def configurations_title(shown: int, trials: int) -> str:
    """Return the line above the first configurations of a sweep of `trials` trials.

    >>> configurations_title(5, 8)
    'first 5 configurations'
    """
    if shown == 1:
        return "the configuration" if trials == 1 else "first configuration"
    return f"first {shown} configurations"


def early_stopping_line(space: SearchSpace) -> str:
    rule = space.early_stopping
    if rule is None:
        return "early stopping: none"
    if rule.scheduler == "median":
        return (
            f"early stopping: median, from epoch {rule.grace_period} on trials below the median of at least "
            f"{MEDIAN_TRIALS} others end"
        )
    brackets = bracket_count(rule, max_epochs(space))
    first = [f"{rule.grace_period * rule.reduction_factor**nth}" for nth in range(brackets)]
    when = f"{first[0]} epochs" if brackets == 1 else f"{', '.join(first[:-1])} or {first[-1]} epochs, by its bracket,"
    return f"early stopping: {rule.scheduler}, after {when} the best 1/{rule.reduction_factor:g} go on"


def first_configurations(space: SearchSpace, count: int) -> list[dict[str, Any]]:
    """Return the parameters of the first trials, drawn before any result has influenced the sampler."""
    ledger = create_ledger(open_storage("sqlite:///:memory:"), space, space.name)
    records = iter(partial(ledger.ask, space), None)
    return [
        dict(record.params) for record, _ in zip(records, range(min(count, space.search.trials or count)), strict=False)
    ]


def disk_forecast(space: SearchSpace, slots: int) -> str:
    """Estimate the largest disk space of all checkpoints: those kept, which have weights alone, and those of running
    trials."""
    known = [size / 2**20 for size in map(weight_bytes, backbones(space)) if size is not None]
    if not known:
        return "disk: not known before the backbones are downloaded"
    running = max(known) * running_copies(max_evaluations(space))
    most = space.kept_checkpoints * max(known) + slots * running
    caveat = "" if len(known) == len(backbones(space)) else ", larger if a backbone that is not here yet is larger"
    return (
        f"disk: up to {most:,.0f} MiB: {max(known):,.0f} MiB for each kept checkpoint ({space.kept_checkpoints}), "
        f"{running:,.0f} MiB for each running trial ({slots}){caveat}"
    )


def running_copies(evaluations: int | None) -> int:
    """Return the size of a running trial's checkpoints at their largest, in sizes of its weights.

    All checkpoints but the last one of `evaluations` have training state. None means many evaluations.

    >>> running_copies(1), running_copies(2), running_copies(4)
    (1, 4, 9)
    """
    with_state = RUNNING_CHECKPOINTS if evaluations is None else min(evaluations - 1, RUNNING_CHECKPOINTS)
    return with_state * (1 + STATE_COPIES) + (with_state < RUNNING_CHECKPOINTS)
