"""Train a job in a process of its own, without Ray: `python -m tests.support.gpu_child OPTIONS`, as JSON.

job, params, data, workdir, resume   as for the job's `train`
log       each report is added to this file, a line of JSON with the checkpoint
gpus      the share of a GPU's memory
pause     wait after the first report, to be killed
together  wait after the first report until so many logs lie beside the own one
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
POLL_S = 0.05


class Child:
    """Hold a process that trains. Leaving its block ends it."""

    def __init__(self, log: Path, **options: Any) -> None:
        self.log = log
        command = [sys.executable, "-m", "tests.support.gpu_child", json.dumps({"log": str(log), **options})]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stderr:
            self.process.stderr.close()

    def reports(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def first_report(self) -> dict[str, Any]:
        """Wait for the first report and return it."""
        while not self.reports() and self.process.poll() is None:
            time.sleep(POLL_S)
        assert self.reports(), self.process.communicate()[1]
        return self.reports()[0]

    def finished(self) -> list[dict[str, Any]]:
        """Wait for the end and return all reports. Fails with the process's last words if it failed."""
        error = self.process.communicate()[1]
        assert self.process.returncode == 0, error
        return self.reports()


def train(options: dict[str, Any]) -> None:
    from sweeper.trial.gpu import share_gpu

    share_gpu(options.get("gpus", 1))
    from jobs import get_job

    job, log, workdir = get_job(options["job"]), Path(options["log"]), Path(options["workdir"])

    def report(metrics: dict[str, float], checkpoint: Path | None) -> None:
        first = not log.exists()
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**metrics, "checkpoint": str(checkpoint)}) + "\n")
        while first and (options.get("pause") or len(list(log.parent.glob("*.log"))) < options.get("together", 0)):
            time.sleep(POLL_S)

    workdir.mkdir(parents=True, exist_ok=True)
    resume = options.get("resume")
    job.train(job.params(**options["params"]), options["data"], workdir, report, Path(resume) if resume else None)


if __name__ == "__main__":
    train(json.loads(sys.argv[1]))
