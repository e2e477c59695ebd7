"""The decoder's shape from config.json of every family and age, and from GGUF metadata."""

import json

import gguf
import numpy as np
import pytest
from transformers import Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from kameleon.errors import UnsupportedArchitectureError, WeightsError
from kameleon.model import open_gguf, open_weights
from kameleon.model.families import families
from kameleon.model.family import QKV
from kameleon.model.files import read_config
from kameleon.model.gguf_config import config_from_gguf
from kameleon.model.hf_config import config_from_hf
from kameleon.model.rope import RopeConfig

SIZES = {
    "vocab_size": 99,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "eos_token_id": 7,
    "bos_token_id": 1,
    "tie_word_embeddings": True,
}
CLASSES = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}


def new_style(family, **extra):
    rope = {"rope_type": "default", "rope_theta": 50000.0}
    return CLASSES[family](**{**SIZES, "rope_parameters": rope, **extra}).to_dict()


def old_style(family, **extra):
    """As transformers 4 wrote it: rope_theta and rope_scaling at the top, and no keys that came later."""
    config = new_style(family, **extra)
    rope = dict(config.pop("rope_parameters"))
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config.pop("layer_types", None)
    return config


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


def windows(config):
    return [config.window(layer) for layer in range(config.num_layers)]


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


GEMMA = {"num_hidden_layers": 7, "sliding_window": 100, "query_pre_attn_scalar": 64, "head_dim": 16}


@pytest.mark.parametrize("style", ["new", "old"])
def test_gemma3_is_read_in_both_styles(style):
    scaling = {"rope_type": "linear", "factor": 8.0}
    if style == "new":
        rope = {
            "full_attention": {**scaling, "rope_theta": 2e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
        }
        read = config_from_hf(Gemma3TextConfig(**{**SIZES, **GEMMA, "rope_parameters": rope}).to_dict())
    else:  # as transformers 4 wrote it
        rope = {"rope_scaling": scaling, "rope_theta": 2e6, "rope_local_base_freq": 2e4, "sliding_window_pattern": 6}
        config = {**SIZES, **GEMMA, **rope, "hidden_activation": "gelu_pytorch_tanh"}
        read = config_from_hf(config | {"model_type": "gemma3_text", "attn_logit_softcapping": None})
    assert windows(read) == [100] * 5 + [None, 100]
    assert read.layer_rope(5) == RopeConfig(2e6, "linear", 8.0, 512)
    assert read.layer_rope(0) == read.layer_rope(6) == RopeConfig(2e4, original_max_positions=512)
    assert (read.activation, read.embedding_scale, read.query_scale) == ("gelu_tanh", 8.0, 0.5)
    assert (read.norms.behind_mlp, read.qk_norm, read.norm_offset) == ("post_feedforward_layernorm", True, 1.0)
    assert read.max_sequence_tokens == 512


def test_what_a_gemma3_config_leaves_out_is_as_in_transformers():
    left_in = {key: SIZES[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")}
    plain = Gemma3TextConfig(num_hidden_layers=7, **left_in)
    read = config_from_hf({"model_type": "gemma3_text", "num_hidden_layers": 7, **left_in})
    assert (read.head_dim, read.num_kv_heads) == (plain.head_dim, plain.num_key_value_heads)
    assert read.max_sequence_tokens == plain.max_position_embeddings
    assert [window or None for window in windows(read)] == [
        plain.sliding_window if kind == "sliding_attention" else None for kind in plain.layer_types
    ]
    assert read.rope.theta == plain.rope_parameters["full_attention"]["rope_theta"]
    assert read.local_rope.theta == plain.rope_parameters["sliding_attention"]["rope_theta"]
    assert read.tie_word_embeddings == plain.tie_word_embeddings
    assert read.query_scale == (plain.head_dim / plain.query_pre_attn_scalar) ** 0.5


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping = 30.0"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping = 50.0"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention = True"),
        ({"hidden_activation": "gelu"}, "hidden_activation = 'gelu'"),
        ({"layer_types": ["chunked_attention"] * 3}, "layer_types with chunked_attention"),
        ({"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]}, "Gemma3ForConditional"),
    ],
)
def test_what_gemma_may_ask_for_and_is_not_computed_is_refused_by_name(extra, said):
    with pytest.raises(UnsupportedArchitectureError) as caught:
        config_from_hf({**SIZES, "model_type": "gemma3_text"} | extra)
    assert said in str(caught.value)


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


@pytest.mark.parametrize("family", ["mistral", "llama"])
def test_absurdly_many_layers_are_refused_before_anything_is_listed(family):
    with pytest.raises(WeightsError, match=f"num_hidden_layers in config.json is {2**70}; at most 4096"):
        config_from_hf({**old_style(family), "num_hidden_layers": 2**70, "sliding_window": 64})


def test_absurdly_many_gguf_layers_are_refused(tmp_path):
    with pytest.raises(WeightsError, match=f"block_count in .* is {2**32 - 1}; at most 4096"):
        config_from_gguf(write_gguf(tmp_path / "a.gguf", block_count=2**32 - 1))


@pytest.mark.parametrize("last", [0, -1, np.nan])
def test_gguf_divisors_that_make_no_frequencies_are_refused(tmp_path, last):
    divisors = {"rope_freqs.weight": np.array([1, 1, 2, 8, 8, 8, 8, last], np.float32)}
    with pytest.raises(WeightsError, match="rope_freqs"):
        config_from_gguf(write_gguf(tmp_path / "a.gguf", tensors=divisors))


@pytest.mark.parametrize("shape", [(1,), (7,), (2, 8)])
def test_gguf_divisors_that_are_not_one_a_frequency_are_refused(tmp_path, shape):
    with pytest.raises(WeightsError, match=r"rope_freqs.* the config says 8"):
        config_from_gguf(write_gguf(tmp_path / "a.gguf", tensors={"rope_freqs.weight": np.ones(shape, np.float32)}))


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"])
def test_a_config_without_a_size_is_incomplete(key):
    config = new_style("llama")
    del config[key]
    with pytest.raises(WeightsError, match=f"config.*{key}"):
        config_from_hf(config)


@pytest.mark.parametrize("text", [None, "", "{", "[1]", "3", b"\xff\xfe"])
def test_an_unreadable_config_file_is_named(tmp_path, tiny_folder, text):
    if text is not None:
        (tmp_path / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(WeightsError, match=r"config\.json cannot be read"):
        read_config(tmp_path, open_weights(tiny_folder))


def test_a_folder_is_read_with_its_generation_config(tmp_path, tiny_folder):
    (tmp_path / "config.json").write_text(json.dumps(new_style("qwen2")))
    assert read_config(tmp_path, open_weights(tiny_folder)).stop_token_ids == {7}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [3, 4]}')
    assert read_config(tmp_path, open_weights(tiny_folder)).stop_token_ids == {3, 4}


def write_gguf(path, family="llama", leave_out=(), tensors=(), **extra):
    """Only what the config is read from: metadata, and tensors by their names."""
    writer = gguf.GGUFWriter(path, family)
    values = {
        "block_count": 3,
        "embedding_length": 64,
        "feed_forward_length": 96,
        "context_length": 512,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        **{key.replace("__", "."): value for key, value in extra.items()},
    }
    for key, value in values.items():
        if key in leave_out:
            continue
        if isinstance(value, str):
            writer.add_string(f"{family}.{key}", value)
        elif isinstance(value, float):
            writer.add_float32(f"{family}.{key}", value)
        else:
            writer.add_uint32(f"{family}.{key}", value)
    if "eps" not in leave_out:
        writer.add_layer_norm_rms_eps(1e-5)
    writer.add_eos_token_id(7)
    writer.add_eot_token_id(8)
    for name, data in {"token_embd.weight": np.zeros((99, 64), np.float32), **dict(tensors)}.items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return open_gguf(path)


def test_gguf_metadata_is_read(tmp_path):
    config = config_from_gguf(write_gguf(tmp_path / "a.gguf", rope__freq_base=50000.0))
    assert (config.family, config.vocab_size, config.hidden_size, config.intermediate_size) == ("llama", 99, 64, 96)
    assert (config.num_layers, config.num_heads, config.num_kv_heads, config.head_dim) == (3, 4, 2, 16)
    assert config.rms_norm_eps == pytest.approx(1e-5)
    assert config.rope == RopeConfig(theta=50000.0, original_max_positions=512)
    assert config.tie_word_embeddings
    assert not config.biases
    assert not config.qk_norm
    assert config.max_sequence_tokens == 512
    assert config.stop_token_ids == {7, 8}
    assert read_config(tmp_path / "a.gguf", open_gguf(tmp_path / "a.gguf")) == config


def test_gguf_switches_follow_the_tensors_that_are_there(tmp_path):
    bias = {"blk.0.attn_q.bias": np.zeros(64, np.float32), "output.weight": np.zeros((99, 64), np.float32)}
    config = config_from_gguf(write_gguf(tmp_path / "a.gguf", "qwen2", tensors=bias))
    assert config.biases == QKV
    assert not config.tie_word_embeddings
    norm = {"blk.0.attn_q_norm.weight": np.zeros(32, np.float32)}
    config = config_from_gguf(write_gguf(tmp_path / "b.gguf", "qwen3", tensors=norm, attention__key_length=32))
    assert config.qk_norm
    assert config.head_dim == 32


def test_gguf_without_key_value_heads_has_one_for_each_head(tmp_path):
    file = write_gguf(tmp_path / "a.gguf", leave_out=["attention.head_count_kv"])
    assert config_from_gguf(file).num_kv_heads == 4


def test_gguf_scalings_are_read(tmp_path):
    yarn = {"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.original_context_length": 128}
    file = write_gguf(tmp_path / "a.gguf", "qwen2", **{f"rope.{key}": value for key, value in yarn.items()})
    assert config_from_gguf(file).rope == RopeConfig(10000.0, "yarn", 4.0, 128)
    yarn |= {"scaling.yarn_beta_fast": 16.0, "scaling.yarn_beta_slow": 2.0, "scaling.attn_factor": 1.0}
    file = write_gguf(tmp_path / "c.gguf", "qwen2", **{f"rope.{key}": value for key, value in yarn.items()})
    assert config_from_gguf(file).rope == RopeConfig(10000.0, "yarn", 4.0, 128, beta_fast=16.0, beta_slow=2.0)
    divisors = {"rope_freqs.weight": np.array([1, 1, 2, 8, 8, 8, 8, 8], np.float32)}
    file = write_gguf(tmp_path / "b.gguf", tensors=divisors)
    assert config_from_gguf(file).rope.divisors == (1, 1, 2, 8, 8, 8, 8, 8)


@pytest.mark.parametrize("extra", [{"rope__scaling__factor": 2.0}, {"rope__scale_linear": 2.0}])
def test_a_gguf_factor_that_stands_alone_is_linear_as_in_llama_cpp(tmp_path, extra):
    assert config_from_gguf(write_gguf(tmp_path / "a.gguf", **extra)).rope == RopeConfig(10000.0, "linear", 2.0, 512)


def test_a_gguf_scaling_of_type_none_scales_nothing(tmp_path):
    file = write_gguf(tmp_path / "a.gguf", rope__scaling__type="none", rope__scaling__factor=2.0)
    assert config_from_gguf(file).rope.kind == "default"


def test_a_gguf_sliding_window_is_that_of_every_layer(tmp_path):
    file = write_gguf(tmp_path / "a.gguf", attention__sliding_window=100)
    assert windows(config_from_gguf(file)) == [100] * 3


def test_a_gguf_of_gemma3_has_windows_and_a_rope_of_their_own_in_all_but_every_sixth_layer(tmp_path):
    extra = {"attention__sliding_window": 100, "attention__key_length": 16, "rope__freq_base": 1e6}
    file = write_gguf(tmp_path / "a.gguf", "gemma3", block_count=7, rope__scaling__factor=8.0, **extra)
    read = config_from_gguf(file)
    assert read.family == "gemma3_text"
    assert windows(read) == [100] * 5 + [None, 100]
    assert read.layer_rope(5) == RopeConfig(1e6, "linear", 8.0, 512)
    assert read.layer_rope(0) == RopeConfig(1e4, original_max_positions=512)
    assert (read.activation, read.embedding_scale) == ("gelu_tanh", 8.0)
    assert read.norms.behind_attention == "post_attention_layernorm"
    assert (read.norm_offset, read.query_scale) == (0.0, 1.0)  # the converter has added the offset
    big = write_gguf(tmp_path / "27b.gguf", "gemma3", block_count=62, **extra | {"attention__key_length": 64})
    assert config_from_gguf(big).query_scale == 2.0  # 64 / (64 wide / 4 heads), by llama.cpp's rule


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"block_count": "three"}, r"llama\.block_count in .*a\.gguf is 'three'; it must be a whole number"),
        ({"attention__head_count": 0}, r"llama\.attention\.head_count in .* is 0; it must be at least 1"),
        ({"attention__head_count_kv": 3}, "4 heads cannot share 3 key and value heads"),
        ({"attention__key_length": 15}, "heads of 15 numbers"),
        ({"context_length": 2.5}, r"llama\.context_length in .* is 2\.5"),
        ({"rope__freq_base": "high"}, r"llama\.rope\.freq_base in .* is 'high'; it must be a number"),
        ({"rope__freq_base": float("nan")}, r"llama\.rope\.freq_base in .* is nan; it must be a number"),
        ({"rope__scaling__type": 3}, r"llama\.rope\.scaling\.type in .* is 3; it must be text"),
    ],
)
def test_gguf_metadata_of_another_type_is_named(tmp_path, extra, said):
    with pytest.raises(WeightsError, match=said):
        config_from_gguf(write_gguf(tmp_path / "a.gguf", **extra))


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


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"family": "gemma2"}, "architecture gemma2"),
        ({"expert_count": 8}, "mixture of experts"),
        ({"rope__dimension_count": 8}, "partial rotary"),
        ({"rope__scaling__attn_factor": 0.5}, "rope.scaling.attn_factor = 0.5"),
        ({"rope__scaling__yarn_ext_factor": 0.5}, "rope.scaling.yarn_ext_factor = 0.5"),
        ({"rope__scaling__type": "longrope"}, "rope scaling 'longrope'"),
        ({"tensors": {"blk.0.attn_output.bias": np.zeros(64, np.float32)}}, "bias on self_attn.o_proj"),
    ],
)
def test_gguf_that_is_not_computed_is_refused_by_name(tmp_path, how, said):
    with pytest.raises(UnsupportedArchitectureError, match="supported families: ") as caught:
        config_from_gguf(write_gguf(tmp_path / "a.gguf", **how))
    assert said in str(caught.value)


@pytest.mark.parametrize("key", ["block_count", "embedding_length", "context_length", "attention.head_count"])
def test_gguf_without_a_size_is_incomplete(tmp_path, key):
    with pytest.raises(WeightsError, match=rf"lacks the metadata llama\.{key}"):
        config_from_gguf(write_gguf(tmp_path / "a.gguf", leave_out=[key]))


def test_gguf_without_an_embedding_is_incomplete(tmp_path):
    file = write_gguf(tmp_path / "a.gguf", "qwen2", tensors={"other.weight": np.zeros(3, np.float32)})
    file._names.remove("model.embed_tokens.weight")
    del file._tensors["model.embed_tokens.weight"]
    with pytest.raises(WeightsError, match=r"no tensor model\.embed_tokens\.weight"):
        config_from_gguf(file)
