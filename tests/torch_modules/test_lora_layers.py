"""Each wrapper computes what its merged weight computes, over all the shapes it can meet."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch_modules.models import disturb
from transformers.pytorch_utils import Conv1D

from kameleon.torch_modules import LoraConfig, attach, lora_state_dict, merge


def merges_to_what_it_computes_live(layer, x, rank, *, rslora=False):
    model = nn.Sequential(layer)
    plain = model(x)
    attach(model, LoraConfig(targets=("0",), rank=rank, rslora=rslora))
    assert torch.equal(model(x), plain)
    live = disturb(model, std=0.5)(x)
    by_weight = model[0].weight.detach().clone()
    merge(model)
    assert torch.equal(model[0].weight, by_weight)
    torch.testing.assert_close(model(x), live, rtol=1e-4, atol=1e-4)


SIZES, RANKS = st.integers(1, 9), st.integers(1, 12)


@given(in_size=SIZES, out_size=SIZES, rank=RANKS, batch=st.lists(st.integers(0, 3), max_size=2), rslora=st.booleans(),
       bias=st.booleans())  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_any_linear_layer(in_size, out_size, rank, batch, rslora, bias):
    merges_to_what_it_computes_live(
        nn.Linear(in_size, out_size, bias), torch.randn(*batch, in_size), rank, rslora=rslora
    )
    merges_to_what_it_computes_live(Conv1D(out_size, in_size), torch.randn(*batch, in_size), rank, rslora=rslora)


@given(entries=SIZES, size=SIZES, rank=RANKS, ids=st.lists(st.integers(0, 8), max_size=6))
@settings(max_examples=40, deadline=None)
def test_any_embedding(entries, size, rank, ids):
    ids = torch.tensor(ids, dtype=torch.int64) % entries
    merges_to_what_it_computes_live(nn.Embedding(entries, size), ids, rank)


@given(
    in_size=st.integers(1, 4), out_size=st.integers(1, 4), groups=st.integers(1, 3), rank=st.integers(1, 5),
    kernel=st.integers(1, 3), stride=st.integers(1, 2), dilation=st.integers(1, 2), axes=st.integers(1, 3),
    padding=st.sampled_from([0, 1, "same", "valid"]),
    mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel lengths:UserWarning")
def test_any_convolution(in_size, out_size, groups, rank, kernel, stride, dilation, axes, padding, mode):
    make = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    layer = make(in_size * groups, out_size * groups, kernel, stride=1 if padding == "same" else stride,
                 padding=padding, dilation=dilation, groups=groups, padding_mode=mode)  # fmt: skip
    merges_to_what_it_computes_live(layer, torch.randn(2, in_size * groups, *([6] * axes)), rank)


def test_the_output_is_the_equation():
    model = attach(nn.Sequential(nn.Linear(5, 3)), LoraConfig(targets=("0",), rank=2, alpha=3.0))
    disturb(model)
    layer, x = model[0], torch.randn(4, 5)
    expected = x @ layer.base.weight.T + layer.base.bias + 3.0 / 2 * (x @ layer.lora_a.T) @ layer.lora_b.T
    torch.testing.assert_close(model(x), expected)


def test_rslora_scales_by_the_root_of_the_rank():
    model = attach(nn.Sequential(nn.Linear(5, 3)), LoraConfig(targets=("0",), rank=4, alpha=6.0, rslora=True))
    assert model[0].scaling == 6.0 / math.sqrt(4)


def test_fresh_factors_are_drawn_as_in_peft():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(400, 300), nn.Embedding(300, 400), nn.Conv2d(16, 8, 5))
    state = lora_state_dict(attach(model, LoraConfig(targets=("*",), rank=16)))
    bound = 1 / math.sqrt(400)  # Kaiming uniform with a = √5; 400 inputs, and 16 · 5 · 5 of the convolution
    for key in ("0.lora_a", "2.lora_a"):
        assert 0.98 * bound < state[key].abs().max() <= bound
    assert state["1.lora_b"].std() == pytest.approx(1, abs=0.05)
    assert not any(state[key].any() for key in ("0.lora_b", "1.lora_a", "2.lora_b"))


def test_dropout_only_in_training_and_only_on_the_side_path():
    model = attach(nn.Sequential(nn.Linear(16, 16)), LoraConfig(targets=("0",), dropout=0.5))
    x = torch.randn(4, 16)
    assert torch.equal(model.train()(x), model[0].base(x))
    disturb(model)
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


def test_the_padding_entry_gets_no_gradient():
    model = attach(nn.Sequential(nn.Embedding(5, 4, padding_idx=2)), LoraConfig(targets=("0",)))
    model(torch.tensor([1, 2, 2, 3])).sum().backward()
    moved = model[0].lora_a.grad.abs().sum(0) > 0
    assert moved.tolist() == [False, True, False, True, False]


@torch.no_grad()
def test_code_that_reads_the_weight_instead_of_calling_the_layer_sees_the_change():
    # In evaluation without gradients torch's own encoder layer takes a fast path that reads linear1.weight.
    encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True).eval()
    x = torch.randn(2, 3, 16)
    disturb(attach(encoder, LoraConfig(targets=("linear1", "linear2"))))
    with torch.enable_grad():
        by_calling = encoder(x).detach()
    torch.testing.assert_close(encoder(x), by_calling, rtol=1e-4, atol=1e-5)


def test_a_wrapper_answers_for_its_base_and_says_what_it_is():
    model = attach(nn.Sequential(nn.Conv2d(4, 8, 3, stride=2)), LoraConfig(targets=("0",), rank=2))
    assert (model[0].in_channels, model[0].stride, model[0].bias.shape) == (4, (2, 2), (8,))
    assert "rank=2, scaling=8, merged=False" in repr(model)
    with pytest.raises(AttributeError, match="no attribute 'in_features'"):
        _ = model[0].in_features


def test_half_precision_bases_keep_their_type_and_get_fp32_factors():
    model = attach(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).bfloat16(), LoraConfig(targets=("0", "1")))
    y = disturb(model)(torch.randn(2, 8, dtype=torch.bfloat16))
    y.sum().backward()
    assert y.dtype == torch.bfloat16
    assert {p.dtype for n, p in model.named_parameters() if "lora" in n} == {torch.float32}
    assert all(p.grad is not None and p.grad.any() for n, p in model.named_parameters() if "lora" in n)
