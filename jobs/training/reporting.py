"""Report every evaluation of Hugging Face's Trainer together with its checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from jobs import checkpoint
from jobs.job import Report
from jobs.training import workers
from jobs.training.batches import Floats
from jobs.training.conditions import recorded_conditions

SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id")
UNFINISHED = "unfinished"  # Trainer writes checkpoints into this folder; publishing moves them out of it


class Reporter(TrainerCallback):  # type: ignore[misc]
    """Report the metrics of each evaluation as soon as its checkpoint is complete.

    Trainer logs, evaluates, then saves, so the report is made after saving. Rank 0 writes predictions, metrics,
    identity and tokenizer into the checkpoint and publishes it; then all ranks report it. `evaluate` turns logits into
    metrics and predictions, and `identity` describes the job and its params.
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
        self.metrics = metrics

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        finished = state.global_step >= state.max_steps
        epoch = float(self.epochs) if finished else round(float(state.epoch or 0), 6)
        metrics = {
            **self.metrics,
            "train_loss": self.train_loss,
            "epoch": epoch,
            "step": float(state.global_step),
        }
        workers.barrier()  # every rank writes its random state into the folder first
        self.report(
            metrics, workers.once(lambda: self._publish(Path(str(args.output_dir)), state.global_step, metrics))
        )

    def _publish(self, output_dir: Path, step: int, metrics: dict[str, float]) -> Path:
        folder = output_dir / f"checkpoint-{step}"
        # Not as Trainer's processing_class, whose special tokens Trainer (transformers 5.24) writes into the model's
        # config. A RoBERTa counts positions from its own padding, so the stored model would give other scores.
        self.tokenizer.save_pretrained(folder)
        checkpoint.write_json(folder / checkpoint.PREDICTIONS, self.predictions)
        checkpoint.write_json(folder / "metrics.json", metrics)
        checkpoint.write_json(folder / checkpoint.IDENTITY, {**self.identity, "conditions": recorded_conditions()})
        if metrics["epoch"] >= self.epochs:
            for name in checkpoint.state_files([path.name for path in folder.iterdir()]):
                (folder / name).unlink()
        return checkpoint.publish(folder, self.workdir, step)
