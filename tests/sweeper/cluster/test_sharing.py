"""How many trials share a GPU under `gpus: auto`: a table of GPUs, and models whose sizes are written down."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.backbone.footprint import training_bytes
from jobs.qa import QaParams
from sweeper.cluster import gpus, preflight
from sweeper.cluster.capacity import Machine, Node, cluster_of, reservation_of, reservations, reserve, trials_at_once
from sweeper.cluster.gpus import Gpu
from sweeper.cluster.preflight import with_trial_memory
from sweeper.cluster.sharing import TrialMemory, taken_memory, trial_memory, trials_per_gpu
from sweeper.ledger.record import TrialRecord
from sweeper.space.reading import read_search_space
from sweeper.space.search_space import SearchSpace, to_yaml
from sweeper.space.sections import Resources
from sweeper.trial.gpu import CONTEXT_BYTES
from tests.support.commands import invoke
from tests.support.trials import record
from tests.sweeper.cluster.test_gpus import GIB, H200, RTX, T4, V100, survey

A100 = Gpu("NVIDIA A100-SXM4-40GB", 40 * GIB, "580.65.06", (8, 0))
MIG = Gpu("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 10 * GIB, "580.65.06", (9, 0))
LATER = Gpu("NVIDIA R300", 300 * GIB, "700.1", (13, 0))
AUTO = Resources(gpus="auto")  # type: ignore[arg-type]
LARGE = {"num_hidden_layers": 24, "hidden_size": 1024, "intermediate_size": 4096, "vocab_size": 21_128}


def takes(gib: float, measured: bool = True) -> TrialMemory:
    return TrialMemory(int(gib * GIB), measured)


@pytest.mark.parametrize(
    ("gpu", "memory", "expected"),
    [
        (H200, takes(11), 3),
        (H200, takes(43), 3),
        (H200, takes(45), 2),  # three would leave nothing for CUDA itself
        (H200, takes(100), 1),
        (H200, takes(500), 1),
        (H200, None, 1),
        (None, takes(1), 1),
        (A100, takes(11), 3),
        (A100, takes(15), 2),
        (T4, takes(1), 1),
        (V100, takes(1), 1),
        (RTX, takes(1), 1),
        (MIG, takes(1), 1),
        (LATER, takes(11), 3),
    ],
)
def test_a_gpu_takes_as_many_trials_as_it_gains_from(
    gpu: Gpu | None, memory: TrialMemory | None, expected: int
) -> None:
    assert trials_per_gpu(gpu, memory) == expected


@given(st.integers(1, 200 * GIB), st.sampled_from([H200, A100, T4, LATER]))
def test_the_shares_of_a_gpu_hold_what_its_trials_and_cuda_take(memory: int, gpu: Gpu) -> None:
    found = trials_per_gpu(gpu, TrialMemory(memory, True))
    assert 1 <= found <= 3
    assert found == 1 or found * (memory + CONTEXT_BYTES) <= gpu.memory_bytes


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (Machine(32, 4, gpu=H200, memory=takes(11)), (2, 0.3333, 12)),
        (Machine(32, 4, gpu=T4, memory=takes(11)), (8, 1, 4)),
        (Machine(32, 4, gpu=H200), (8, 1, 4)),
        (Machine(2, 1, gpu=H200, memory=takes(11)), (1, 0.5, 2)),  # a third trial has no CPU
        (Machine(4, 0, memory=takes(11)), (1, 0, 4)),
    ],
)
def test_a_machine_decides_how_many_trials_share_its_gpus(machine: Machine, expected: tuple[float, float, int]) -> None:
    found = reserve(AUTO, machine, 100)
    assert (found.cpus, found.gpus, found.slots, found.parts) == (*expected, ())


@pytest.mark.parametrize(("trials", "share", "slots"), [(1, 1, 2), (2, 1, 2), (3, 0.5, 4), (4, 0.5, 4), (5, 0.3333, 6)])
def test_few_trials_do_not_share_a_gpu_while_another_is_idle(trials: int, share: float, slots: int) -> None:
    machine = Machine(64, 2, gpu=H200, memory=takes(11))
    found = reserve(AUTO.model_copy(update={"cpus": 1.0}), machine, trials)
    assert (found.gpus, found.slots) == (share, slots)


def test_workers_of_one_trial_have_a_gpu_each() -> None:
    found = reserve(AUTO.model_copy(update={"workers": 2}), Machine(32, 4, gpu=H200, memory=takes(11)), 100)
    assert (found.gpus, found.slots) == (1, 2)


FAST, SLOW, BARE = Node("fast", 32, 2, "a", H200), Node("slow", 4, 2, "b", T4), Node("bare", 16, 0, "c")


def test_nodes_with_other_gpus_have_other_shares() -> None:
    found = reserve(AUTO, replace(cluster_of((FAST, SLOW, BARE)), memory=takes(11)), 100)
    assert [(part.nodes, part.cpus, part.gpus, part.slots) for part in found.parts] == [
        (("a",), 5, 0.3333, 6),
        (("b",), 2, 1, 2),
    ]
    assert (found.gpus, found.slots) == (1, 8)  # one that waits for any node has a whole GPU
    assert trials_at_once(found, (FAST, SLOW, BARE)) == 8
    assert trials_at_once(found, (SLOW, BARE)) == 2
    assert found.why(cluster_of((FAST, SLOW, BARE))) == (
        "8 at once: "
        "6 at once: each reserves 5 CPU and 0.3333 GPU, 3 on each GPU, of 32 CPU and 2 GPU on 1 node; "
        "trials that fit: fast 6; "
        "2 at once: each reserves 2 CPU and 1 GPU, of 4 CPU and 2 GPU on 1 node; trials that fit: slow 2; "
        "gpus: auto: a trial takes 11.0 GiB as earlier ones did, of NVIDIA H200 139 GiB, Tesla T4 15 GiB; "
        "one trial keeps Tesla T4 busy"
    )


@pytest.mark.parametrize(
    ("machine", "note"),
    [
        (Machine(8, 1, gpu=H200), "; gpus: auto: the memory of a trial is not known"),
        (Machine(8, 1, memory=takes(11)), "; gpus: auto: the kind of the GPU is not known"),
        (
            Machine(2, 1, gpu=H200, memory=takes(11, measured=False)),
            "; gpus: auto: a trial takes 11.0 GiB by an estimate, of NVIDIA H200 139 GiB; the CPUs allow no more",
        ),
    ],
)
def test_the_reason_of_the_number_is_told(machine: Machine, note: str) -> None:
    assert reserve(AUTO, machine, 100).why(machine).endswith(note)


def with_peak(gib: float, **params: object) -> TrialRecord:
    evaluation = {"epoch": 1.0, "seconds": 1.0, "height": 0.5, "conditions": {"gpu_memory_bytes": int(gib * GIB)}}
    return record(0, 0.5, params=params, evaluations=(evaluation,))


def test_earlier_trials_tell_the_memory_of_later_ones_of_the_same_backbone_length_and_precision() -> None:
    shape = {"backbone": "hfl/chinese-lert-large", "max_length": 512, "precision": "auto"}
    taken = taken_memory([with_peak(7, **shape, seed=1), with_peak(9, **shape), record(3, 0.1)])
    assert trial_memory("mc", {**shape, "seed": 3}, taken) == takes(9)
    needed = with_peak(9, **shape)
    needed.evaluations[-1]["conditions"]["needed_gpu_memory_bytes"] = 5 * GIB
    assert trial_memory("mc", shape, taken_memory([needed])) == takes(5)
    for change in ({"max_length": 256}, {"backbone": "b"}, {"precision": "fp32"}, {"bf16": False}):
        assert trial_memory("mc", {**shape, **change}, taken) is None


def test_a_trial_in_fp32_is_estimated_as_such_however_its_file_says_so() -> None:
    """`bf16: false` is what files of earlier versions say."""
    plain = {"backbone": "scratch:12x1024x16", "max_length": 512, "effective_batch_size": 8}
    every = QaParams(**plain), QaParams(**plain, bf16=False), QaParams(**plain, precision="fp32")  # type: ignore[arg-type]
    half, legacy, full = (trial_memory("qa", asdict(params), ()) for params in every)
    assert half
    assert legacy == full
    assert half < full


def test_an_estimate_is_near_the_calculation_for_a_large_model() -> None:
    assert training_bytes(LARGE, 8 * 512) == pytest.approx(11 * GIB, rel=0.05)
    assert training_bytes({"d_model": 512}, 512) is None
    assert training_bytes({**LARGE, "hidden_size": "wide"}, 512) is None


@given(st.integers(1, 64), st.integers(1, 64), st.booleans(), st.booleans())
def test_more_tokens_and_more_digits_take_more_and_recomputation_less(
    rows: int, more: int, half: bool, recompute: bool
) -> None:
    estimate = training_bytes(LARGE, rows * 512, half, recompute)
    assert estimate is not None
    assert estimate < (training_bytes(LARGE, (rows + more) * 512, half, recompute) or 0)
    assert estimate <= (training_bytes(LARGE, rows * 512, False, recompute) or 0)
    assert estimate <= (training_bytes(LARGE, rows * 512, half, False) or 0)


def qa_space(folder: Path, resources: str = "{gpus: auto}", **parameters: object) -> SearchSpace:
    backbone = folder / "bert"
    backbone.mkdir(exist_ok=True)
    (backbone / "config.json").write_text(json.dumps({"model_type": "bert", "max_position_embeddings": 512, **LARGE}))
    values = {"backbone": str(backbone), "max_length": 512, "effective_batch_size": 8, **parameters}
    file = folder / "space.yaml"
    rest = f"search: {{sampler: random, trials: 40}}\nresources: {resources}\n"
    head = "name: toy\njob: qa\ndata: sample\nobjective: exact_match\n"
    file.write_text(f"{head}parameters: {json.dumps(values)}\n{rest}", encoding="utf-8")
    return read_search_space(file, [])


@pytest.fixture
def two_h200(monkeypatch: pytest.MonkeyPatch) -> Machine:
    for module in (gpus, preflight):
        monkeypatch.setattr(module, "survey_gpus", lambda: survey(H200, H200))
    return Machine(16, 2)


def test_the_sizes_of_a_model_tell_the_memory_before_the_first_trial(tmp_path: Path, two_h200: Machine) -> None:
    space = qa_space(tmp_path)
    machine = with_trial_memory(space, two_h200, [])
    assert machine.gpu == H200
    assert machine.memory is not None
    assert machine.memory.bytes == training_bytes(LARGE, 8 * 512)
    assert [one.slots for one in reservations(space, machine)] == [6]
    wide = qa_space(tmp_path, effective_batch_size=64, precision="fp32")
    assert [one.slots for one in reservations(wide, with_trial_memory(wide, two_h200, []))] == [2]
    few = qa_space(tmp_path, effective_batch_size=64, per_device_train_batch_size=8, precision="fp32")
    assert [one.slots for one in reservations(few, with_trial_memory(few, two_h200, []))] == [6]


def test_no_backbone_of_unknown_size_shares_a_gpu(tmp_path: Path, two_h200: Machine) -> None:
    space = qa_space(tmp_path, backbone={"values": [str(tmp_path / "bert"), "hfl/chinese-lert-large"]})
    machine = with_trial_memory(space, two_h200, [])
    assert machine.memory is None
    assert reservation_of(space, {"backbone": str(tmp_path / "bert")}, machine).slots == 2
    explicit = qa_space(
        tmp_path,
        '[{when: {backbone: "hfl/*"}, gpus: 1}, {gpus: auto}]',
        backbone={"values": [str(tmp_path / "bert"), "hfl/chinese-lert-large"]},
    )
    machine = with_trial_memory(explicit, two_h200, [])
    assert reservation_of(explicit, {"backbone": str(tmp_path / "bert")}, machine).slots == 6
    assert reservation_of(explicit, {"backbone": "hfl/chinese-lert-large"}, machine).slots == 2


def test_a_sweep_that_goes_on_still_decides_by_itself(tmp_path: Path) -> None:
    space = qa_space(tmp_path, '[{when: {backbone: "*bert"}, gpus: auto, cpus: 2}, {gpus: 0.5}]')
    (tmp_path / "again.yaml").write_text(to_yaml(space), encoding="utf-8")
    again = read_search_space(tmp_path / "again.yaml", [])
    assert again.resources == space.resources
    assert [one.resources.shares_gpus for one in again.resources] == [True, False]


def test_nothing_is_asked_without_auto(toy_space: Callable[..., SearchSpace], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "survey_gpus", lambda: pytest.fail("asked"))

    def earlier() -> None:
        pytest.fail("read")

    machine = Machine(16, 2)
    assert with_trial_memory(toy_space("resources.gpus=0.5"), machine, iter(earlier, 1)) == machine  # type: ignore[arg-type]
    assert with_trial_memory(toy_space("resources.gpus=auto"), Machine(16, 0), iter(earlier, 1)) == Machine(16, 0)  # type: ignore[arg-type]


def test_plan_tells_the_decision(
    here: Path, tmp_path: Path, two_h200: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr("sweeper.cluster.capacity.cpu_quota", lambda: None)
    monkeypatch.setattr("sweeper.cluster.capacity.os.sched_getaffinity", lambda pid: set(range(12)))
    backbone = "parameters.backbone=scratch:2x64x2"
    lines = invoke("plan", "quickstart.yaml", "resources.gpus=auto", backbone).stdout
    line = next(line for line in lines.splitlines() if line.startswith("trials: "))
    assert line.startswith("trials: 6 at once: each reserves 2 CPU and 0.3333 GPU, 3 on each GPU, of 12 CPU and 2 GPU")
    assert "gpus: auto: a trial takes 0.6 GiB" in lines
