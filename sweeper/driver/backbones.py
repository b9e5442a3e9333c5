"""Download the backbones of a search space and try them with its job on its data, before a sweep starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs import get_job
from jobs.backbone.source import NOT_HERE, backbone_is_here
from jobs.job import Job
from sweeper.errors import EnvironmentFailure
from sweeper.process.output import output_to
from sweeper.space.cases import backbones, largest_params
from sweeper.space.reading import check_relations
from sweeper.space.search_space import SearchSpace

Say = Callable[[str], object]


def check_backbones(space: SearchSpace, say: Say | None) -> None:
    """Download each backbone and try it with the largest params that the space has for it.

    say  shows lines about the backbones that are tried; None to try none

    Raises EnvironmentFailure with every backbone that cannot be loaded or that no trial could train, ConfigError for
    params that do not fit one.
    """
    mistakes = _fetch(space)
    if not mistakes:
        check_relations(space)  # checked again, since the limits of the backbones are known only after the download
    if say:
        sound = {name: params for name, params in largest_params(space).items() if name not in mistakes}
        mistakes |= _try(space, sound, say)
    _raise_any(mistakes)


def try_present_backbones(space: SearchSpace, say: Say) -> None:
    """Try the backbones that are on this machine, as `check_backbones` does, without the network."""
    present = {name: params for name, params in largest_params(space).items() if backbone_is_here(name)}
    with _without_network():
        mistakes = _try(space, present, say)
    _raise_any({name: mistake for name, mistake in mistakes.items() if NOT_HERE not in mistake})


def _fetch(space: SearchSpace) -> dict[str, str]:
    """Download each backbone. Returns the errors by backbone."""
    fetch, mistakes = get_job(space.job).fetch, {}
    for name in backbones(space):
        try:
            fetch(name)
        except RuntimeError as error:
            mistakes[name] = str(error)
    return mistakes


def _try(space: SearchSpace, chosen: Mapping[str, Any], say: Say) -> dict[str, str]:
    """Try each backbone with its params and say what was found. Returns the errors by backbone."""
    job, mistakes = get_job(space.job), {}
    names = [name for name in chosen if not name.startswith("scratch:")]
    if names and job.suits is not Job.suits:
        say(f"trying {', '.join(names)} with {space.job} on {space.data}")
    for name, params in chosen.items():
        try:
            with output_to(Path(os.devnull)):
                lines = job.suits(params, space.data)
        except RuntimeError as error:
            mistakes[name] = str(error)
        else:
            for line in lines:
                say(f"backbone {line}")
    return mistakes


def _raise_any(mistakes: Mapping[str, str]) -> None:
    if mistakes:
        raise EnvironmentFailure([f"backbone {mistake}" for mistake in mistakes.values()])


@contextmanager
def _without_network() -> Iterator[None]:
    """Keep Hugging Face's libraries from using the network."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
