"""What the driver and a trial's process tell each other through files."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.timing import epochs_told_to, tell_epoch
from sweeper.trial import handover
from sweeper.trial.handover import EPOCH, EPOCH_SECONDS, clear_handover, epoch_file, read_epoch
from sweeper.trial.process import epochs_of_first


def test_a_job_tells_how_far_it_is_at_most_every_few_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(handover, "time", type("Clock", (), {"monotonic": staticmethod(lambda: now[0])}))
    with epochs_of_first(0, tmp_path):
        assert read_epoch(tmp_path) is None
        seen = []
        for step in range(1, 9):
            tell_epoch(step / 8)
            now[0] += EPOCH_SECONDS / 2
            seen.append(read_epoch(tmp_path))
    assert seen == [0.125, 0.125, 0.375, 0.375, 0.625, 0.625, 0.875, 0.875]
    assert read_epoch(tmp_path) is None


def test_only_the_first_worker_writes_it(tmp_path: Path) -> None:
    with epochs_of_first(1, tmp_path):
        tell_epoch(0.5)
    assert not (tmp_path / EPOCH).exists()


def test_without_a_listener_and_on_a_full_disk_a_job_goes_on(tmp_path: Path) -> None:
    tell_epoch(0.5)
    with epoch_file(tmp_path / "missing") as write:
        write(0.5)
    with pytest.raises(ZeroDivisionError), epochs_told_to(lambda epoch: 1 / 0):
        tell_epoch(0.5)


@pytest.mark.parametrize("content", ["", "no number"])
def test_a_file_that_is_being_written_tells_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / EPOCH).write_text(content)
    assert read_epoch(tmp_path) is None
    clear_handover(tmp_path)
    assert not (tmp_path / EPOCH).exists()
