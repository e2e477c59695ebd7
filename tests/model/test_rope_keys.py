"""Rotary embeddings from a config.json."""

import pytest
from configs import new_style, old_style

from kameleon.errors import WeightsError
from kameleon.model.hf_config import config_from_hf
from kameleon.model.rope import RopeConfig


@pytest.mark.parametrize("style", [old_style, new_style])
def test_llama3_scaling_is_read_in_both_styles(style):
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 2.0,
        "high_freq_factor": 5.0,
        "original_max_position_embeddings": 128,
    }
    expected = RopeConfig(
        theta=500000.0,
        kind="llama3",
        factor=8.0,
        original_max_positions=128,
        low_freq_factor=2.0,
        high_freq_factor=5.0,
    )
    assert config_from_hf(style("llama", rope_parameters=rope)).rope == expected


def test_the_oldest_style_names_the_scaling_type():
    config = old_style("llama") | {"rope_scaling": {"type": "linear", "factor": 2.0}}
    assert config_from_hf(config).rope == RopeConfig(50000.0, "linear", 2.0, 512)


def test_yarn_without_a_factor_takes_the_ratio_of_lengths():
    scaling = {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 128}
    assert config_from_hf(old_style("qwen2") | {"rope_scaling": scaling}).rope.factor == 4.0


@pytest.mark.parametrize("key", ["mscale", "mscale_all_dim", "truncate", "partial_rotary_factor", "attention_factor"])
def test_null_in_a_scaling_is_as_if_it_were_left_out(key):
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    expected = config_from_hf(old_style("qwen2") | {"rope_scaling": scaling})
    assert config_from_hf(old_style("qwen2") | {"rope_scaling": scaling | {key: None}}) == expected
    assert config_from_hf(old_style("qwen2") | {"rope_scaling": scaling | {"truncate": True}}) == expected


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor is 0.0; it must be above 0"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": -2.0}}, "factor is -2.0"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "beta_fast": 0}}, "beta_fast is 0.0"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "beta_slow": -1}}, "beta_slow is -1.0"),
        ({"rope_theta": 0}, "theta is 0.0; it must be above 1"),
        ({"rope_theta": 1, "rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "theta is 1.0"),
    ],
)
def test_rope_numbers_that_make_no_frequencies_are_refused(extra, said):
    with pytest.raises(WeightsError, match=said):
        config_from_hf(old_style("llama") | extra)
