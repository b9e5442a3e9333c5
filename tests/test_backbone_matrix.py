"""Test every architecture of the zoo in the three jobs: it trains and is used to the end, or it is refused at once.

The last test prints the table that the README contains. One kind alone: `-k "[bert-"`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support import matrix
from tests.support.commands import invoke
from tests.support.zoo import KINDS, build

README = Path(__file__).parents[1] / "README.md"
OUTCOMES: dict[str, dict[str, str]] = {}  # by kind and job: what the tests of this module have seen
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a project folder with questions and the checkpoints of a BERT, whose name is the job's."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("SWEEPER_ROOT", "SWEEPER_LEDGER", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        torch.set_num_threads(1)
        matrix.write_questions(folder / "questions")
        build("bert", folder / "bert")
        for job in ("qa", "mc"):
            trained = matrix.train(job, str(folder / "bert"), folder / "questions", folder / "partner" / job)
            (folder / job).symlink_to(trained.checkpoint)
        yield folder


@pytest.mark.parametrize("job", matrix.JOBS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_backbone_trains_and_answers_or_is_refused_before_the_sweep(kind: str, job: str, place: Path) -> None:
    data, backbone, told = place / "questions", str(place / "backbones" / kind), OUTCOMES.setdefault(kind, {})
    told[job] = "fails"
    if not Path(backbone).exists():
        build(kind, Path(backbone))
    if line := matrix.refusal(job, kind, backbone, data):
        assert "\n" not in line
        assert backbone in line
        told[job] = f"refused: {matrix.cause(line, backbone)}"
        return
    trained = matrix.train(job, backbone, data, place / "sweeps" / f"{kind}-{job}" / "trials" / "0000")
    assert len(trained.reports) == 2
    resumed = matrix.train(job, backbone, data, place / "resumed" / f"{kind}-{job}", trained.reports[0][1])
    assert resumed.metrics == trained.metrics[1:]
    again = matrix.answers_again(job, trained.checkpoint, data, place / "cache")
    assert again == matrix.predictions(trained.checkpoint, list(again[0]))
    promoted = invoke("promote", "--force", matrix.record_trial(job, kind, backbone, data, trained))
    assert promoted.exit_code == 0, promoted.output
    partner = {"qa": ["--mc", str(place / "mc")], "mc": ["--qa", str(place / "qa")], "longformer": ["--end-to-end"]}
    assert matrix.submit(place / f"{kind}-{job}.csv", data, partner[job]) == ["test-5", "test-6", "test-7"]
    told[job] = "trains"


def test_the_readme_contains_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    if [len(OUTCOMES.get(kind, ())) for kind in KINDS] != [len(matrix.JOBS)] * len(KINDS):
        pytest.skip("the table needs all combinations")
    table = matrix.outcome_table(OUTCOMES)
    with capsys.disabled():
        print(f"\n{table}")
    assert table in README.read_text(encoding="utf-8")
