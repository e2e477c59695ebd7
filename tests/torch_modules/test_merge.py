"""Merging: the same output within a measured error, the exact way back, and no harm to a twin."""

import copy

import pytest
import torch
from torch import nn
from torch_modules.models import PICTURES, SmallCnn, disturb, gpt2, gpt2_output, same, snapshot

from kameleon.errors import LoraError
from kameleon.torch_modules import LoraConfig, attach, detach, layers, merge, unmerge


@torch.no_grad()
def test_merging_keeps_the_output_and_unmerging_restores_every_bit(subject):
    model, config, run = subject
    plain = run(model)
    disturb(attach(model, config))
    live, before = run(model), snapshot(model)
    assert not torch.allclose(live, plain, atol=1e-3)
    report = merge(model, run)
    merged = run(model)
    torch.testing.assert_close(merged, live, rtol=1e-4, atol=1e-5)
    assert report.modules == len(list(layers(model)))
    assert report.output_gap_max == float((merged - live).abs().max())
    assert report.rounding_max < 1e-6
    unmerge(model)
    assert same(snapshot(model), before)
    assert torch.equal(run(model), live)


@torch.no_grad()
def test_merging_twice_is_merging_once_and_reports_the_same(subject):
    model, config, run = subject
    disturb(attach(model, config))
    first = merge(model, run)
    once, before = run(model), snapshot(model)
    assert merge(model, run) == first
    assert same(snapshot(model), before)
    assert torch.equal(run(model), once)
    unmerge(model)
    unmerge(model)
    assert not any(layer.merged for _, layer in layers(model))


@torch.no_grad()
def test_detaching_a_merged_model_leaves_a_plain_one_with_the_change():
    model = SmallCnn().eval()
    names = snapshot(model).keys()
    disturb(attach(model, LoraConfig(targets=("stem", "depthwise", "head"))))
    live = model(PICTURES)
    merge(model)
    detach(model)
    torch.testing.assert_close(model(PICTURES), live, rtol=1e-4, atol=1e-5)
    assert snapshot(model).keys() == names


@pytest.mark.parametrize(("target", "twin"), [("wte", "lm_head.weight"), ("lm_head", "transformer.wte.weight")])
def test_a_tied_weight_never_changes_behind_its_twin(target, twin):
    model = gpt2()
    tied = model.get_parameter(twin)
    before = tied.detach().clone()
    disturb(attach(model, LoraConfig(targets=(target,))))
    merge(model)
    assert torch.equal(model.get_parameter(twin), before)
    with pytest.raises(LoraError, match=rf"{target} shared its weight with {twin}.*untie"):
        detach(model)
    unmerge(model)
    detach(model)
    assert model.lm_head.weight is model.transformer.wte.weight is tied


def test_both_of_a_tied_pair_merged_are_refused_too():
    model = gpt2()
    disturb(attach(model, LoraConfig(targets=("wte", "lm_head"))))
    merge(model)
    with pytest.raises(LoraError, match="wte shared its weight with lm_head"):
        detach(model)
    unmerge(model)
    detach(model)
    assert model.lm_head.weight is model.transformer.wte.weight


def test_bf16_reports_the_rounding_that_merging_costs_and_restores_every_bit():
    model = nn.Sequential(nn.Linear(64, 64)).bfloat16()
    disturb(attach(model, LoraConfig(targets=("0",))))
    frozen = model[0].base.weight.detach().clone()
    x = torch.randn(2, 64, dtype=torch.bfloat16)
    live = model(x)
    assert live.dtype == torch.bfloat16
    report = merge(model, lambda m: m(x))
    assert 1e-5 < report.rounding_max < 1e-2
    assert report.output_gap_max > 0
    unmerge(model)
    assert torch.equal(model[0].base.weight, frozen)
    assert torch.equal(model(x), live)


def test_the_example_runs_in_evaluation_and_the_modes_come_back():
    model = disturb(attach(SmallCnn().train(), LoraConfig(targets=("head",), dropout=0.9)))
    model.stem.eval()
    modes = [module.training for module in model.modules()]
    assert merge(model, lambda m: m(PICTURES)).output_gap_max < 1e-5
    assert [module.training for module in model.modules()] == modes


def test_a_damaged_factor_is_refused_and_nothing_is_merged():
    model = disturb(attach(SmallCnn(), LoraConfig(targets=("stem", "head"))))
    model.head.lora_b.data[0, 0] = float("nan")
    with pytest.raises(LoraError, match="weight of head would hold infinite numbers or NaN"):
        merge(model)
    assert not any(layer.merged for _, layer in layers(model))


@pytest.mark.parametrize("operation", [merge, unmerge])
def test_a_model_without_side_paths_is_refused(operation):
    with pytest.raises(LoraError, match="no side paths"):
        operation(SmallCnn())


def test_a_merged_model_can_be_copied_and_converted_and_still_goes_back():
    model = disturb(attach(gpt2(), LoraConfig(targets=("wte", "c_attn"))))
    merge(model)
    twin = copy.deepcopy(model).double()
    unmerge(twin)
    assert twin.transformer.wte.base.weight is twin.lm_head.weight
    assert {p.dtype for p in twin.parameters()} == {torch.float64}
    with torch.no_grad():
        live = gpt2_output(unmerge(model) or model)
        torch.testing.assert_close(gpt2_output(twin).float(), live, rtol=1e-4, atol=1e-5)
