"""GPUs that trials would reserve and cannot use are refused; a table of devices stands for machines with GPUs."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper import doctor
from sweeper.cluster import gpus, nodes, preflight, probe
from sweeper.cluster.capacity import Machine, Node
from sweeper.cluster.gpus import Gpu, GpuSurvey, has_kernels, named_gpus, read_survey, shown_gpus, unusable_reason
from sweeper.errors import EnvironmentFailure
from tests.support.commands import invoke
from tests.support.spaces import TOY

GIB = 2**30
CUDA_13 = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")
T4 = Gpu("Tesla T4", 15 * GIB, "580.65.06", (7, 5))
P100 = Gpu("Tesla P100-PCIE-16GB", 16 * GIB, "580.65.06", (6, 0))
V100 = Gpu("Tesla V100-SXM2-32GB", 32 * GIB, "580.65.06", (7, 0))
H200 = Gpu("NVIDIA H200", 139 * GIB, "580.65.06", (9, 0))
RTX = Gpu("NVIDIA GeForce RTX 4090", 24 * GIB, "580.65.06", (8, 9))
OLD_DRIVER = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver."


def survey(*found: Gpu, **changed: object) -> GpuSurvey:
    """What a machine tells whose GPUs all work."""
    whole = GpuSurvey("2.13.0+cu130", "13.0", kernels=CUDA_13, present=found, usable=found)
    return replace(whole, **changed)  # type: ignore[arg-type]


def unusable(gpu: Gpu, **changed: object) -> GpuSurvey:
    return survey(usable=(), present=(gpu,), **changed)


@pytest.mark.parametrize(
    ("found", "shown", "visible"),
    [
        (survey(T4), 1, None),
        (survey(RTX), 1, "0"),  # built for 8.6, which runs on 8.9
        (survey(H200, H200), 2, "0,1"),
        (survey(T4, RTX), 1, "GPU-0123"),
        (
            survey(Gpu("AMD Instinct MI300X", 192 * GIB, None, (9, 4)), cuda=None, rocm=True, kernels=("gfx942",)),
            1,
            None,
        ),
        (survey(Gpu("a later one", 300 * GIB, "700.1", (13, 0))), 1, None),  # compute_120 is compiled for it
    ],
)
def test_gpus_that_work_are_accepted(found: GpuSurvey, shown: int, visible: str | None) -> None:
    assert unusable_reason(found, shown, visible) is None


@pytest.mark.parametrize(
    ("found", "shown", "visible", "told"),
    [
        (
            unusable(replace(T4, driver="470.82.01"), trouble=OLD_DRIVER),
            1,
            None,
            "GPUs: Tesla T4, 15.0 GiB, driver 470.82.01, capability 7.5: the driver is too old for torch "
            "2.13.0+cu130 for CUDA 13.0; install driver 580 or newer, or a wheel of torch for an older CUDA, or "
            "train on the CPU with resources.gpus=0",
        ),
        (
            unusable(replace(T4, driver="470.82.01"), torch="2.13.0+cu126", cuda="12.6", trouble=OLD_DRIVER),
            1,
            "0",
            "driver is too old for torch 2.13.0+cu126 for CUDA 12.6; install driver 525 or newer",
        ),
        (  # a driver that is new enough, and CUDA fails: its own words
            unusable(H200, trouble="Error 802: system not yet initialized. Setting the available devices to be zero."),
            1,
            None,
            "capability 9.0: torch 2.13.0+cu130 for CUDA 13.0 cannot use it; Error 802: system not yet initialized; "
            "check the driver with nvidia-smi",
        ),
        (
            unusable(H200),
            1,
            "7",
            "cannot use it with CUDA_VISIBLE_DEVICES=7; CUDA shows no GPU; correct CUDA_VISIBLE_DEVICES",
        ),
        (
            unusable(H200, torch="2.13.0+cpu", cuda=None, kernels=(), trouble="Torch not compiled with CUDA enabled"),
            1,
            None,
            "GPUs: NVIDIA H200, 139.0 GiB, driver 580.65.06, capability 9.0: torch 2.13.0+cpu is built without "
            "CUDA and cannot use it; install its wheel for CUDA",
        ),
        (
            survey(P100),
            1,
            None,
            "GPU 0: Tesla P100-PCIE-16GB, 16.0 GiB, driver 580.65.06, capability 6.0: torch 2.13.0+cu130 for CUDA 13.0 "
            "has no kernels for it, only for sm_75 sm_80 sm_86 sm_90 sm_100 sm_120 compute_120; install a wheel of "
            "torch that has them, or train on the CPU with resources.gpus=0",
        ),
        (survey(RTX, V100), 2, None, "GPU 1: Tesla V100-SXM2-32GB"),
        (survey(RTX, V100), 2, None, "name others in CUDA_VISIBLE_DEVICES, or train on the CPU"),
        (survey(RTX), 2, "0,7", "GPUs: CUDA_VISIBLE_DEVICES=0,7 names 2 and CUDA shows 1: NVIDIA GeForce RTX 4090"),
        (
            GpuSurvey("2.13.0+cpu"),
            1,
            "0",
            "GPUs: CUDA_VISIBLE_DEVICES=0 names a GPU and no driver shows one on this machine",
        ),
        (
            GpuSurvey("2.13.0+cu130", "13.0"),
            1,
            None,
            "GPUs: the driver does not answer on this machine; check the driver",
        ),
        (
            GpuSurvey(failure="ImportError: libcudart"),
            1,
            None,
            "GPUs: PyTorch does not tell whether it can use them; Imp",
        ),
    ],
)
def test_gpus_that_cannot_be_used_are_told_with_cause_and_cure(
    found: GpuSurvey, shown: int, visible: str | None, told: str
) -> None:
    reason = unusable_reason(found, shown, visible)
    assert reason is not None
    assert told in reason
    assert "\n" not in reason
    assert reason.endswith("or train on the CPU with resources.gpus=0")


@pytest.mark.parametrize(
    ("capability", "kernels", "runs"),
    [
        ((8, 0), "sm_80", True),
        ((8, 0), "sm_86", False),  # a later one of the same major version
        ((9, 0), "sm_80", False),
        ((9, 0), "compute_80", True),
        ((7, 5), "compute_80", False),
        ((9, 0), "sm_90a", True),
        ((10, 3), "sm_100a", False),
        ((10, 3), "sm_100f", True),
        ((12, 0), "compute_100f", False),
        ((12, 1), "sm_120", True),
        ((8, 0), "gfx90a", False),
    ],
)
def test_a_kernel_runs_on_the_gpus_that_it_was_built_for(capability: tuple[int, int], kernels: str, runs: bool) -> None:
    assert has_kernels(capability, ["sm_50", kernels]) is runs


@given(st.lists(st.integers(0, 9), max_size=4), st.lists(st.integers(0, 9), max_size=2))
def test_what_follows_minus_one_is_no_gpu(before: list[int], after: list[int]) -> None:
    assert named_gpus(",".join(map(str, [*before, -1, *after]))) == len(before)
    assert named_gpus(", ".join(map(str, before))) == len(before)


def test_without_a_driver_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "survey_gpus", lambda: pytest.fail("asked"))
    assert shown_gpus({}, tmp_path) == 0
    assert shown_gpus({"CUDA_VISIBLE_DEVICES": "0,1"}, tmp_path) == 2


@pytest.mark.parametrize(
    ("files", "found", "expected"),
    [
        (["nvidia0", "nvidia1", "nvidiactl"], unusable(H200, cuda=None), 1),  # a container shows one of two
        (["nvidia0", "nvidia1", "nvidiactl"], GpuSurvey(), 2),  # the driver is broken: they are there nevertheless
        (["dxg"], survey(RTX), 1),
        (["nvidiactl"], GpuSurvey(), 0),
    ],
)
def test_gpus_that_cannot_be_used_count(
    files: list[str], found: GpuSurvey, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in files:
        (tmp_path / name).touch()
    monkeypatch.setattr(gpus, "survey_gpus", lambda: found)
    assert shown_gpus({}, tmp_path) == expected


def test_the_drivers_own_program_is_asked_for_each_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\necho 'Tesla T4, 15360, 470.82.01, 7.5'\necho 'GeForce GT 710, [N/A], 470.82.01, [N/A]'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    told = {"torch": "2", "cuda": None, "rocm": False, "kernels": [], "trouble": "none", "usable": []}
    found = read_survey(json.dumps({"driver": probe.driver_rows(), **told}))
    assert found.present == (
        Gpu("Tesla T4", 15 * GIB, "470.82.01", (7, 5)),
        Gpu("GeForce GT 710", 0, "470.82.01", None),
    )
    program.write_text("#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'; exit 18\n")
    assert probe.driver_rows() == []


@pytest.fixture
def machine_tells(monkeypatch: pytest.MonkeyPatch, here: Path) -> Path:
    """A machine whose V100 PyTorch cannot use, and the toy's search space."""
    found = survey(V100)
    for module in (gpus, preflight, nodes, doctor):
        monkeypatch.setattr(module, "survey_gpus", lambda: found)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    (here / "toy.yaml").write_text(TOY, encoding="utf-8")
    return here


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize(
    "resources", ["resources.gpus=1", "resources=[{when: {backbone: hill}, gpus: 0.5}, {gpus: 0}]"]
)
def test_a_sweep_is_refused_in_one_line_before_anything_is_created(
    machine_tells: Path, command: str, resources: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(machine_tells.rglob("*"))
    result = invoke(command, "toy.yaml", resources)
    assert result.exit_code == 4
    (line,) = result.stderr.splitlines()
    assert "has no kernels for it" in line
    assert capfd.readouterr().err == ""  # `run` writes its progress past the runner
    assert sorted(machine_tells.rglob("*")) == before


def test_trials_without_gpus_are_planned_on_any_machine(machine_tells: Path) -> None:
    assert invoke("plan", "toy.yaml", "resources.gpus=0").exit_code == 0


def test_the_check_can_be_switched_off(machine_tells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPER_GPU_CHECK", "0")
    assert invoke("plan", "toy.yaml").exit_code == 0


def test_doctor_lists_each_gpu(machine_tells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "survey_gpus", lambda: survey(T4, V100))
    first, second, reason = doctor.gpu_findings()
    assert (first.what, first.good, second.good) == ("gpu 0", True, False)
    assert first.detail.startswith(f"{T4}: supported by torch 2.13.0+cu130 for CUDA 13.0; ")
    assert "has no kernels for it" in second.detail
    assert (reason.what, reason.good) == ("gpus", False)


def test_a_cluster_is_refused_with_the_name_of_the_node(
    machine_tells: Path, toy_space: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "gpu_reasons", lambda *_, **__: ["node 10.0.0.2: GPUs: none"])
    cluster = Machine(4, 1, (Node("10.0.0.1", 2, 0), Node("10.0.0.2", 2, 1)))
    with pytest.raises(EnvironmentFailure, match=r"node 10\.0\.0\.2"):
        preflight.check_gpus(toy_space(), cluster)  # type: ignore[operator]


@pytest.mark.slow
def test_this_machine_is_asked_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    gpus.survey_gpus.cache_clear()
    found = gpus.survey_gpus()
    assert found.torch.startswith("2.")
    assert found.failure == ""
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "7"
