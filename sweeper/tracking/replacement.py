"""Replace a run whose values MLflow cannot change by a new one that shows the right values."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sweeper.tracking import client as tracking
from sweeper.tracking.differences import Differences
from sweeper.tracking.runs import REPLACES, RETIRED_METRICS, RunContent, StoredRun

NOTE = "mlflow.note.content"  # a description that a user wrote on the run's page


def registered_models(client: Any, run_id: str) -> list[str]:
    """Return the versions of registered models that were made from a run, as `qa version 2`."""
    found = client.search_model_versions(f"run_id='{run_id}'")
    return [f"{version.name} version {version.version}" for version in found]


def replace_run(
    client: Any, experiment_id: str, content: RunContent, stored: StoredRun, parent_id: str | None
) -> StoredRun:
    """Create a run for `content`, give it what users added to the stored run, and delete that one. Return the new run.

    After an interruption both runs exist; the next write keeps one and deletes the other.
    """
    made = tracking.create_run(client, experiment_id, content, parent_id, remote=False)
    tracking.log_values(client, additions(content, stored), made)
    copy_files(
        client, sorted(stored.files - {path.name for path in content.files} - content.texts.keys()), stored, made
    )
    client.set_tag(made.run_id, REPLACES, stored.run_id)
    tracking.discard_run(client, stored.run_id, made.run_id)
    return tracking.read_back(client, client.get_run(made.run_id))


def additions(content: RunContent, stored: StoredRun) -> Differences:
    """Return the params, tags and points of a run that do not come from the ledger."""
    own = {*content.metrics, *RETIRED_METRICS, *(point.key for point in content.points)}
    tags = {
        key: value for key, value in stored.tags.items() if key == NOTE or not key.startswith(("mlflow.", "sweeper."))
    }
    return Differences(
        points=tuple(point for key, points in stored.points.items() if key not in own for point in points),
        params={key: value for key, value in stored.params.items() if key not in content.params},
        tags={key: value for key, value in tags.items() if key not in content.tags},
    )


def copy_files(client: Any, names: Sequence[str], stored: StoredRun, made: StoredRun) -> None:
    """Copy artifacts, files or folders, to another run."""
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(client.download_artifacts(stored.run_id, name, folder))
            if path.is_dir():
                client.log_artifacts(made.run_id, str(path), name)
            else:
                client.log_artifact(made.run_id, str(path))
