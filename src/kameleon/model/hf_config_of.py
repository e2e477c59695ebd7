"""A config.json for a decoder that was read from a GGUF file: the inverse of `hf_config`."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch

from kameleon.errors import UnsupportedArchitectureError
from kameleon.model.config import DecoderConfig
from kameleon.model.families import families
from kameleon.model.hf_config import config_from_hf
from kameleon.model.rope import RopeConfig, inv_freq

_LLAMA3_ORIGINAL, _LLAMA3_LOW, _LLAMA3_HIGH = 8192, 1.0, 4.0  # of Llama 3.1, 3.2 and 3.3, which differ in `factor`
_ACTIVATIONS = ("hidden_act", "hidden_activation")


def hf_config_of(config: DecoderConfig) -> tuple[dict[str, Any], DecoderConfig]:
    """The values of a config.json, and the decoder that is read from them.

    That decoder is `config`, apart from the stored form of the norms (`norm_offset`) and of Llama 3's rotary embedding.
    Raises UnsupportedArchitectureError, naming the fields, where no config.json says the same.
    """
    config = replace(config, rope=_named(config.rope, config.head_dim))
    family = families()[config.family]
    values: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": family.name,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": _rounded(config.rms_norm_eps),
        "max_position_embeddings": config.max_sequence_tokens,
        "tie_word_embeddings": config.tie_word_embeddings,
        "eos_token_id": sorted(config.stop_token_ids),
        **{key: family.required[key] for key in _ACTIVATIONS if key in family.required},
        **_rope_values(config.rope),
        **_window_values(config),
        **family.to_hf(config),
    }
    made = config_from_hf(values)
    wanted, got = (_rounded(asdict(one)) for one in (config, made))
    others = sorted(key for key in wanted if wanted[key] != got[key] and key != "norm_offset")
    if others:
        raise UnsupportedArchitectureError(f"no config.json of {family.name} says its {', '.join(others)}")
    return values, made


def _named(rope: RopeConfig, head_dim: int) -> RopeConfig:
    """Llama 3's scaling by its name, where the file has its divisors; others raise UnsupportedArchitectureError."""
    if not rope.divisors:
        return rope
    named = RopeConfig(
        theta=rope.theta,
        kind="llama3",
        factor=round(max(rope.divisors), 3),
        original_max_positions=_LLAMA3_ORIGINAL,
        low_freq_factor=_LLAMA3_LOW,
        high_freq_factor=_LLAMA3_HIGH,
    )
    if not torch.allclose(inv_freq(named, head_dim), inv_freq(rope, head_dim), rtol=1e-4):
        raise UnsupportedArchitectureError("its rotary embedding has divisors that are not those of Llama 3")
    return named


def _rope_values(rope: RopeConfig) -> dict[str, Any]:
    """In the older form, which newer programs read too."""
    if rope.kind == "default":
        return {"rope_theta": _rounded(rope.theta), "rope_scaling": None}
    scaling: dict[str, Any] = {"rope_type": rope.kind, "factor": _rounded(rope.factor)}
    if rope.kind != "linear":
        scaling["original_max_position_embeddings"] = rope.original_max_positions
    if rope.kind == "llama3":
        scaling |= {"low_freq_factor": rope.low_freq_factor, "high_freq_factor": rope.high_freq_factor}
    if rope.kind == "yarn":
        scaling |= {"beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow}
    return {"rope_theta": _rounded(rope.theta), "rope_scaling": scaling}


def _window_values(config: DecoderConfig) -> dict[str, Any]:
    sizes = {window for window in config.windows if window is not None}
    if len(sizes) != 1:
        return {"sliding_window": None}
    types = ["full_attention" if window is None else "sliding_attention" for window in config.windows]
    return {"sliding_window": sizes.pop(), "use_sliding_window": True, "layer_types": types}


def _rounded(value: Any) -> Any:
    """Numbers with six digits: a GGUF file keeps them in fp32."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value
