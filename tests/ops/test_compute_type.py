"""The type to multiply in follows from the features of the CPU and from which products run, and from no clock."""

import time
from typing import get_args

import pytest
import torch

import kameleon
from kameleon.errors import SettingError
from kameleon.ops import COMPUTE_TYPES, choose_compute_type, compute_type, native
from kameleon.settings import ComputeName


@pytest.fixture
def on(monkeypatch):
    """What is chosen where kernels of `level` run, torch finds `capability`, and the CPU has these units."""

    def chosen(level, capability, units=()):
        monkeypatch.setattr(compute_type, "choice", lambda: native.Choice(level, "made up"))
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: "avx512_bf16" in units)
        monkeypatch.setattr(compute_type, "torch_has_amx", lambda: "amx" in units and capability == "AVX512")
        return choose_compute_type()

    return chosen


@pytest.mark.parametrize(
    ("level", "capability", "units", "reason"),
    [
        ("avx512bf16", "AVX512", ["avx512_bf16"], "bf16: the kernels multiply in this CPU's AVX512-BF16 units"),
        ("avx512bf16", "AVX512", ["avx512_bf16", "amx"], "bf16: torch multiplies in this CPU's AMX units"),
        ("avx2", "AVX512", ["avx512_bf16", "amx"], "bf16: torch multiplies in this CPU's AMX units"),
        (None, "AVX512", ["avx512_bf16"], "bf16: torch multiplies in this CPU's AVX512-BF16 units"),
        ("avx512", "AVX512", [], "fp32: the kernels of level avx512 use no bf16 units"),
        ("avx2", "AVX512", ["avx512_bf16"], "fp32: the kernels of level avx2 use no bf16 units"),  # KAMELEON_NATIVE
        ("avx2", "AVX2", ["avx512_bf16", "amx"], "fp32: the kernels of level avx2 use no bf16 units"),
        ("neon", "DEFAULT", [], "fp32: the kernels of level neon use no bf16 units"),
        (None, "AVX2", ["avx512_bf16", "amx"], "fp32: torch uses no bf16 units here (AVX2)"),  # ATEN_CPU_CAPABILITY
    ],
)
def test_bf16_is_taken_where_the_products_that_run_have_units_for_it(on, level, capability, units, reason):
    found = on(level, capability, units)
    assert found.reason == reason
    assert reason.startswith(found.name)
    assert found.dtype == COMPUTE_TYPES[found.name]


def test_no_clock_decides(tiny_folder, monkeypatch):
    def read(*_):
        raise AssertionError("a clock was read")

    wanted = choose_compute_type()
    for clock in ("perf_counter", "perf_counter_ns", "monotonic", "process_time", "thread_time", "time"):
        monkeypatch.setattr(time, clock, read)
    assert choose_compute_type() == wanted
    base = kameleon.load(str(tiny_folder)).base
    assert (base.compute_dtype, base.compute_reason) == (wanted.dtype, wanted.reason)


def test_a_wish_for_other_products_counts(monkeypatch):
    monkeypatch.setenv(native.SWITCH, "off")
    monkeypatch.setattr(compute_type, "choice", native.choice.__wrapped__)
    monkeypatch.setattr(compute_type, "torch_has_amx", lambda: False)
    assert "torch" in choose_compute_type().reason


def test_a_type_that_is_asked_for_is_taken_and_any_other_is_refused():
    assert choose_compute_type(torch.float32).reason == "fp32: asked for"
    assert choose_compute_type(torch.bfloat16).reason == "bf16: asked for"
    for other in (torch.float16, "bf16"):
        with pytest.raises(SettingError, match=r"is no type to compute in; give torch.bfloat16 or torch.float32"):
            choose_compute_type(other)  # type: ignore[arg-type]


def test_each_name_has_a_type():
    assert get_args(ComputeName) == tuple(COMPUTE_TYPES)
