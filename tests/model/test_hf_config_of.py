"""A config.json that says what a GGUF file says."""

from dataclasses import replace

import pytest
from tiny import FAMILIES, reference_model

from kameleon.errors import UnsupportedArchitectureError
from kameleon.model.hf_config import config_from_hf
from kameleon.model.hf_config_of import hf_config_of
from kameleon.model.rope import RopeConfig, inv_freq


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "mistral"])
def test_it_is_read_again_as_the_same_decoder(family):
    config = config_from_hf(reference_model(family).config.to_dict())
    if family == "gemma3":  # a GGUF file has no scaling of full attention and no offset of norms
        rope = replace(config.rope, kind="default", factor=1.0)
        config = replace(config, rope=rope, norm_offset=0.0)
    values, made = hf_config_of(config)
    assert replace(made, norm_offset=config.norm_offset) == config
    assert values["architectures"] == reference_model(family).config.architectures or values["architectures"]


def test_the_divisors_of_llama_3_are_named_and_others_refused():
    config = config_from_hf(reference_model("llama tied").config.to_dict())
    llama3 = RopeConfig(kind="llama3", theta=500000.0, factor=32.0, original_max_positions=8192)
    divisors = inv_freq(RopeConfig(theta=500000.0), 64) / inv_freq(llama3, 64)
    stored = RopeConfig(theta=500000.0, divisors=tuple(divisors.tolist()))
    values, _ = hf_config_of(replace(config, head_dim=64, rope=stored))
    assert values["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": 32.0,
        "original_max_position_embeddings": 8192,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }
    odd = replace(stored, divisors=tuple(float(i + 1) for i in range(32)))
    with pytest.raises(UnsupportedArchitectureError, match="not those of Llama 3"):
        hf_config_of(replace(config, head_dim=64, rope=odd))
