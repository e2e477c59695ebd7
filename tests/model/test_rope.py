"""Frequencies of the rotary embedding against transformers' own."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from kameleon.model.hf_config import config_from_hf
from kameleon.model.rope import RopeConfig, attention_factor, inv_freq

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALINGS = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {**LLAMA3, "original_max_position_embeddings": 8192},
    "llama3 with other ramps": {
        **LLAMA3,
        "factor": 32.0,
        "low_freq_factor": 2.0,
        "high_freq_factor": 5.0,
        "original_max_position_embeddings": 512,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    "yarn with a short original": {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 128},
    "yarn with betas": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
    },
    "yarn with its own attention factor": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 4096,
        "attention_factor": 0.75,
    },
    "yarn without stretching": {"rope_type": "yarn", "factor": 1.0, "original_max_position_embeddings": 4096},
}


def reference(scaling, theta, head_dim):
    config = LlamaConfig(
        hidden_size=2 * head_dim,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=head_dim,
        max_position_embeddings=131072,
        rope_parameters={**scaling, "rope_theta": theta},
    )
    if scaling["rope_type"] == "default":
        frequencies, factor = LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    else:
        frequencies, factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, "cpu")
    return config, frequencies, factor


@pytest.mark.parametrize("head_dim", [32, 64, 128])
@pytest.mark.parametrize("theta", [10000.0, 500000.0])
@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS.keys())
def test_frequencies_and_factor_equal_transformers(scaling, theta, head_dim):
    config, frequencies, factor = reference(scaling, theta, head_dim)
    rope = config_from_hf(config.to_dict()).rope
    ours = inv_freq(rope, head_dim)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, frequencies, rtol=2e-6, atol=0)
    assert attention_factor(rope) == pytest.approx(factor, rel=1e-9)


@given(
    kind=st.sampled_from(["linear", "llama3", "yarn"]),
    factor=st.floats(1.0, 64.0),
    theta=st.floats(1000.0, 1e7),
    original=st.integers(64, 65536),
    half=st.integers(4, 64),
)
@settings(max_examples=60, deadline=None)
def test_any_scaling_equals_transformers(kind, factor, theta, original, half):
    scaling = {"rope_type": kind, "factor": factor}
    if kind != "linear":
        scaling["original_max_position_embeddings"] = original
    if kind == "llama3":
        scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config, frequencies, expected = reference(scaling, theta, 2 * half)
    rope = config_from_hf(config.to_dict()).rope
    torch.testing.assert_close(inv_freq(rope, 2 * half), frequencies, rtol=1e-5, atol=0)
    assert attention_factor(rope) == pytest.approx(expected, rel=1e-9)


def test_default_turns_fall_from_one_radian_by_a_constant_ratio():
    ours = inv_freq(RopeConfig(theta=10000.0), 8)
    torch.testing.assert_close(ours, torch.tensor([1.0, 0.1, 0.01, 0.001]))


def test_divisors_of_a_gguf_equal_the_llama3_scaling_they_stand_for():
    llama3 = RopeConfig(theta=5e5, kind="llama3", factor=8.0, original_max_positions=8192)
    plain = inv_freq(RopeConfig(theta=5e5), 128)
    divisors = tuple((plain / inv_freq(llama3, 128)).tolist())
    assert max(divisors) == pytest.approx(8.0)
    ours = inv_freq(RopeConfig(theta=5e5, divisors=divisors), 128)
    torch.testing.assert_close(ours, inv_freq(llama3, 128))


def test_only_yarn_changes_the_attention_factor():
    assert attention_factor(RopeConfig(kind="yarn", factor=4.0)) == pytest.approx(0.1 * math.log(4.0) + 1)
    for kind in ("default", "linear", "llama3"):
        assert attention_factor(RopeConfig(kind=kind, factor=4.0, attention_factor=0.5)) == 1.0
