"""Gemma 3, text only: norms on both sides of each block, and windows with a rotary embedding of their own in all but
every sixth layer.
"""

from dataclasses import replace
from typing import Any

from kameleon.errors import WeightsError
from kameleon.model.config import DecoderConfig, NormNames
from kameleon.model.family import GGUF_MEMBERS, REQUIRED, Family
from kameleon.model.rope import RopeConfig
from kameleon.model.rope_keys import read_rope
from kameleon.model.windows import Windows, all_but_each, by_layer_types, window_size
from kameleon.weights import GgufLayout, Metadata

_LOCAL_THETA, _PATTERN = 1e4, 6
_LAYERS_OF_27B = 62


def _scaled(config: DecoderConfig, query_pre_attn_scalar: float) -> DecoderConfig:
    """Embeddings are multiplied by sqrt(hidden_size), and attention divides by sqrt(query_pre_attn_scalar)."""
    if query_pre_attn_scalar <= 0:
        raise WeightsError(f"query_pre_attn_scalar is {query_pre_attn_scalar}; it must be above 0")
    return replace(
        config,
        embedding_scale=config.hidden_size**0.5,
        query_scale=(config.head_dim / query_pre_attn_scalar) ** 0.5,
    )


def _from_hf(config: DecoderConfig, values: Metadata) -> DecoderConfig:
    longest, by_type = config.max_sequence_tokens, values.get("rope_parameters")
    if isinstance(by_type, dict):
        full, local = by_type.get("full_attention"), by_type.get("sliding_attention")
    else:  # transformers 4 wrote only that of full attention, under another key
        full, local = values.get("rope_scaling"), None
    theta = values.need("rope_theta", float)
    local_theta = values.find("rope_local_base_freq", float, _LOCAL_THETA)
    return replace(
        _scaled(config, values.find("query_pre_attn_scalar", float, 256.0)),
        windows=_windows(values, config.num_layers),
        rope=read_rope(values, full, theta=theta, max_positions=longest),
        local_rope=read_rope(values, local, theta=local_theta, max_positions=longest),
        norm_offset=1.0,
    )


def _windows(values: Metadata, layers: int) -> Windows:
    window = window_size(values)
    if window is None:
        return ()
    if values.get("layer_types") is not None:
        return by_layer_types(values, window=window, layers=layers)
    return all_but_each(values.size("sliding_window_pattern", _PATTERN), window=window, layers=layers)


def _from_gguf(config: DecoderConfig, metadata: Metadata) -> DecoderConfig:
    layers, heads = config.num_layers, config.num_heads
    window = config.window(0)
    pattern = metadata.size("gemma3.attention.sliding_window_pattern", _PATTERN)
    theta = metadata.find("gemma3.rope.freq_base_swa", float, _LOCAL_THETA)
    # The file does not say it. llama.cpp knows the one base with another scale by its number of layers.
    query_pre_attn_scalar = config.hidden_size / heads if layers == _LAYERS_OF_27B else config.head_dim
    return replace(
        _scaled(config, query_pre_attn_scalar),
        windows=() if window is None else all_but_each(pattern, window=window, layers=layers),
        local_rope=RopeConfig(theta, original_max_positions=config.max_sequence_tokens),
    )


def _to_hf(config: DecoderConfig) -> dict[str, Any]:
    local = config.rope if config.local_rope is None else config.local_rope
    scalar = round(config.head_dim / config.query_scale**2, 3)
    return {"rope_local_base_freq": local.theta, "query_pre_attn_scalar": scalar}


FAMILY = Family(
    name="gemma3_text",
    models="Gemma 3, text only",
    architecture="Gemma3ForCausalLM",
    gguf=GgufLayout(
        "gemma3",
        {
            **GGUF_MEMBERS,
            "post_attention_norm": "post_attention_layernorm",
            "ffn_norm": "pre_feedforward_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        },
    ),
    defaults={
        "head_dim": 256,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131072,
        "rope_theta": 1e6,
        "sliding_window": 4096,
        "tie_word_embeddings": True,
    },
    required={key: value for key, value in REQUIRED.items() if key != "hidden_act"}
    | {"hidden_activation": "gelu_pytorch_tanh"},
    qk_norm=True,
    norms=NormNames(
        attention_input="input_layernorm",
        attention_result="post_attention_layernorm",
        mlp_input="pre_feedforward_layernorm",
        mlp_result="post_feedforward_layernorm",
    ),
    activation="gelu_tanh",
    from_hf=_from_hf,
    from_gguf=_from_gguf,
    to_hf=_to_hf,
)
