"""Convert the addresses in a ledger: those below the root or the project folder are stored relative to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.trial import FrozenTrial

from sweeper.ledger.record import EVALUATION
from sweeper.space.search_space import SearchSpace
from sweeper.storage.places import Places

DATA_IN_PROJECT = "data_in_project"  # the data folder, relative to the project folder


def data_attributes(space: SearchSpace, places: Places) -> dict[str, str | None]:
    """Return the attributes of a study that tell where its data is."""
    return {"data": space.data, DATA_IN_PROJECT: places.data_in_project(space.data)}


def present_attributes(stored: Mapping[str, Any], places: Places) -> Mapping[str, Any]:
    """Return a study's attributes with the data folder of the project in use, there and in the search space."""
    if "search_space" not in stored:  # the creation of the sweep was interrupted
        return stored
    data = places.data(stored["data"], stored.get(DATA_IN_PROJECT))
    return {**stored, "data": data, "search_space": {**stored["search_space"], "data": data}}


def present_evaluation(stored: Mapping[str, Any], places: Places, sweep: str, number: int) -> Mapping[str, Any]:
    """Return an evaluation of a trial with the present address of its checkpoint."""
    return {**stored, "checkpoint": places.checkpoint(stored["checkpoint"], sweep, number)}


def stored_trial(trial: FrozenTrial, places: Places) -> FrozenTrial:
    """Give the evaluations of an adopted trial the addresses that a ledger stores."""
    for key, value in trial.user_attrs.items():
        if key.startswith(EVALUATION):
            trial.set_user_attr(key, {**value, "checkpoint": places.stored_checkpoint(value["checkpoint"])})
    return trial
