"""A step's profile: every part has a name, forward and backward, and the parts make the whole."""

from types import SimpleNamespace

import pytest
import torch

from kameleon.bench import BenchSettings, Case, operator_times, profile, profile_steps
from kameleon.ops import kernels


def event(name, microseconds, parent=None):
    return SimpleNamespace(name=name, self_cpu_time_total=microseconds, cpu_parent=parent)


def test_time_belongs_to_the_outermost_operator():
    step = event("kameleon step", 95e3)
    forward = event("_LoraLinear", 50e3, step)
    node = event("autograd::engine::evaluate_function: _LoraLinearBackward", 0, step)
    backward = event("_LoraLinearBackward", 20e3, node)
    events = [
        step,
        forward,
        event("aten::mm", 400e3, event("aten::matmul", 0, forward)),
        node,
        backward,
        event("kameleon::gemm", 200e3, backward),
        event("aten::mm", 100e3, backward),
        event("kameleon::rms_norm_back", 5e3, backward),
        event("_FlashAttention", 110e3, step),
        event("aten::add", 19e3, step),
        event("aten::item", 1e3, step),
    ]
    times = {one.operator: one for one in operator_times(events, 2)}
    projections = times["projections and side paths"]
    assert projections.forward_s == pytest.approx(0.225)
    assert projections.backward_s == pytest.approx(0.16)
    assert projections.products_s == pytest.approx(0.35)
    assert projections.share == pytest.approx(0.77)
    assert times["Python between operators"].forward_s == pytest.approx(0.0475)
    assert times["RMS norm"].backward_s == pytest.approx(0.0025)
    assert times["flash attention"].share == pytest.approx(0.11)  # an operator that is not known by name
    assert times["add"].share == pytest.approx(0.019)
    assert times["everything else"].share == pytest.approx(0.001)
    assert sum(one.share for one in times.values()) == pytest.approx(1)
    assert next(iter(times)) == "projections and side paths"


def test_a_real_step_is_told_by_kameleons_own_operators(tiny_folder, monkeypatch):
    monkeypatch.setattr(profile, "_SMALLEST_SHARE", 0)  # on a busy machine any of a tiny base's may be below it
    threads = torch.get_num_threads()
    try:
        document = profile_steps(
            Case("2x20", 2, 20, str(tiny_folder)), BenchSettings(steps=2, threads=1, rank=4, compute="fp32")
        )
    finally:
        torch.set_num_threads(threads)
    names = {one["operator"] for one in document["operators"]}
    assert names >= {"projections and side paths", "head and loss"}
    if kernels().level is not None:
        assert names >= {"RMS norm", "gated activation", "rotary embedding", "attention"}
    assert not [name for name in names if name.startswith("_") or "::" in name]
    told = sum(one["forward_s"] + one["backward_s"] for one in document["operators"])
    assert told == pytest.approx(document["step_s"], rel=0.3)
    projections = next(one for one in document["operators"] if one["operator"] == "projections and side paths")
    assert projections["backward_s"] > 0
    assert 0 < projections["products_s"] < projections["forward_s"] + projections["backward_s"]
