"""Report every evaluation of Hugging Face's Trainer together with its checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from jobs import checkpoint
from jobs.job import Report
from jobs.timing import phase, tell_epoch
from jobs.training import workers
from jobs.training.batches import Floats
from jobs.training.conditions import recorded_conditions

SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id")
ASKING_STEPS = 8  # several workers ask rank 0 after so many optimizer steps whether a checkpoint is complete


class Unreported(NamedTuple):
    """Hold the metrics of an evaluation whose checkpoint is being published. Only rank 0 knows when it is complete."""

    metrics: dict[str, float]
    published: Future[Path] | None


class Reporter(TrainerCallback):  # type: ignore[misc]
    """Report the metrics of each evaluation once its checkpoint is complete.

    Trainer logs, evaluates, then saves. Rank 0 writes predictions, metrics, identity and tokenizer into the checkpoint.
    A thread publishes it (hashes, disk, upload) while training goes on. All ranks report it after the step in which it
    is complete, and in any case before the next evaluation is saved; the last one is reported at once. `evaluate` turns
    logits into metrics and predictions, and `identity` describes the job and its params.
    """

    def __init__(
        self,
        evaluate: Callable[[Any], tuple[dict[str, float], list[dict[str, Any]]]],
        epochs: int,
        identity: Mapping[str, Any],
        tokenizer: Any,
        workdir: Path,
        report: Report,
    ) -> None:
        self.evaluate = evaluate
        self.epochs = epochs
        self.identity = identity
        self.tokenizer = tokenizer
        self.workdir = workdir
        self.report = report
        self.metrics: dict[str, float] = {}
        self.predictions: list[dict[str, Any]] = []
        self.train_loss = float("nan")
        self.special: dict[str, Any] = {}
        self.unreported: Unreported | None = None

    def score(self, logits: tuple[Floats, ...]) -> dict[str, float]:
        """Return the metrics of these logits and keep the predictions. Takes a single output out of its tuple."""
        metrics, self.predictions = self.evaluate(logits if len(logits) > 1 else logits[0])
        return metrics

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        config = getattr(model, "config", None)
        self.special = {key: getattr(config, key) for key in SPECIAL_IDS if hasattr(config, key)}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Undo what Trainer has just done: it writes the tokenizer's special ids into the config (transformers 5.24).

        A model made from the changed config would compute something else: RoBERTa counts its positions from the id of
        padding.
        """
        for key, own in self.special.items():
            setattr(model.config, key, own)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step >= state.max_steps:  # Trainer may not log the last step; its report needs the train_loss
            control.should_log = True
        tell_epoch(float(state.epoch or 0))
        if self.unreported and self._is_published(self.unreported, state.global_step):
            self._deliver()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **_: Any,
    ) -> None:
        self.train_loss = logs.get("loss", self.train_loss)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **_: Any,
    ) -> None:
        self._deliver()
        self.metrics = metrics

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        step, finished = state.global_step, state.global_step >= state.max_steps
        epoch = float(self.epochs) if finished else round(float(state.epoch or 0), 6)
        metrics = {
            **self.metrics,
            "train_loss": self.train_loss,
            "epoch": epoch,
            "step": float(step),
        }
        workers.barrier()  # every rank writes its random state into the folder first
        folder = Path(str(args.output_dir)) / f"checkpoint-{step}"
        workers.once(lambda: self._complete(folder, metrics))
        published = None if workers.rank() else in_background(lambda: self._publish(folder, step))
        self.unreported = Unreported(metrics, published)
        if finished:
            self._deliver()

    @contextmanager
    def delivering(self) -> Iterator[None]:
        """Train inside the block: an error that ends it is raised after the report of the evaluation before it.

        Of several workers the others may hang or be dead, so this evaluation is not reported.
        """
        try:
            yield
        except Exception:
            if workers.count() == 1:
                self._deliver()
            raise
        finally:
            if self.unreported and self.unreported.published:
                self.unreported.published.exception()  # wait: a later attempt writes the same folders

    def _complete(self, folder: Path, metrics: dict[str, float]) -> None:
        """Write all that belongs to a checkpoint beside what Trainer has written."""
        # Not as Trainer's processing_class, whose special tokens Trainer (transformers 5.24) writes into the model's
        # config. A RoBERTa counts positions from its own padding, so the stored model would give other scores.
        self.tokenizer.save_pretrained(folder)
        checkpoint.write_json(folder / checkpoint.PREDICTIONS, self.predictions)
        checkpoint.write_json(folder / "metrics.json", metrics)
        checkpoint.write_json(folder / checkpoint.IDENTITY, {**self.identity, "conditions": recorded_conditions()})
        if metrics["epoch"] >= self.epochs:
            for name in checkpoint.state_files([path.name for path in folder.iterdir()]):
                (folder / name).unlink()

    def _publish(self, folder: Path, step: int) -> Path:
        """Publish a checkpoint and store it where the report wants it. Called in a thread."""
        published = checkpoint.publish(folder, self.workdir, step)
        if store := getattr(self.report, "store", None):
            store(published)
        return published

    def _is_published(self, unreported: Unreported, step: int) -> bool:
        """Return True, on all ranks, if rank 0 has published the checkpoint."""
        if workers.count() > 1 and step % ASKING_STEPS:
            return False
        return workers.once(lambda: bool(unreported.published and unreported.published.done()))

    def _deliver(self) -> None:
        """Wait until the checkpoint of the last evaluation is complete, then report it. Does nothing a second time."""
        if self.unreported is None:
            return
        (metrics, published), self.unreported = self.unreported, None
        with phase("checkpoints"):
            folder = workers.once(lambda: published.result() if published else None)
        self.report(metrics, folder)


def in_background(work: Callable[[], Path]) -> Future[Path]:
    """Do some work in a thread. It is a daemon, so that a process that is told to end does not wait for an upload."""
    future: Future[Path] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True, name="publisher").start()
    return future
