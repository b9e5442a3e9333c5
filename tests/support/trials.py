"""Write trials into a ledger as a driver does, or make their records by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from jobs.checkpoint import publish
from sweeper.ledger.ledger import Ledger
from sweeper.ledger.record import TrialRecord
from sweeper.space.search_space import SearchSpace

STATE = ("optimizer.pt", "rng_state.pth", "scheduler.pt", "training_args.bin")  # files that only resuming needs


def saved(workdir: Path, epoch: int, names: Iterable[str] = ()) -> Path:
    """Publish a checkpoint of an epoch, with more files of these names."""
    incoming = workdir / "incoming"
    incoming.mkdir(parents=True)
    (incoming / "state.json").write_text(f"{epoch}")
    for name in names:
        (incoming / name).write_text(name)
    return publish(incoming, workdir, epoch)


def saved_by_trainer(workdir: Path, epoch: int) -> Path:
    """Publish a checkpoint with the files that Trainer writes beside the weights."""
    return saved(workdir, epoch, ("model.safetensors", "trainer_state.json", *STATE))


def asked(ledger: Ledger, space: SearchSpace) -> TrialRecord:
    """Ask the ledger for its next trial."""
    record = ledger.ask(space)
    assert record is not None
    return record


def evaluated(
    ledger: Ledger, number: int, workdir: Path, epochs: int, save: Callable[[Path, int], Path] = saved
) -> TrialRecord:
    """Report a trial's first epochs, each with a checkpoint."""
    for epoch in range(1, epochs + 1):
        metrics = {"height": epoch / 10, "eval_loss": 0.5, "epoch": float(epoch), "seconds": 1.0}
        ledger.report(number, metrics, str(save(workdir, epoch)))
    return ledger.record(number)


def record(number: int, value: float | None, state: Any = "COMPLETE", **changes: Any) -> TrialRecord:
    """Make a trial's record without a ledger; one with a value has one evaluation."""
    given: dict[str, Any] = {
        "number": number,
        "key": f"key-{number}",
        "state": state,
        "params": {"backbone": "hill", "learning_rate": 10.0**-number, "seed": 42},
        "evaluations": ({"epoch": 1.0, "seconds": 2.5, "height": value, "checkpoint": f"{number}/a"},)
        if value is not None
        else (),
        "value": value,
        "metrics": {"height": value, "eval_loss": 0.5} if value is not None else {},
        "checkpoint": f"{number}/a" if value is not None else None,
        "reason": None,
        "run_id": f"run-{number}",
        "started": None,
        "ended": None,
    }
    return TrialRecord(**{**given, **changes})
