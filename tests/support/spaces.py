"""Hold small settings: the toy's search space, and parameters that train each job in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TOY = """\
name: toy
job: tests.toy:JOB
data: sample
objective: height
parameters:
  backbone: {values: [hill, valley]}
  learning_rate: {min: 1e-5, max: 1e-1, log: true}
  num_train_epochs: 4
search: {sampler: tpe, trials: 8, seed: 1}
"""
SMALL: Mapping[str, Mapping[str, Any]] = {
    "mc": {"max_length": 96},
    "qa": {"max_length": 64, "doc_stride": 16, "max_answer_length": 12},
    "longformer": {"max_length": 256, "doc_stride": 32, "attention_window": 32, "max_answer_length": 12},
}
EPOCH = {"backbone": "scratch:1x32x2", "num_train_epochs": 1, "learning_rate": 1e-3, "seed": 7}
