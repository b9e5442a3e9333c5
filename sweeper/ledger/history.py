"""Change what Optuna stores of a trial's evaluations: remove those that are trained again, correct values per step.

Optuna 5.0 can neither remove a value nor change one of a finished trial, so its private tables are written directly,
each change in one transaction. `engine` is undocumented in optuna 5.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optuna.storages import RDBStorage
from optuna.storages._rdb.models import TrialIntermediateValueModel, TrialUserAttributeModel
from sqlalchemy import delete, insert
from sqlalchemy.engine import Connection

VALUES = TrialIntermediateValueModel.__table__
ATTRIBUTES = TrialUserAttributeModel.__table__


def remove_evaluations(storage: RDBStorage, trial_id: int, names: Sequence[str], kept: Mapping[int, float]) -> None:
    """Remove the user attributes `names` of a trial, and leave it the intermediate values `kept`, by step."""
    with storage.engine.begin() as connection:
        connection.execute(delete(ATTRIBUTES).where(ATTRIBUTES.c.trial_id == trial_id, ATTRIBUTES.c.key.in_(names)))
        _write_values(connection, trial_id, kept)


def write_values(storage: RDBStorage, trial_id: int, values: Mapping[int, float]) -> None:
    """Replace the intermediate values of a trial by `values`, by step."""
    with storage.engine.begin() as connection:
        _write_values(connection, trial_id, values)


def _write_values(connection: Connection, trial_id: int, values: Mapping[int, float]) -> None:
    connection.execute(delete(VALUES).where(VALUES.c.trial_id == trial_id))
    stored = {step: TrialIntermediateValueModel.intermediate_value_to_stored_repr(one) for step, one in values.items()}
    rows = [
        {"trial_id": trial_id, "step": step, "intermediate_value": number, "intermediate_value_type": kind}
        for step, (number, kind) in stored.items()
    ]
    if rows:
        connection.execute(insert(VALUES), rows)
