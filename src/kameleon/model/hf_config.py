"""A decoder's shape out of a Hugging Face config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kameleon.errors import UnsupportedArchitectureError
from kameleon.model.config import DecoderConfig
from kameleon.model.families import families
from kameleon.model.family import Family
from kameleon.model.rope_keys import rope_from_hf
from kameleon.model.supported import count_layers, naming_families
from kameleon.weights import Metadata

# For these keys null is no missing key: it means one key head for each head, and no window.
_NULL_COUNTS = ("num_key_value_heads", "sliding_window")


@naming_families()
def config_from_hf(config: Mapping[str, Any], generation: Mapping[str, Any] | None = None) -> DecoderConfig:
    """A `config.json`, old style (rope_theta, rope_scaling) or new (rope_parameters), with its generation config.

    Raises UnsupportedArchitectureError, naming the family or the feature that is not computed here, and WeightsError
    where a value is missing or of another type than it must be.
    """
    family = _family_of(config)
    given = {key: value for key, value in config.items() if value is not None or key in _NULL_COUNTS}
    values = Metadata({**family.defaults, **given}, "config.json")
    _refuse_features(family, values)
    heads, size = values.size("num_attention_heads"), values.size("hidden_size")
    layers = count_layers(values, "num_hidden_layers")
    max_sequence_tokens = values.size("max_position_embeddings", 2048)
    stops = (generation or {}).get("eos_token_id")
    plain = DecoderConfig(
        family=family.name,
        vocab_size=values.size("vocab_size"),
        hidden_size=size,
        intermediate_size=values.size("intermediate_size"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=values.size("num_key_value_heads", heads),
        head_dim=values.size("head_dim", max(1, size // heads)),
        rms_norm_eps=values.find("rms_norm_eps", float, 1e-6),
        rope=rope_from_hf(values, max_sequence_tokens),
        tie_word_embeddings=values.find("tie_word_embeddings", bool, default=False),
        max_sequence_tokens=max_sequence_tokens,
        stop_token_ids=_as_ids(values.get("eos_token_id") if stops is None else stops),
        biases=family.biases,
        qk_norm=family.qk_norm,
        norms=family.norms,
        activation=family.activation,
    )
    return family.from_hf(plain, values)


def _family_of(config: Mapping[str, Any]) -> Family:
    name, named = str(config.get("model_type")), config.get("architectures")
    if name not in families():
        architecture = ", ".join(map(str, named)) if isinstance(named, list) and named else name
        raise UnsupportedArchitectureError(f"architecture {architecture} (model_type {name}) is not supported")
    return families()[name]


def _refuse_features(family: Family, values: Metadata) -> None:
    """Raise UnsupportedArchitectureError for features in a config.json that are not computed here."""
    for key, computed in family.required.items():
        if (value := values.find(key, type(computed), computed)) != computed:
            raise UnsupportedArchitectureError(f"{key} = {value!r} (only {computed!r}) is not supported")
    if quantised := values.get("quantization_config"):
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise UnsupportedArchitectureError(f"a base stored with quantization_config {method!r} is not supported")


def _as_ids(stops: Any) -> frozenset[int]:
    if stops is None:
        return frozenset()
    ids = stops if isinstance(stops, list) else [stops]
    return frozenset(Metadata({"eos_token_id": ids}, "the base's config").row("eos_token_id", int))
