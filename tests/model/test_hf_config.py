"""The decoder's shape from a config.json of every family and age."""

import pytest
from configs import CLASSES, SIZES, new_style, old_style, windows
from transformers import LlamaConfig, Qwen3Config

from kameleon.errors import UnsupportedArchitectureError, WeightsError
from kameleon.model.families import families
from kameleon.model.family import QKV
from kameleon.model.hf_config import config_from_hf
from kameleon.model.rope import RopeConfig


@pytest.mark.parametrize("style", [old_style, new_style])
@pytest.mark.parametrize("family", CLASSES)
def test_every_family_is_read_in_both_styles(family, style):
    config = config_from_hf(style(family))
    assert config.family == family
    assert (config.vocab_size, config.hidden_size, config.intermediate_size) == (99, 64, 96)
    assert (config.num_layers, config.num_heads, config.num_kv_heads) == (3, 4, 2)
    assert config.head_dim == CLASSES[family](**SIZES).to_dict().get("head_dim", 16)
    assert config.rms_norm_eps == 1e-5
    assert config.rope == RopeConfig(theta=50000.0, original_max_positions=512)
    assert config.tie_word_embeddings
    assert config.biases == (QKV if family == "qwen2" else set())
    assert config.qk_norm == (family == "qwen3")
    assert config.max_sequence_tokens == 512
    assert config.stop_token_ids == {7}


def test_left_out_keys_have_the_familys_defaults():
    config = {k: SIZES[k] for k in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
    config |= {"model_type": "llama", "num_attention_heads": 4}
    read = config_from_hf(config)
    plain = LlamaConfig(**{k: v for k, v in config.items() if k != "model_type"})
    assert (read.num_kv_heads, read.head_dim) == (plain.num_key_value_heads, plain.head_dim) == (4, 16)
    assert read.rms_norm_eps == plain.rms_norm_eps
    assert read.rope.theta == plain.rope_parameters["rope_theta"]
    assert read.max_sequence_tokens == plain.max_position_embeddings
    assert read.tie_word_embeddings == plain.tie_word_embeddings
    assert read.stop_token_ids == frozenset()
    config["num_key_value_heads"] = 2
    assert config_from_hf(config | {"model_type": "qwen3"}).head_dim == Qwen3Config().head_dim
    for family, one in CLASSES.items():
        read = config_from_hf(config | {"model_type": family})
        assert read.max_sequence_tokens == one().max_position_embeddings


@pytest.mark.parametrize("family", CLASSES)
def test_key_value_heads_that_are_left_out_or_null_are_as_in_transformers(family):
    config = {**SIZES, "hidden_size": 1024, "num_attention_heads": 64}
    del config["num_key_value_heads"]
    read = config_from_hf({"model_type": family, **config})
    assert read.num_kv_heads == CLASSES[family](**config).num_key_value_heads
    null = config_from_hf({"model_type": family, **config, "num_key_value_heads": None})
    assert null.num_kv_heads == 64  # transformers refuses it of Mistral


def test_a_head_dim_of_its_own_is_kept():
    for family in ("llama", "mistral", "qwen3"):
        assert config_from_hf(new_style(family, head_dim=32)).head_dim == 32


@pytest.mark.parametrize(
    ("own", "generation", "expected"),
    [
        (7, None, {7}),
        ([7, 8], {}, {7, 8}),
        (7, {"eos_token_id": [9, 7]}, {7, 9}),
        (7, {"eos_token_id": None}, {7}),
        (None, {}, set()),
        (0, {}, {0}),
    ],
)
def test_stop_tokens_come_from_the_generation_config_first(own, generation, expected):
    assert config_from_hf(new_style("llama") | {"eos_token_id": own}, generation).stop_token_ids == expected


def test_a_sliding_window_is_that_of_the_layers_it_is_used_in():
    assert windows(config_from_hf(new_style("mistral", sliding_window=100))) == [100] * 3
    assert windows(config_from_hf(new_style("mistral", sliding_window=None))) == [None] * 3
    unsaid = {key: value for key, value in old_style("mistral").items() if key != "sliding_window"}
    assert windows(config_from_hf(unsaid)) == [4096] * 3  # as transformers
    unused = old_style("qwen2") | {"sliding_window": 100, "use_sliding_window": False}
    assert windows(config_from_hf(unused)) == [None] * 3
    for style in (old_style, new_style):
        used = style("qwen2", use_sliding_window=True, sliding_window=100, max_window_layers=1)
        assert windows(config_from_hf(used)) == [None, 100, 100]
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    assert windows(config_from_hf(used | {"layer_types": kinds})) == [None, 100, None]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"]}, "Gemma2ForCausalLM"),
        ({"model_type": "gpt2"}, "gpt2"),
        ({"model_type": "gpt2", "architectures": 5}, "gpt2"),
        ({}, "None"),
    ],
)
def test_another_architecture_is_refused_by_name_with_all_supported(config, said):
    with pytest.raises(UnsupportedArchitectureError) as caught:
        config_from_hf(config)
    assert said in str(caught.value)
    for family in families().values():
        assert f"{family.name} ({family.models})" in str(caught.value)


@pytest.mark.parametrize(
    ("family", "extra", "said"),
    [
        ("llama", {"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ("llama", {"mlp_bias": True}, "mlp_bias = True"),
        ("llama", {"pretraining_tp": 2}, "pretraining_tp = 2"),
        ("llama", {"attention_bias": True}, "attention_bias = True"),
        ("qwen3", {"attention_bias": True}, "attention_bias = True"),
        ("llama", {"quantization_config": {"quant_method": "awq"}}, "quantization_config 'awq'"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial rotary"),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope scaling 'dynamic'"),
        ("qwen2", {"rope_scaling": {"rope_type": "longrope"}}, "rope scaling 'longrope'"),
        ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "mscale": 0.7}}, "yarn with mscale"),
        ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "truncate": False}}, "yarn with truncate"),
    ],
)
def test_a_feature_that_is_not_computed_is_refused_by_name(family, extra, said):
    with pytest.raises(UnsupportedArchitectureError, match="supported families: ") as caught:
        config_from_hf(old_style(family) | extra)
    assert said in str(caught.value)


@pytest.mark.parametrize("family", ["mistral", "llama"])
def test_absurdly_many_layers_are_refused_before_anything_is_listed(family):
    with pytest.raises(WeightsError, match=f"num_hidden_layers in config.json is {2**50}; at most 4096"):
        config_from_hf({**old_style(family), "num_hidden_layers": 2**50, "sliding_window": 64})


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"])
def test_a_config_without_a_size_is_incomplete(key):
    config = new_style("llama")
    del config[key]
    with pytest.raises(WeightsError, match=f"config.*{key}"):
        config_from_hf(config)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"hidden_size": "64"}, "hidden_size in config.json is '64'"),
        ({"num_attention_heads": 0}, "num_attention_heads in config.json is 0"),
        ({"rms_norm_eps": [1]}, "rms_norm_eps in config.json"),
        ({"rope_theta": 10**400}, "rope_theta in config.json is inf; it must be a number"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings in config.json is 'yes'; it must be true or false"),
        ({"rope_scaling": "linear"}, "rope parameters in config.json are 'linear'"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor in the rope parameters in config.json is '2'"),
        ({"eos_token_id": "7"}, "eos_token_id"),
    ],
)
def test_a_config_with_values_of_another_type_names_the_key(extra, said):
    with pytest.raises(WeightsError, match=said):
        config_from_hf(old_style("llama") | extra)
