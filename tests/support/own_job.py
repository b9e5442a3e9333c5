"""Hold the text of a small job of a user's own."""

from __future__ import annotations

JOB = """
from dataclasses import dataclass
from jobs.checkpoint import publish
from jobs.job import Job

@dataclass(frozen=True, kw_only=True)
class Params:
    backbone: str = "hill"
    seed: int = 42
    learning_rate: float = 1e-3
    num_train_epochs: int = 1

def train(params, data, workdir, report, resume_from=None):
    for epoch in range(params.num_train_epochs):
        report({"height": params.learning_rate, "epoch": epoch + 1.0})

JOB = Job("own", Params, {"height": "max"}, train)
"""
