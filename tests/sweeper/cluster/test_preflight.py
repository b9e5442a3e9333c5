"""A precision that a file names and a device lacks is refused before anything is created; one that it has is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from jobs.dataset.data import Data
from sweeper import doctor
from sweeper.cluster import gpus, nodes, preflight, probe
from sweeper.cluster.capacity import Machine, Node
from sweeper.cluster.gpus import Gpu, GpuSurvey
from sweeper.cluster.nodes import VisibleGpus
from sweeper.errors import EnvironmentFailure
from sweeper.space.reading import read_search_space
from sweeper.space.search_space import SearchSpace
from tests.support.commands import invoke
from tests.support.own_job import JOB
from tests.support.spaces import TOY
from tests.sweeper.cluster.test_gpus import GIB, H200, T4, survey

QA = """\
name: reader
job: qa
data: sample
objective: exact_match
parameters:
  backbone: scratch:1x32x2
  learning_rate: {values: [1e-3, 2e-3]}
  num_train_epochs: 1
  precision: PRECISION
search: {sampler: random, trials: 2}
"""
MI300X = Gpu("AMD Instinct MI300X", 192 * GIB, None, (9, 4))
AMD = survey(MI300X, cuda=None, rocm=True, kernels=("gfx942",))
CHOICE = "{values: [auto, fp16]}"
NAMED = "reader: parameters.precision: "


@pytest.fixture
def space(tmp_path: Path, few: Data) -> Callable[..., SearchSpace]:
    def make(precision: str, *overrides: str) -> SearchSpace:
        file = tmp_path / "reader.yaml"
        text = QA.replace("PRECISION", precision).replace(
            "data: sample", f"data: {few.location}"
        )  # few questions are read faster
        file.write_text(text, encoding="utf-8")
        return read_search_space(file, overrides)

    return make


@pytest.fixture
def machine_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[GpuSurvey | None], Machine]:
    """Make this machine tell a survey; with None it must not be asked, since that starts PyTorch."""

    def make(found: GpuSurvey | None) -> Machine:
        monkeypatch.setattr(preflight, "survey_gpus", lambda: found or pytest.fail("PyTorch was started"))
        return Machine(8, len(found.usable) if found else 0)

    return make


def refusal(space: SearchSpace, machine: Machine) -> str | None:
    try:
        preflight.check_gpus(space, machine)
    except EnvironmentFailure as failure:
        (line,) = failure.lines
        return line
    return None


@pytest.mark.parametrize(
    ("precision", "found", "told"),
    [
        ("bf16", survey(T4), "Tesla T4 (capability 7.5) has no bf16, which needs a GPU from capability 8.0"),
        ("tf32", survey(T4), "choose auto, fp16 or fp32"),
        ("{values: [fp16, bf16]}", survey(T4), "Tesla T4 (capability 7.5) has no bf16"),
        ("tf32", AMD, "AMD Instinct MI300X has no tf32"),
        ("bf16", survey(H200, T4), "choose auto, fp16 or fp32, or name other GPUs in CUDA_VISIBLE_DEVICES"),
        ("[{when: {learning_rate: 0.002}, value: bf16}, {value: fp16}]", survey(T4), "Tesla T4 (capability 7.5)"),
    ],
)
def test_a_precision_that_a_gpu_lacks_is_refused(
    space: Callable[..., SearchSpace], machine_with: Callable[..., Machine], precision: str, found: GpuSurvey, told: str
) -> None:
    line = refusal(space(precision), machine_with(found))
    assert line is not None
    assert line.startswith(NAMED)
    assert told in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("precision", "found"),
    [
        ("fp16", survey(T4)),
        ("{values: [bf16, fp16, tf32, fp32, auto]}", survey(H200)),
        ("{values: [bf16, fp16]}", AMD),
        ("auto", survey(T4, H200)),
        ("fp32", survey(T4)),
    ],
)
def test_a_precision_that_each_gpu_has_is_accepted(
    space: Callable[..., SearchSpace], machine_with: Callable[..., Machine], precision: str, found: GpuSurvey
) -> None:
    assert refusal(space(precision), machine_with(found)) is None


@pytest.mark.parametrize("gpus_here", [0, 1])
def test_trials_without_gpus_are_refused_for_what_no_cpu_has_without_starting_pytorch(
    space: Callable[..., SearchSpace], machine_with: Callable[..., Machine], gpus_here: int
) -> None:
    machine = replace(machine_with(None), gpus=gpus_here)
    for precision in ("fp16", CHOICE):
        line = refusal(space(precision, "resources.gpus=0"), machine)
        assert line == f"{NAMED}the CPU has no fp16, which needs a GPU; choose auto or fp32"
    for precision in ("auto", "fp32"):
        assert refusal(space(precision, "resources.gpus=0"), machine) is None


@pytest.mark.parametrize(("has", "refused"), [(True, False), (False, True), (None, False)])
def test_bf16_on_a_cpu_needs_its_instructions(
    space: Callable[..., SearchSpace], machine_with: Callable[..., Machine], has: bool | None, refused: bool
) -> None:
    machine = replace(machine_with(GpuSurvey("2.13.0+cpu", cpu_bf16=has)), gpus=1)
    line = refusal(space("bf16", "resources.gpus=0"), machine)
    assert (line is not None) is refused
    if line:
        assert line.startswith(f"{NAMED}the CPU has no bf16")


def test_trials_on_gpus_and_trials_on_cpus_are_checked_each_for_what_they_may_draw(
    space: Callable[..., SearchSpace], machine_with: Callable[..., Machine]
) -> None:
    machine = machine_with(survey(T4))
    apart = "resources=[{when: {precision: fp16}, gpus: 1}, {gpus: 0}]"
    assert refusal(space("{values: [fp16, fp32]}", apart), machine) is None
    line = refusal(space("{values: [fp16, fp32]}", "resources=[{when: {precision: fp16}, gpus: 0}]"), machine)
    assert line == f"{NAMED}the CPU has no fp16, which needs a GPU; choose auto or fp32"


def test_enqueued_trials_are_checked(space: Callable[..., SearchSpace], machine_with: Callable[..., Machine]) -> None:
    enqueued = space("auto", "search.enqueue=[{precision: tf32}]")
    assert "has no tf32" in str(refusal(enqueued, machine_with(survey(T4))))


def test_bf16_of_earlier_versions_is_not_refused(
    space: Callable[..., SearchSpace], machine_with: Callable[..., Machine]
) -> None:
    earlier = space("auto", "parameters.bf16=true")
    assert refusal(earlier, machine_with(survey(T4))) is None
    assert refusal(space("auto", "parameters.bf16=true", "resources.gpus=0"), machine_with(None)) is None


def test_a_job_without_the_parameter_is_not_asked_about_it(
    toy_space: Callable[..., SearchSpace], machine_with: Callable[..., Machine]
) -> None:
    assert refusal(toy_space(), machine_with(survey(T4))) is None


def test_a_precision_of_a_job_of_the_users_own_may_mean_anything(
    tmp_path: Path, machine_with: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = JOB.replace("    seed:", '    precision: str = "bf16"\n    seed:')
    (tmp_path / "own_precision.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "own.yaml"
    file.write_text(TOY.replace("tests.toy:JOB", "own_precision:JOB").replace("[hill, valley]", "[hill]"))
    assert refusal(read_search_space(file, ["parameters.precision=finest"]), machine_with(survey(T4))) is None


def test_each_node_of_a_cluster_is_checked_with_the_trials_that_it_can_run(
    space: Callable[..., SearchSpace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node without a GPU runs no trial that reserves one."""
    answers = {"a": GpuSurvey("2.13.0+cpu", cpu_bf16=False), "b": survey(H200), "c": survey(T4, cpu_bf16=True)}
    live = [
        {
            "NodeID": name,
            "NodeManagerAddress": f"host-{name}",
            "Resources": {"CPU": 4.0, "GPU": float(len(told.usable))},
        }
        for name, told in answers.items()
    ]
    asked: list[str] = []

    def ask(node: str, function: object, with_gpus: bool) -> str:
        asked.append(node)
        return node

    monkeypatch.setattr(nodes, "live_ray_nodes", lambda: live)
    monkeypatch.setattr(nodes, "call_on_node", ask)
    monkeypatch.setattr(ray, "get", lambda node, timeout: VisibleGpus(answers[node], None))
    cluster = Machine(12, 2, (Node("host-a", 4, 0), Node("host-b", 4, 1), Node("host-c", 4, 1)))
    assert str(refusal(space("bf16"), cluster)).startswith(f"node host-c: {NAMED}Tesla T4")
    assert asked == ["b", "c"]
    assert refusal(space("fp16"), cluster) is None
    line = refusal(space("bf16", "resources.gpus=0"), cluster)
    assert str(line).startswith(f"node host-a: {NAMED}the CPU has no bf16")


@pytest.mark.parametrize(
    ("overrides", "found", "told"),
    [
        (
            ["resources.gpus=0"],
            GpuSurvey(compilers=("C",)),
            "there is no C++ compiler; install gcc and g++, name a compil",
        ),
        (
            [],
            survey(T4, compilers=("C++",)),
            "there is no C compiler; install gcc and g++, name a compiler in CC, or set",
        ),
        (["resources.gpus=0"], GpuSurvey(compilers=("C++",)), None),
        ([], survey(T4, compilers=("C",)), None),
        (["resources.gpus=0", "parameters.torch_compile={values: [true, false]}"], GpuSurvey(compilers=()), "no C++"),
    ],
)
def test_a_model_is_compiled_where_there_is_a_compiler(
    space: Callable[..., SearchSpace], machine_with: Callable[..., Machine], overrides: list[str], found: GpuSurvey,
    told: str | None,
) -> None:  # fmt: skip
    line = refusal(space("auto", "parameters.torch_compile=true", *overrides), machine_with(found))
    assert (line is None) if told is None else str(line).startswith("reader: parameters.torch_compile: ")
    assert (told or "") in str(line)


def test_the_probe_looks_for_the_compilers_that_torch_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    assert probe.compilers() == []
    for name in ("gcc", "mine"):
        (tmp_path / name).touch(0o755)
    assert probe.compilers() == ["C"]
    monkeypatch.setenv("CXX", "mine")
    assert probe.compilers() == ["C++", "C"]
    monkeypatch.setenv("CC", "missing")
    assert probe.compilers() == ["C++"]


@pytest.mark.parametrize("command", ["plan", "run"])
def test_the_commands_end_in_one_line_before_anything_is_created(
    here: Path, command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "reader.yaml").write_text(QA.replace("PRECISION", CHOICE), encoding="utf-8")
    before = sorted(here.rglob("*"))
    result = invoke(command, "reader.yaml", "resources.gpus=0")
    assert (result.exit_code, result.stderr) == (
        4,
        f"{NAMED}the CPU has no fp16, which needs a GPU; choose auto or fp32\n",
    )
    assert capfd.readouterr().err == ""
    assert sorted(here.rglob("*")) == before


def test_doctor_tells_what_auto_is_on_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    found = survey(T4, H200)
    monkeypatch.setattr(doctor, "survey_gpus", lambda: found)
    monkeypatch.setattr(doctor, "shown_gpus", lambda: 2)
    details = [one.detail.partition("; ")[2] for one in doctor.gpu_findings()]
    assert details == ["trains in fp16 with precision: auto", "trains in bf16 with precision: auto"]
    assert gpus.hardware(MI300X, AMD).offered[0] == "bf16"
