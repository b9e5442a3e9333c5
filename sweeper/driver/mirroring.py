"""Show a sweep in MLflow while it runs and when it ends."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from jobs.checkpoint import PREDICTIONS
from sweeper.budget.limits import noted_ending
from sweeper.budget.spending import SPENT_SECONDS, spending_of
from sweeper.ledger.ledger import FORECAST, Ledger
from sweeper.ledger.ranking import best_first
from sweeper.ledger.record import TrialRecord
from sweeper.results.comparison import compare_sweeps
from sweeper.results.overview import sweep_results
from sweeper.results.table import table_csv, table_markdown
from sweeper.space.search_space import SearchSpace, searched_parameters, to_yaml
from sweeper.storage import checkpoint_store
from sweeper.storage.files import create_folder
from sweeper.storage.places import Places
from sweeper.storage.settings import Stores
from sweeper.tracking.client import own_experiment
from sweeper.tracking.mirror import Mirror
from sweeper.tracking.runs import COST_TAG, ENDED_TAG, GPU_HOURS_TAG, SPENT_TAG, SweepInfo

FLUSH_SECONDS = 60.0
HURRY_SECONDS = 8.0  # time for MLflow writes after an interrupt, which must end within half a minute


def mirror_of(
    ledger: Ledger, space: SearchSpace, stores: Stores, flush_seconds: float = FLUSH_SECONDS, running: bool = True
) -> Mirror:
    """Return the Mirror that writes this sweep to MLflow. All its values come from the ledger and the space.

    `running` shows the sweep as running until it is finished.
    """
    info = SweepInfo(
        name=ledger.name,
        key=ledger.mlflow_key(_new_key(ledger, stores)),
        objective=space.objective,
        direction=space.direction,
        columns=searched_parameters(space),
        metrics=ledger.attributes["metrics"],
        run_id=next((record.run_id for record in ledger.records() if record.run_id), None),
        tags={
            "data": space.data,
            "data_fingerprint": space.data_fingerprint,
            **ledger.attributes["versions"],
            **_forecast_tags(ledger),
        },
        texts={"search_space.yaml": to_yaml(space)},
    )
    experiment = own_experiment(ledger.attributes["search_space"]["name"], stores)
    return Mirror(stores.tracking, stores.artifacts, experiment, info, flush_seconds, HURRY_SECONDS, running)


def _forecast_tags(ledger: Ledger) -> dict[str, str]:
    """Return the forecast that the sweep was begun with, as tags; empty without one."""
    found = ledger.study.user_attrs.get(FORECAST) or {}
    numbers = {name: found.get(name) for name in ("wall_s", "gpu_hours", "cost")}
    texts = {name: "{expected:.6g} ({low:.6g} to {high:.6g})".format(**one) for name, one in numbers.items() if one}
    known = {**texts, "source": found["source"]} if found else {}
    if found.get("ended_by"):
        known["ended_by"] = f"budget.{found['ended_by']}"
    return {f"sweeper.forecast.{name}": text for name, text in known.items()}


def _new_key(ledger: Ledger, stores: Stores) -> str:
    """Return the key for the MLflow runs of a sweep that has none yet.

    It is new for each sweep: one that is created again after its ledger was deleted has runs of its own. Runs of the
    first versions have the plain address.
    """
    address = f"{stores.root.absolute()}/{ledger.name}"
    return address if any(record.run_id for record in ledger.records()) else f"{address}@{uuid4().hex[:12]}"


def save_predictions(record: TrialRecord, workdir: Path, places: Places | None = None) -> Path | None:
    """Save the predictions of an ended trial's best evaluation beside its checkpoints and return the local file, or
    None.

    MLflow may receive them after the checkpoint is deleted. Predictions in a bucket are also downloaded to `workdir`.
    Those of a checkpoint that belongs to another root, by `places`, are saved in `workdir` only.
    """
    if record.state == "RUNNING" or not record.checkpoint:
        return None
    own = places is None or places.owns(record.checkpoint)
    folder = checkpoint_store.parent(record.checkpoint) if own else str(workdir)
    beside = checkpoint_store.join_address(folder, PREDICTIONS)
    file = workdir / PREDICTIONS if checkpoint_store.is_remote(beside) else Path(beside)
    elsewhere = checkpoint_store.is_remote(record.checkpoint) or not own
    if not (elsewhere and file.is_file()):  # download a file in a bucket only once
        _keep(checkpoint_store.join_address(record.checkpoint, PREDICTIONS), beside, file)
    return file if file.is_file() else None


def _keep(best: str, beside: str, file: Path) -> None:
    content = checkpoint_store.read_address(best)
    if content is not None:
        if not checkpoint_store.is_remote(beside):
            create_folder(Path(beside).parent)
        checkpoint_store.write_address(beside, content)
    if checkpoint_store.is_remote(beside) and (content := content or checkpoint_store.read_address(beside)) is not None:
        create_folder(file.parent)
        file.write_bytes(content)


def show_trial(
    mirror: Mirror, ledger: Ledger, record: TrialRecord, predictions: Path | None = None, stopped: bool = False
) -> None:
    """Show a trial in MLflow with its predictions. A repeat is shown below the trial that it repeats."""
    parent = ledger.record(record.repeat_of).key if record.repeat_of is not None else None
    mirror.put(record, parent, [predictions] if predictions else [], stopped)


def finish_mirror(ledger: Ledger, mirror: Mirror, in_a_hurry: bool = False) -> list[TrialRecord]:
    """Close the sweep's MLflow run with tables, plots and report. Store the trials' run ids in the ledger; return its
    records.

    Unfinished trials are shown as stopped. `in_a_hurry` omits plots and report.
    """
    records = ledger.records()
    for record in records:
        if record.state == "RUNNING":
            show_trial(mirror, ledger, record, stopped=True)
    interrupted = any(record.state == "RUNNING" for record in records)
    best = {f"best_{ledger.objective}": one.value or 0.0 for one in best_first(records, ledger.direction)[:1]}
    texts = table_texts(ledger) if in_a_hurry else page_texts(ledger)
    tags = budget_tags(ledger.latest_attributes(), records)
    mirror.finish("STOPPED" if interrupted or in_a_hurry else "COMPLETE", texts, best, tags)
    mirror.flush(HURRY_SECONDS if in_a_hurry else FLUSH_SECONDS)
    for record in records:
        if mirror.run_ids.get(record.key, record.run_id) != record.run_id:
            ledger.set_run(record.number, mirror.run_ids[record.key])
    return ledger.records()


def budget_tags(attributes: Mapping[str, Any], records: Sequence[TrialRecord]) -> dict[str, str]:
    """Return what a sweep has spent, and the limit that has ended it, as tags of its run. A sweep of an earlier version
    has none."""
    if SPENT_SECONDS not in attributes:
        return {}
    spent = spending_of(attributes, records)
    cost = spent.cost((attributes["search_space"].get("budget") or {}).get("price"))
    ending = noted_ending(attributes)
    return {
        SPENT_TAG: f"{spent.seconds:.0f}",
        GPU_HOURS_TAG: f"{spent.gpu_hours:.3f}",
        **({} if cost is None else {COST_TAG: f"{cost:.2f}"}),
        **({ENDED_TAG: str(ending)} if ending else {}),
    }


def sync_lines(mirror: Mirror) -> list[str]:
    """Return one line for each run that was corrected, then for each that shows something that cannot be corrected."""
    corrected = [f"{name}: corrected: {'; '.join(phrases)}" for name, phrases in mirror.corrected.items() if phrases]
    left = [f"{name}: not corrected: {phrase}" for name, phrase in mirror.uncorrected.items()]
    cure = "it belongs to no trial of the ledger; delete it on MLflow's pages if you do not need it"
    return [*corrected, *left, *(f"{name}: left alone: {cure}" for name in mirror.unclaimed)]


def table_texts(ledger: Ledger) -> dict[str, str]:
    """Return the comparison tables as texts by file name."""
    table = compare_sweeps([ledger])[1]
    return {"comparison.md": table_markdown(table), "comparison.csv": table_csv(table)}


def page_texts(ledger: Ledger) -> dict[str, str]:
    """Return tables, plots and report by file name; only the tables if drawing fails."""
    texts = table_texts(ledger)
    try:
        from sweeper.results import plots, report

        drawn = plots.plot_files(plots.draw_plots(sweep_results(ledger)))
        return texts | drawn | {"report.html": report.report_html(ledger)}
    except Exception:
        traceback.print_exc()
        return texts
