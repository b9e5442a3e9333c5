"""Read and write MLflow's experiments and runs: a parent run per sweep, with a child run per trial.
Writing a run twice adds no duplicates. Imports MLflow inside functions, since the import takes two seconds."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import logging
import math
import os
import sqlite3
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from tempfile import gettempdir
from typing import Any, TypeVar

from jobs.files import causes, free_space_text
from sweeper.errors import EnvironmentFailure
from sweeper.secrets import redacted
from sweeper.storage.files import create_private, create_whole
from sweeper.storage.identity import places_of, stores_in_use
from sweeper.storage.locks import lockless_cause, lockless_line
from sweeper.storage.settings import Stores
from sweeper.tracking.differences import STATUSES, Differences, differences, with_tags
from sweeper.tracking.runs import (
    BEST,
    REPLACED_BY,
    SWEEP,
    TAG_CHARS,
    Point,
    RunContent,
    StoredRun,
    SweepInfo,
    storable_texts,
)

SWITCHES = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # else the server would run code that a client sends
    "MLFLOW_ENABLE_AI_GATEWAY": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # By default MLflow retries a request for four minutes. Mirror retries itself and reports the failure sooner.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
RUNS_PER_PAGE = 1000
METRICS_PER_BATCH, PARAMS_PER_BATCH, TAGS_PER_BATCH = 500, 40, 10  # a batch stays below a megabyte
PROBE_SECONDS = 5.0  # time in which a store must answer before a sweep starts
CAUSE_CHARS = 300

logger = logging.getLogger(__name__)
_T = TypeVar("_T")


@functools.cache
def mlflow_package() -> Any:
    """Import MLflow and return it. Its log lines go to the root logger instead of the terminal."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        # Importing the tables of mlflow 3.17 makes SQLAlchemy 2.1 warn of a deprecated loader.
        warnings.simplefilter("ignore")
        import mlflow
        import mlflow.store.tracking.sqlalchemy_store  # undocumented in mlflow 3.17: only to silence that warning
    for name in ("mlflow", "alembic", "sqlalchemy.engine"):
        logging.getLogger(name).handlers = [logging.NullHandler()]
        logging.getLogger(name).propagate = True
    return mlflow


def client_of(tracking_uri: str) -> Any:
    """Return a client of the store, which is created if it is missing. Its model registry is in the same store."""
    create_store(tracking_uri)
    return _client(tracking_uri)


def create_store(tracking_uri: str) -> None:
    """Create the database file of a SQLite address if it is missing; this takes two seconds. Raises OSError.

    MLflow would create a file that everyone can read and that it cannot open again after an interruption.
    """
    if tracking_uri.startswith("sqlite:///"):
        file = Path(tracking_uri.removeprefix("sqlite:///").partition("?")[0])
        create_whole(file, lambda address: _client(address).search_experiments(max_results=1))


def _client(tracking_uri: str) -> Any:
    return mlflow_package().MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def ranked_view_state(sweep: SweepInfo) -> str:
    """Return the JSON of a saved view of MLflow's run table: the sweep's trials, best first, searched parameters as
    columns."""
    best = f"metrics.`{BEST}{sweep.objective}`"
    params = (f"params.`{name}`" for name in sweep.columns)
    columns = [best, "tags.`sweeper.state`", *params, "tags.`sweeper.epochs`", "tags.`sweeper.seconds`"]
    view = {
        "searchFilter": f"tags.`sweeper.kind` = 'trial' AND tags.`sweeper.sweep_key` = {_search_quoted(sweep.key)}",
        "orderByKey": best,
        "orderByAsc": sweep.direction == "min",
        "selectedColumns": columns,
    }
    return json.dumps(view)


def open_experiment(client: Any, name: str, artifacts: str | None, sweep: SweepInfo) -> str:
    """Create or restore an experiment, save the view of a sweep in its tags and return its id.

    An experiment that a user has renamed is known by the sweep's run in it.
    """
    tags = {
        # Undocumented tags of mlflow 3.17, which its pages read. There is no other interface for a saved view.
        f"mlflow.sharedViewState.{sweep.name}": ranked_view_state(sweep),
        "mlflow.experimentKind": "custom_model_development",  # else the pages ask for the kind
    }
    experiment = client.get_experiment_by_name(name) or _experiment_of(client, sweep.run_id)
    if experiment is None:
        create_private(artifacts or "")
        return str(client.create_experiment(name, artifact_location=artifacts, tags=tags))
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    for key, value in tags.items():
        if experiment.tags.get(key) != value:
            client.set_experiment_tag(experiment.experiment_id, key, value)
    return str(experiment.experiment_id)


def own_experiment(name: str, stores: Stores) -> str:
    """Return the name of the experiment for the runs of this root.

    MLflow stores a run's files in its experiment's folder. If a copy shares the database with its original, but not the
    folder of files, it needs an experiment of its own.
    """
    places = places_of(stores)
    return f"{name}-copy-{places.runs}" if places.runs and places.holds(stores.artifacts or "") else name


def _experiment_of(client: Any, run_id: str | None) -> Any | None:
    """Return the experiment of a run; None if the run is gone."""
    run = known_run(client, run_id)
    return client.get_experiment(run.info.experiment_id) if run else None


def find_run(client: Any, experiment_id: str, identity: Mapping[str, str]) -> Any | None:
    """Return the run with these tags, or None. Of several runs, keep one and delete the others."""
    condition = " and ".join(f"tags.`{key}` = {_search_quoted(value)}" for key, value in identity.items())
    return keep_one_run(client, client.search_runs([experiment_id], condition))


def keep_one_run(client: Any, runs: Sequence[Any], known: str | None = None) -> Any | None:
    """Return one run and delete the others; None if there are no runs.

    The run `known` comes first, then the one with most metrics. A run that was replaced before, which comes back when
    its experiment is restored, comes last. A client creates a second run when it gets no answer to its create request
    and sends it again.
    """
    kept, *others = sorted(
        runs,
        key=lambda run: (
            REPLACED_BY in run.data.tags,
            run.info.run_id != known,
            -len(run.data.metrics),
            run.info.run_id,
        ),
    ) or [None]
    for run in others:
        discard_run(client, run.info.run_id, kept.info.run_id)
    return kept


def discard_run(client: Any, run_id: str, kept_id: str) -> None:
    """Delete a run, with a tag that names the run to look at."""
    client.set_tag(run_id, REPLACED_BY, kept_id)
    client.delete_run(run_id)


def sweep_runs(client: Any, experiment_id: str, sweep_key: str) -> dict[str, list[Any]]:
    """Return the runs of a sweep by trial key, its own run by SWEEP, deleted runs included, 1,000 runs per request.

    MLflow has no index on tag values. With one request per trial, each would read every tag of the sweep.
    """
    found: dict[str, list[Any]] = {}
    condition, token = f"tags.`sweeper.sweep_key` = {_search_quoted(sweep_key)}", None
    every = mlflow_package().entities.ViewType.ALL
    while True:
        page = client.search_runs([experiment_id], condition, every, max_results=RUNS_PER_PAGE, page_token=token)
        for run in page:
            found.setdefault(run.data.tags.get("sweeper.trial_key", SWEEP), []).append(run)
        if not (token := page.token):
            return found


def known_run(client: Any, run_id: str | None) -> Any | None:
    """Return the run that the ledger knows, whatever its tags say; None if it is gone."""
    if run_id is None:
        return None
    try:
        return client.get_run(run_id)
    except mlflow_error() as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _search_quoted(value: str) -> str:
    """Return `value` in quotes for a search. MLflow's search language cannot escape a quote."""
    return f'"{value}"' if "'" in value else f"'{value}'"


def create_run(client: Any, experiment_id: str, content: RunContent, parent_id: str | None, remote: bool) -> StoredRun:
    """Create a run below the run `parent_id` and return it as a StoredRun."""
    tags = with_tags(replace(content, tags={}), parent_id).tags
    created = client.create_run(experiment_id, start_time=content.started, tags=tags, run_name=content.name)
    # duplicates come only from HTTP requests that were sent again
    run = (find_run(client, experiment_id, content.identity) if remote else None) or created
    return read_back(client, run)


def read_back(client: Any, run: Any) -> StoredRun:
    """Return what a run shows in MLflow, but for the contents of its artifacts."""
    run_id, info = run.info.run_id, run.info
    points = {
        key: [Point(key, one.value, one.step, one.timestamp) for one in client.get_metric_history(run_id, key)]
        for key in run.data.metrics
    }
    return StoredRun(
        run_id=run_id,
        status=info.status,
        name=info.run_name,
        tags=dict(run.data.tags),
        params=dict(run.data.params),
        points=points,
        files={file.path for file in client.list_artifacts(run_id)},
        started=info.start_time,
        ended=info.end_time,
    )


def write_run(client: Any, content: RunContent, stored: StoredRun) -> list[str]:
    """Write the part of `content` that the stored run lacks. Return a phrase for each difference.

    The status is written last: FINISHED means that the run is complete.
    """
    found = differences(content, stored)
    log_values(client, found, stored)
    files = _log_files(client, content, stored)
    if found.renamed:
        client.update_run(stored.run_id, name=content.name)
        stored.name = content.name
    status = STATUSES[content.state]
    if found.end and status == "RUNNING":
        client.update_run(stored.run_id, status)
    elif found.end:
        client.set_terminated(stored.run_id, status, content.ended)
        stored.ended = content.ended
    stored.status = status
    return [*found.lines, *files]


def log_values(client: Any, found: Differences, stored: StoredRun) -> None:
    """Write points, params and tags to a run, and remove stale tags."""
    entities, now = mlflow_package().entities, int(1000 * time.time())
    batches = zip_longest(
        _chunks([entities.Metric(p.key, p.value, p.timestamp or now, p.step) for p in found.points], METRICS_PER_BATCH),
        _chunks([entities.Param(*param) for param in found.params.items()], PARAMS_PER_BATCH),
        _chunks([entities.RunTag(*tag) for tag in found.tags.items()], TAGS_PER_BATCH),
        fillvalue=(),
    )
    for metrics_batch, params_batch, tags_batch in batches:
        client.log_batch(stored.run_id, metrics_batch, params_batch, tags_batch)
    for point in found.points:
        stored.points.setdefault(point.key, []).append(point)
    for tag in found.stale:  # for example the reason of a failed trial that runs again
        client.delete_tag(stored.run_id, tag)
        del stored.tags[tag]
    stored.params |= found.params
    stored.tags |= found.tags


def _log_files(client: Any, content: RunContent, stored: StoredRun) -> list[str]:
    """Store the artifacts that are missing or differ. Return a phrase for each."""
    wanted = {name: text.encode() for name, text in content.texts.items()}
    for path in content.files:
        if path.is_file():
            wanted[path.name] = path.read_bytes()
        elif path.name not in stored.files:
            logger.warning("%s: file is gone; run %r is stored without it", path, content.name)
    lines = []
    for name, value in wanted.items():
        if stored_content(client, stored, name) != value:
            lines.append(f"file {name} {'differed' if name in stored.files else 'was missing'}")
            log_content(client, stored.run_id, name, value)
            stored.contents[name] = value
            stored.files.add(name)
    return lines


def stored_content(client: Any, stored: StoredRun, name: str) -> bytes | None:
    """Return the content of an artifact, read once; None if the run has none of this name or it cannot be read."""
    if name in stored.files and name not in stored.contents:
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(OSError, mlflow_error()):
            stored.contents[name] = Path(client.download_artifacts(stored.run_id, name, folder)).read_bytes()
    return stored.contents.get(name)


def mlflow_error() -> Any:
    """Return the class of MLflow's errors."""
    return mlflow_package().exceptions.MlflowException


def log_content(client: Any, run_id: str, name: str, content: bytes) -> None:
    """Store an artifact below the name given, in place of an earlier one."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, Path(name).name)
        file.write_bytes(content)
        client.log_artifact(run_id, str(file))


def _chunks(items: Sequence[_T], size: int) -> list[Sequence[_T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def cause_line(error: Exception) -> str:
    """Return the cause in one line: the innermost error of a socket or of SQLite, else MLflow's message."""
    bottom: BaseException = error
    while inner := bottom.__cause__ or bottom.__context__:
        bottom = inner
    told = bottom if isinstance(bottom, OSError | sqlite3.Error) else error
    return redacted(" ".join(str(told).split()) or type(told).__name__)[:CAUSE_CHARS]


def check_store(stores: Stores) -> None:
    """Open MLflow's store as a sweep does; a new database is created (two seconds).

    Raises EnvironmentFailure within seconds when the store does not answer.
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
    """Write a finished run that belongs to no sweep and return its id. Raises EnvironmentFailure."""
    stores = stores_in_use(stores)
    experiment, client = own_experiment(experiment, stores), connect(stores)
    with mlflow_errors(stores):
        found = client.get_experiment_by_name(experiment)
        if found is None:
            create_private(stores.artifacts or "")
        experiment_id = (
            found.experiment_id if found else client.create_experiment(experiment, artifact_location=stores.artifacts)
        )
        run_id = str(client.create_run(experiment_id, run_name=name, tags=storable_texts(tags, TAG_CHARS)).info.run_id)
        for key, value in metrics.items():
            client.log_metric(run_id, key, value)
        for path in files:
            client.log_artifact(run_id, str(path))
        client.set_terminated(run_id)
        return run_id


def connect(stores: Stores) -> Any:
    """Return MLflow's client after its store has answered. Raises EnvironmentFailure after PROBE_SECONDS.

    A copied or moved root is adapted first: a copy made of hard links has its database replaced then.
    """
    if stores.root.exists():
        stores_in_use(stores)
    with mlflow_errors(stores):
        create_store(stores.tracking)
        _probe(stores.tracking)
        with _setup_lock(stores.tracking):
            client = client_of(stores.tracking)
            client.search_experiments(max_results=1)
        return client


def _setup_lock(tracking_uri: str) -> contextlib.AbstractContextManager[None]:
    """Return a lock for the creation of MLflow's tables. MLflow's own lock works only on one machine."""
    if not tracking_uri.startswith("postgresql"):
        return contextlib.nullcontext()
    from sweeper.storage import postgres

    return postgres.database_lock(tracking_uri, "mlflow")


@contextlib.contextmanager
def mlflow_errors(stores: Stores) -> Iterator[None]:
    """Raise any error of MLflow's store as an EnvironmentFailure of one line."""
    try:
        yield
    except EnvironmentFailure:
        raise
    except Exception as error:
        if lockless := next(filter(None, map(lockless_cause, causes(error))), None):
            # Private in mlflow 3.17: it locks a file in the temporary folder while it creates its tables.
            cure = "set TMPDIR to a folder on a local disk"
            raise EnvironmentFailure(f"MLflow: {lockless_line(gettempdir(), lockless, cure)}") from None
        raise EnvironmentFailure(
            f"MLflow at {redacted(stores.tracking)}: {cause_line(error)}; {_mlflow_cure(error, stores)}, or name "
            "another store in mlflow.ini: [mlflow] tracking_uri"
        ) from None


def _mlflow_cure(error: Exception, stores: Stores) -> str:
    if isinstance(error, ImportError):
        return f"`pip install {'psycopg[binary]' if error.name == 'psycopg' else error.name}`"
    if "full" in str(error) and not stores.remote:
        return f"free disk space ({free_space_text(stores.root)})"
    return "start or unblock it" if stores.remote else "free it, repair it or move it away"


def _probe(tracking_uri: str) -> None:
    """Raise an error within PROBE_SECONDS if the store does not answer; MLflow would retry for minutes."""
    if tracking_uri.startswith("sqlite:"):
        database = sqlite3.connect(tracking_uri.removeprefix("sqlite:///").partition("?")[0], timeout=PROBE_SECONDS)
        try:
            database.execute("BEGIN IMMEDIATE")
        finally:
            database.close()
    elif tracking_uri.startswith("http"):
        import requests

        # MLflow's client checks the certificate with its own settings
        with contextlib.suppress(requests.exceptions.SSLError):
            requests.get(f"{tracking_uri}/health", timeout=PROBE_SECONDS).close()
    else:
        import sqlalchemy

        engine = sqlalchemy.create_engine(tracking_uri, connect_args={"connect_timeout": math.ceil(PROBE_SECONDS)})
        engine.connect().close()
        engine.dispose()
