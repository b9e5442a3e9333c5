"""MLflow, the view of the ledger: a parent run per sweep, below it a run per trial.

The only module that knows MLflow, but for its pages and its model registry. It decides nothing; all it writes can
be written again from the ledger without duplicates. MLflow is imported inside functions, since that takes two
seconds and the commands that never track do without.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import logging
import math
import os
import sqlite3
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

from sweeper.errors import EnvironmentFailure
from sweeper.secrets import redacted
from sweeper.storage.files import create_private, create_whole
from sweeper.storage.settings import Stores
from sweeper.tracking.runs import (
    LONGEST_TAG,
    REASON,
    SWEEP,
    Known,
    Record,
    SweepInfo,
    as_texts,
    missing_points,
    storable_text,
)

STATUSES = {
    "RUNNING": "RUNNING",
    "COMPLETE": "FINISHED",
    "PRUNED": "KILLED",
    "STOPPED": "KILLED",  # a sweep that was interrupted and can be resumed
    "FAIL": "FAILED",
}
SWITCHES = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # runs what is posted to it
    "MLFLOW_ENABLE_AI_GATEWAY": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # the client alone would retry a request for four minutes; Mirror tries again by itself and says so sooner
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
RUNS_PER_PAGE = 1000
METRICS_PER_BATCH, PARAMS_PER_BATCH, TAGS_PER_BATCH = 500, 40, 10  # a batch stays below a megabyte
PATIENCE = 5.0  # seconds a store has to answer before a sweep
VIEW = "sweeper"  # name of the saved view that `Mirror.page` opens

logger = logging.getLogger(__name__)
_T = TypeVar("_T")


@functools.cache
def mlflow_package() -> Any:
    """The package, silent on the terminal: its log lines go to whoever handles the root logger."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        # MLflow's tables use a loader that SQLAlchemy 2.1 calls deprecated as they are imported
        warnings.simplefilter("ignore")
        import mlflow
        import mlflow.store.tracking.sqlalchemy_store
    for name in ("mlflow", "alembic", "sqlalchemy.engine"):
        logging.getLogger(name).handlers = [logging.NullHandler()]
        logging.getLogger(name).propagate = True
    return mlflow


def client_of(tracking_uri: str) -> Any:
    """A client, whose model registry is in the same store."""
    create_store(tracking_uri)
    return _client(tracking_uri)


def create_store(tracking_uri: str) -> None:
    """Make a SQLite address's file where it is missing, which takes two seconds. MLflow itself would make it readable
    by everyone, and never open one again whose making was cut short. Raises OSError."""
    if tracking_uri.startswith("sqlite:///"):
        file = Path(tracking_uri.removeprefix("sqlite:///").partition("?")[0])
        create_whole(file, lambda address: _client(address).search_experiments(max_results=1))


def _client(tracking_uri: str) -> Any:
    return mlflow_package().MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def ranked_view_state(sweep: SweepInfo) -> str:
    """A saved view of MLflow's run table, best trial first; the table alone shows no metric."""
    best = f"metrics.`best_{sweep.objective}`"
    columns = [best, *(f"params.`{name}`" for name in sweep.columns), "attributes.`Duration`"]
    view = {
        "searchFilter": "tags.`sweeper.kind` = 'trial'",
        "orderByKey": best,
        "orderByAsc": sweep.direction == "min",
        "selectedColumns": columns,
    }
    return json.dumps(view)


def open_experiment(client: Any, name: str, artifacts: str | None, view: str) -> str:
    tags = {
        f"mlflow.sharedViewState.{VIEW}": view,
        "mlflow.experimentKind": "custom_model_development",  # else the pages ask what kind this is
    }
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        create_private(artifacts or "")
        return str(client.create_experiment(name, artifact_location=artifacts, tags=tags))
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    for key, value in tags.items():
        if experiment.tags.get(key) != value:
            client.set_experiment_tag(experiment.experiment_id, key, value)
    return str(experiment.experiment_id)


def find_run(client: Any, experiment_id: str, identity: Mapping[str, str]) -> Any | None:
    """The run with these tags, the fullest if there are several; the others are deleted.

    Several come about when the answer to a create request is lost and the client sends it again.
    """
    condition = " and ".join(f"tags.`{key}` = {_quoted(value)}" for key, value in identity.items())
    return fullest(client, client.search_runs([experiment_id], condition))


def fullest(client: Any, runs: Sequence[Any]) -> Any | None:
    fullest, *others = sorted(runs, key=lambda run: (-len(run.data.metrics), run.info.run_id)) or [None]
    for run in others:
        client.delete_run(run.info.run_id)
    return fullest


def trial_runs(client: Any, experiment_id: str, sweep_key: str) -> dict[str, list[Any]]:
    """All runs of a sweep's trials by trial key, in few requests. A request for each would read every tag of the
    sweep each time: MLflow has no index on their values."""
    found: dict[str, list[Any]] = {}
    condition, token = f"tags.`sweeper.sweep_key` = {_quoted(sweep_key)}", None
    while True:
        page = client.search_runs([experiment_id], condition, max_results=RUNS_PER_PAGE, page_token=token)
        for run in page:
            found.setdefault(run.data.tags.get("sweeper.trial_key", SWEEP), []).append(run)
        if not (token := page.token):
            return found


def _quoted(value: str) -> str:
    """`value` for a search; MLflow's language cannot escape a quote, and a sweep's key may be a path."""
    return f'"{value}"' if "'" in value else f"'{value}'"


def create_run(client: Any, experiment_id: str, record: Record, parent_id: str | None, remote: bool) -> Known:
    tags = {**record.identity, **({"mlflow.parentRunId": parent_id} if parent_id else {})}
    created = client.create_run(
        experiment_id, start_time=record.started, tags=tags, run_name=storable_text(record.name, LONGEST_TAG)
    )
    if not remote:  # nothing sends a request twice
        return Known(created.info.run_id, created.info.status, dict(created.data.tags))
    return read_back(client, find_run(client, experiment_id, record.identity) or created)


def read_back(client: Any, run: Any) -> Known:
    run_id = run.info.run_id
    history = {key: client.get_metric_history(run_id, key) for key in run.data.metrics}
    return Known(
        run_id=run_id,
        status=run.info.status,
        tags=dict(run.data.tags),
        params=set(run.data.params),
        steps={key: {point.step for point in points} for key, points in history.items()},
        latest=dict(run.data.metrics),
        files={file.path for file in client.list_artifacts(run_id)},
    )


def write_run(client: Any, record: Record, known: Known) -> None:
    """Bring the run into agreement with `record`; its status last, so that FINISHED means complete."""
    _log_values(client, record, known)
    _log_files(client, record, known)
    status = STATUSES[record.state]
    if status == known.status:
        return
    if status == "RUNNING":
        client.update_run(known.run_id, status)
    else:
        client.set_terminated(known.run_id, status, record.ended)
    known.status = status


def _log_values(client: Any, record: Record, known: Known) -> None:
    entities = mlflow_package().entities
    points = missing_points(record, known, now=int(1000 * time.time()))
    params = {key: value for key, value in record.params.items() if key not in known.params}
    tags = {key: value for key, value in record.tags.items() if known.tags.get(key) != value}
    batches = zip_longest(
        _chunks([entities.Metric(p.key, p.value, p.timestamp, p.step) for p in points], METRICS_PER_BATCH),
        _chunks([entities.Param(*param) for param in params.items()], PARAMS_PER_BATCH),
        _chunks([entities.RunTag(*tag) for tag in tags.items()], TAGS_PER_BATCH),
        fillvalue=(),
    )
    for metrics_batch, params_batch, tags_batch in batches:
        client.log_batch(known.run_id, metrics_batch, params_batch, tags_batch)
    for point in points:
        known.steps.setdefault(point.key, set()).add(point.step)
        known.latest[point.key] = point.value
    if REASON in known.tags.keys() - record.tags.keys():  # what failed once runs again
        client.delete_tag(known.run_id, REASON)
        del known.tags[REASON]
    known.params |= params.keys()
    known.tags |= tags


def _log_files(client: Any, record: Record, known: Known) -> None:
    for name, text in record.texts.items():
        if known.texts.get(name) != text:
            client.log_text(known.run_id, text, name)
            known.texts[name] = text
    for path in record.files:
        if path.name in known.files:
            continue
        if not path.is_file():
            logger.warning("%s: no longer there, its run %r goes without", path, record.name)
            continue
        client.log_artifact(known.run_id, str(path))
        known.files.add(path.name)


def _chunks(items: Sequence[_T], size: int) -> list[Sequence[_T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def one_line(error: Exception) -> str:
    """What went wrong: at the bottom, where a socket or SQLite says it shortest, else what MLflow says."""
    bottom: BaseException = error
    while inner := bottom.__cause__ or bottom.__context__:
        bottom = inner
    told = bottom if isinstance(bottom, OSError | sqlite3.Error) else error
    return redacted(" ".join(str(told).split()) or type(told).__name__)[:300]


def check_store(stores: Stores) -> None:
    """Open MLflow's store as a sweep would, preparing a new database (two seconds).

    Raises EnvironmentFailure within seconds when that fails.
    """
    if (stores.artifacts or "").startswith("s3:") and importlib.util.find_spec("boto3") is None:
        raise EnvironmentFailure(f"artifacts at {stores.artifacts}: boto3 is not installed; pip install boto3")
    connect(stores)


def log_single_run(
    stores: Stores,
    experiment: str,
    name: str,
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    files: Sequence[Path],
) -> str:
    """A finished run in an experiment beside those of the sweeps; returns its id. Raises EnvironmentFailure."""
    client = connect(stores)
    with answering(stores):
        found = client.get_experiment_by_name(experiment)
        if found is None:
            create_private(stores.artifacts or "")
        experiment_id = (
            found.experiment_id if found else client.create_experiment(experiment, artifact_location=stores.artifacts)
        )
        run_id = str(client.create_run(experiment_id, run_name=name, tags=as_texts(tags, LONGEST_TAG)).info.run_id)
        for key, value in metrics.items():
            client.log_metric(run_id, key, value)
        for path in files:
            client.log_artifact(run_id, str(path))
        client.set_terminated(run_id)
        return run_id


def connect(stores: Stores) -> Any:
    """MLflow's client, once the store has answered. Raises EnvironmentFailure within seconds when it does not."""
    with answering(stores):
        create_store(stores.tracking)
        _probe(stores.tracking)
        with _setup_lock(stores.tracking):
            client = client_of(stores.tracking)
            client.search_experiments(max_results=1)
        return client


def _setup_lock(tracking_uri: str) -> contextlib.AbstractContextManager[None]:
    """MLflow lets only the processes of one machine take turns at making its tables."""
    if not tracking_uri.startswith("postgresql"):
        return contextlib.nullcontext()
    from sweeper.storage import postgres

    return postgres.database_lock(tracking_uri, "mlflow")


@contextlib.contextmanager
def answering(stores: Stores) -> Iterator[None]:
    """Turns whatever goes wrong in talking with MLflow's store into an EnvironmentFailure of one line."""
    try:
        yield
    except EnvironmentFailure:
        raise
    except Exception as error:
        raise EnvironmentFailure(
            f"MLflow at {redacted(stores.tracking)}: {one_line(error)}; {_mlflow_cure(error, stores)}, or name "
            "another store in mlflow.ini: [mlflow] tracking_uri"
        ) from None


def _mlflow_cure(error: Exception, stores: Stores) -> str:
    if isinstance(error, ImportError):
        return f"`pip install {'psycopg[binary]' if error.name == 'psycopg' else error.name}`"
    return "start or unblock it" if stores.remote else "free it, repair it or move it away"


def _probe(tracking_uri: str) -> None:
    """Fail within PATIENCE seconds where MLflow would try for minutes: it retries whatever goes wrong."""
    if tracking_uri.startswith("sqlite:"):
        database = sqlite3.connect(tracking_uri.removeprefix("sqlite:///").partition("?")[0], timeout=PATIENCE)
        try:
            database.execute("BEGIN IMMEDIATE")
        finally:
            database.close()
    elif tracking_uri.startswith("http"):
        import requests

        # a certificate is judged by MLflow's client, which has settings for that
        with contextlib.suppress(requests.exceptions.SSLError):
            requests.get(f"{tracking_uri}/health", timeout=PATIENCE).close()
    else:
        import sqlalchemy

        engine = sqlalchemy.create_engine(tracking_uri, connect_args={"connect_timeout": math.ceil(PATIENCE)})
        engine.connect().close()
        engine.dispose()
