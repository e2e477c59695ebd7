"""The decoder's shape from a GGUF file's metadata."""

import gguf
import numpy as np
import pytest
from configs import windows
from tiny import write_out

from kameleon.errors import UnsupportedArchitectureError, WeightsError
from kameleon.model import open_gguf
from kameleon.model.family import QKV
from kameleon.model.files import read_config
from kameleon.model.gguf_config import config_from_gguf
from kameleon.model.rope import RopeConfig


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
    write_out(writer)
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
    assert read.norms.attention_result == "post_attention_layernorm"
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
    ("how", "said"),
    [
        ({"family": "gemma2"}, "architecture gemma2"),
        ({"expert_count": 8}, "mixture of experts"),
        ({"rope__dimension_count": 8}, "partial rotary"),
        ({"rope__scaling__attn_factor": 0.5}, "rope.scaling.attn_factor = 0.5"),
        ({"rope__scaling__yarn_ext_factor": 0.5}, "rope.scaling.yarn_ext_factor = 0.5"),
        ({"rope__scaling__type": "longrope"}, "rope scaling 'longrope'"),
        ({"tensors": {"blk.0.attn_output.bias": np.zeros(64, np.float32)}}, "bias on self_attn.o_proj"),
        ({"tensors": {"blk.0.ffn_up.bias": np.zeros(96, np.float32)}}, "bias on mlp.up_proj"),
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
