"""Gemma 3's shape from a config.json."""

import pytest
from configs import SIZES, windows
from transformers import Gemma3TextConfig

from kameleon.errors import UnsupportedArchitectureError
from kameleon.model.hf_config import config_from_hf
from kameleon.model.rope import RopeConfig

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
    assert (read.norms.mlp_result, read.qk_norm, read.norm_offset) == ("post_feedforward_layernorm", True, 1.0)
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
