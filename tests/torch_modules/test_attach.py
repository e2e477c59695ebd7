"""Side paths onto a whole model: nothing changes at first, only they train, and they come off without a trace."""

import copy

import pytest
import torch
from torch import nn
from torch_modules.models import PICTURES, SmallCnn, disturb, gpt2_output, mamba, same, snapshot

from kameleon.errors import LoraError
from kameleon.torch_modules import LoraConfig, attach, count, detach, layers, lora_state_dict


@torch.no_grad()
def test_a_fresh_side_path_changes_nothing_to_the_bit(subject):
    before = subject.run(subject.model)
    attach(subject.model, subject.config)
    assert list(layers(subject.model))
    assert torch.equal(subject.run(subject.model), before)
    assert torch.equal(subject.run(detach(subject.model)), before)
    assert not list(layers(subject.model))


@pytest.mark.parametrize("grad", [False, True])
def test_attached_mamba_says_what_frozen_mamba_says(grad):
    """Its mixer multiplies with a bare weight, where torch looks whether that gets gradients."""
    torch.manual_seed(0)
    model = mamba()
    with torch.set_grad_enabled(grad):
        frozen = gpt2_output(model.requires_grad_(requires_grad=False))
        assert torch.equal(gpt2_output(attach(model.requires_grad_(), LoraConfig(targets=("in_proj",)))), frozen)


def test_where_torch_takes_another_way_for_frozen_weights_only_last_bits_change():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    model, x = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval(), torch.randn(2, 3, 32)
    trainable = model(x)
    attached = attach(model, LoraConfig(targets=("linear1",)))(x)
    torch.testing.assert_close(attached, trainable, rtol=1e-5, atol=1e-5)


def test_every_side_path_trains_and_the_base_stays_as_it_was_after_detaching(subject):
    model, config, run = subject
    before = snapshot(model)
    attach(model, config).train()
    assert all(p.requires_grad == ("lora_" in name) for name, p in model.named_parameters())
    disturb(model)
    fresh = lora_state_dict(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)  # leaves out what has no gradient
    output = run(model).flatten()
    (output * torch.arange(len(output)).cos()).sum().backward()
    assert all(p.grad.any() for name, p in model.named_parameters() if "lora_" in name)
    optimizer.step()
    trained = lora_state_dict(model)
    assert all(not torch.equal(fresh[key], trained[key]) for key in fresh if "lora_" in key)
    assert same(snapshot(detach(model)), before)


def test_batch_norm_keeps_its_statistics_and_is_released_by_detach():
    model = SmallCnn().train()
    attach(model, LoraConfig(targets=("stem",)))
    before = snapshot(model.norm)
    in_training = model.train()(PICTURES)
    assert same(snapshot(model.norm), before)
    assert torch.equal(in_training, model.eval()(PICTURES))
    detach(model).train()(PICTURES)
    assert not same(snapshot(model.norm), before)


def test_attaching_twice_is_refused():
    model = attach(SmallCnn(), LoraConfig(targets=("head",)))
    with pytest.raises(LoraError, match="has side paths already"):
        attach(model, LoraConfig(targets=("stem",)))


def test_detaching_a_plain_model_is_refused():
    with pytest.raises(LoraError, match="no side paths"):
        detach(SmallCnn())


def test_a_module_that_stands_in_two_places_is_wrapped_once_in_both():
    shared = nn.Linear(4, 4)
    model = nn.ModuleDict({"a": shared, "b": shared})
    attach(model, LoraConfig(targets=("a",)))
    assert model["a"] is model["b"]
    assert len(list(layers(model))) == 1
    detach(model)
    assert model["a"] is shared
    assert model["b"] is shared


def test_counts():
    model = nn.Sequential(nn.Linear(1000, 1000, bias=False))
    counted = count(attach(model, LoraConfig(targets=("0",), rank=4)))
    assert (counted.trainable, counted.frozen) == (8000, 1_000_000)
    assert counted.share == pytest.approx(8000 / 1_008_000)


def test_a_weight_that_two_layers_share_counts_once():
    model = nn.ModuleDict({"embed": nn.Embedding(10, 4), "head": nn.Linear(4, 10, bias=False)})
    model["head"].weight = model["embed"].weight
    assert count(attach(model, LoraConfig(targets=("embed",), rank=2))).frozen == 40


def test_a_deep_copy_is_independent_merged_or_not():
    model = attach(SmallCnn(), LoraConfig(targets=("head",)))
    twin = copy.deepcopy(model)
    disturb(model)
    assert not twin.head.lora_b.any()
    twin.head.base.weight.data.zero_()
    assert model.head.base.weight.any()


def test_a_training_mode_set_before_is_kept():
    assert attach(SmallCnn().train(), LoraConfig(targets=("head",))).head.dropout.training
    assert not attach(SmallCnn().eval(), LoraConfig(targets=("head",))).head.dropout.training
