"""The precision of a training follows from what is asked for and from the device; its settings last for one trial."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jobs.job import ParamError
from jobs.params import TrainingParams
from jobs.training.precision import (
    CPU,
    FP32,
    NEEDS,
    Hardware,
    UsedPrecision,
    answering_precision,
    choose_precision,
    computing_in,
    lacking,
    this_device,
    training_precision,
)


def nvidia(name: str, major: int, minor: int) -> Hardware:
    return Hardware("cuda", name, (major, minor))


OLD_CPU, NEW_CPU = Hardware(), Hardware(bf16=True)
P100, V100, T4, RTX_2080 = (
    nvidia("P100", 6, 0),
    nvidia("V100", 7, 0),
    nvidia("Tesla T4", 7, 5),
    nvidia("RTX 2080", 7, 5),
)
A100, RTX_3090, L4, H100, B200 = (
    nvidia("A100", 8, 0),
    nvidia("RTX 3090", 8, 6),
    nvidia("L4", 8, 9),
    nvidia("H100", 9, 0),
    nvidia("B200", 10, 0),
)
AMD = Hardware("rocm", "MI300X", bf16=True)
BF16, FP16, TF32 = UsedPrecision("bf16", True), UsedPrecision("fp16"), UsedPrecision("tf32", True)
ALL = (OLD_CPU, NEW_CPU, P100, V100, T4, RTX_2080, A100, RTX_3090, L4, H100, B200, AMD)
PLAIN_BF16 = UsedPrecision("bf16")
NONE = None

# device, then what is used when this is asked for; None where the device lacks it
TABLE: list[tuple[Hardware, dict[str, UsedPrecision | None]]] = [
    (OLD_CPU, {"auto": FP32, "bf16": NONE, "fp16": NONE, "tf32": NONE, "fp32": FP32}),
    (NEW_CPU, {"auto": FP32, "bf16": PLAIN_BF16, "fp16": NONE, "tf32": NONE, "fp32": FP32}),
    (P100, {"auto": FP32, "bf16": NONE, "fp16": FP16, "tf32": NONE, "fp32": FP32}),
    *((one, {"auto": FP16, "bf16": NONE, "fp16": FP16, "tf32": NONE, "fp32": FP32}) for one in (V100, T4, RTX_2080)),
    *(
        (one, {"auto": BF16, "bf16": BF16, "fp16": UsedPrecision("fp16", True), "tf32": TF32, "fp32": FP32})
        for one in (A100, RTX_3090, L4, H100, B200)
    ),
    (AMD, {"auto": PLAIN_BF16, "bf16": PLAIN_BF16, "fp16": FP16, "tf32": NONE, "fp32": FP32}),
]


@pytest.mark.parametrize(("device", "expected"), TABLE, ids=[f"{one.name} bf16={one.bf16}" for one, _ in TABLE])
def test_each_device_computes_in_what_it_has(device: Hardware, expected: dict[str, UsedPrecision | None]) -> None:
    for asked, used in expected.items():
        if used is not None:
            assert (choose_precision(asked, None, [device]), lacking(asked, device)) == (used, None)
            continue
        with pytest.raises(ParamError) as refused:
            choose_precision(asked, None, [device])
        assert (refused.value.key, str(refused.value)) == ("precision", lacking(asked, device))


def test_a_refusal_names_device_need_and_cure() -> None:
    assert lacking("bf16", T4) == (
        "Tesla T4 (capability 7.5) has no bf16, which needs a GPU from capability 8.0 or a CPU with instructions for "
        "it; choose auto, fp16 or fp32"
    )
    assert lacking("fp16", OLD_CPU) == "the CPU has no fp16, which needs a GPU; choose auto or fp32"
    assert (
        lacking("tf32", AMD)
        == "MI300X has no tf32, which needs a GPU from capability 8.0; choose auto, bf16, fp16 or fp32"
    )
    assert set(NEEDS) == {asked for asked in TABLE[0][1] if any(lacking(asked, device) for device in ALL)}


@pytest.mark.parametrize("device", ALL)
@pytest.mark.parametrize("own", ["low", 3, None])
def test_a_job_may_have_a_parameter_of_that_name_with_another_meaning(own: Any, device: Hardware) -> None:
    """As a job of an earlier version may, which chose its name before there was `precision`."""
    assert lacking(own, device) is None
    assert choose_precision(own, None, [device]) == choose_precision("auto", None, [device])


@pytest.mark.parametrize("device", ALL)
def test_bf16_of_earlier_versions_is_never_refused_and_uses_no_tf32(device: Hardware) -> None:
    has = "bf16" in device.offered
    assert choose_precision("auto", True, [device]) == (PLAIN_BF16 if has else FP32)
    assert choose_precision("auto", False, [device]) == FP32


def test_bf16_of_earlier_versions_warns_where_it_is_fp32(caplog: pytest.LogCaptureFixture) -> None:
    assert training_precision(TrainingParams(bf16=True), [A100]) == PLAIN_BF16
    assert training_precision(TrainingParams(bf16=False), [T4]) == FP32
    assert not caplog.text
    assert training_precision(TrainingParams(bf16=True), [T4]) == FP32
    assert "this device does not support bf16; training in fp32" in caplog.text


ASKED = st.sampled_from(["auto", "bf16", "fp16", "tf32", "fp32"])
DEVICES = st.lists(st.sampled_from(ALL), min_size=1, max_size=4)


@given(ASKED, DEVICES)
def test_workers_on_several_devices_agree_on_what_all_have_whoever_comes_first(
    asked: str, devices: list[Hardware]
) -> None:
    try:
        used = choose_precision(asked, None, devices)
    except ParamError:
        assert any(lacking(asked, device) for device in devices)
        return
    assert all(used.name in device.offered for device in devices)
    assert not used.tf32 or all("tf32" in device.offered for device in devices)
    assert choose_precision(asked, None, devices[::-1]) == used
    assert asked in ("auto", used.name)


@pytest.mark.parametrize(
    ("conditions", "device", "expected"),
    [
        ({"precision": "bf16", "device": "A100"}, H100, BF16),
        ({"precision": "bf16", "device": "A100"}, T4, FP16),
        ({"precision": "bf16", "device": "A100"}, P100, FP32),
        ({"precision": "bf16", "device": "A100"}, NEW_CPU, FP32),
        ({"precision": "fp16", "device": "Tesla T4"}, OLD_CPU, FP32),
        ({"precision": "fp16", "device": "Tesla T4"}, H100, UsedPrecision("fp16", True)),
        ({"precision": "tf32", "device": "A100"}, T4, FP32),
        ({"precision": "fp32", "device": CPU}, H100, FP32),
        ({"precision": "bf16", "device": CPU}, NEW_CPU, PLAIN_BF16),
        ({"precision": "bf16", "device": CPU}, OLD_CPU, FP32),
    ],
)
def test_a_model_answers_in_the_precision_of_its_training_or_the_best_there_is(
    conditions: dict[str, Any], device: Hardware, expected: UsedPrecision
) -> None:
    assert answering_precision(TrainingParams(), conditions, device) == expected
    asked = TrainingParams(precision=conditions["precision"])
    assert answering_precision(asked, conditions, device) == expected


def test_a_model_of_an_earlier_version_answers_as_it_did() -> None:
    for bf16, device, name in (
        (True, A100, "bf16"),
        (True, T4, "fp32"),
        (True, NEW_CPU, "bf16"),
        (False, A100, "fp32"),
    ):
        assert answering_precision(TrainingParams(bf16=bf16), {}, device) == UsedPrecision(name)
    known = {"precision": "bf16", "device": "A100"}
    assert answering_precision(TrainingParams(bf16=True), known, A100) == PLAIN_BF16


@given(ASKED, st.sampled_from(ALL), st.sampled_from(ALL))
def test_answers_never_fail_for_want_of_a_precision(asked: str, trained: Hardware, device: Hardware) -> None:
    try:
        used = choose_precision(asked, None, [trained])
    except ParamError:
        return
    conditions = {"precision": used.name, "device": trained.name}
    for told in (conditions, {}):
        params = TrainingParams(precision=asked)  # type: ignore[arg-type]
        assert answering_precision(params, told, device).name in device.offered


def settings() -> tuple[str, bool, bool]:
    """Return what PyTorch computes float32 products in. Raises RuntimeError if its two interfaces differ."""
    return (
        torch.get_float32_matmul_precision(),
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
    )


@pytest.fixture
def untouched() -> Iterator[tuple[str, bool, bool]]:
    with computing_in(FP32):
        pass  # leaves what this process had, in values of the older interface
    before = settings()
    yield before
    assert settings() == before


def test_tf32_lasts_for_one_training(untouched: tuple[str, bool, bool]) -> None:
    for used, expected in (
        (TF32, ("high", True, True)),
        (FP32, ("highest", False, False)),
        (BF16, ("high", True, True)),
    ):
        with computing_in(used):
            assert settings() == expected
            with computing_in(FP32):
                assert settings() == ("highest", False, False)
            assert settings() == expected
        assert settings() == untouched


def test_an_exception_resets_tf32(untouched: tuple[str, bool, bool]) -> None:
    with pytest.raises(KeyError), computing_in(TF32):
        raise KeyError


@pytest.mark.parametrize("used", [TF32, FP32])
def test_what_trainer_sets_for_a_compiled_model_does_not_last(
    used: UsedPrecision, untouched: tuple[str, bool, bool]
) -> None:
    """transformers writes the general value of the newer interface, accelerate one value of the older."""
    with computing_in(FP32):
        torch.backends.fp32_precision = "tf32"
        torch.backends.cuda.matmul.allow_tf32 = True
        with computing_in(used):
            assert settings() == ("high" if used.tf32 else "highest", used.tf32, used.tf32)


def test_this_machine_has_a_device_that_computes_fp32() -> None:
    device = this_device()
    assert "fp32" in device.offered
    assert (device.kind == "cpu") is not torch.cuda.is_available()


def test_commands_decide_without_torch() -> None:
    code = "import sys, jobs.training.precision; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
