"""The shape of a decoder, read from a Hugging Face config.json or from GGUF metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kameleon.errors import UnsupportedArchitectureError, WeightsError
from kameleon.model.rope import RopeConfig
from kameleon.weights import GgufFile, WeightFile

FAMILIES = {
    "llama": "Llama 2, 3, 3.1 and later, SmolLM2, TinyLlama",
    "mistral": "Mistral",
    "qwen2": "Qwen2, Qwen2.5",
    "qwen3": "Qwen3",
}
_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes and switches of the decoder; one value for all families."""

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope: RopeConfig
    tie_word_embeddings: bool
    attention_bias: bool
    """Whether q, k and v have biases (Qwen2)."""
    qk_norm: bool
    """Whether q and k are normalised per head before they are rotated (Qwen3)."""
    max_positions: int
    sliding_window: int | None
    stop_token_ids: frozenset[int]

    @property
    def max_sequence_tokens(self) -> int:
        """The longest sequence computed exactly: attention here is full, so a sliding window bounds it too."""
        return min(self.max_positions, self.sliding_window or self.max_positions)


def read_config(path: Path, weights: WeightFile) -> DecoderConfig:
    """The config of a folder in Hugging Face layout or of a `.gguf` file. Raises UnsupportedArchitectureError."""
    if isinstance(weights, GgufFile):
        return config_from_gguf(weights)
    config = _read_json(path / "config.json")
    generation = path / "generation_config.json"
    return config_from_hf(config, _read_json(generation) if generation.exists() else {})


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"it holds a {type(values).__name__}, not an object")
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as JSON: {error}; fetch the base again") from error
    return values


def _refuse(what: str) -> UnsupportedArchitectureError:
    known = "; ".join(f"{name} ({models})" for name, models in FAMILIES.items())
    return UnsupportedArchitectureError(f"{what} is not supported; supported families: {known}")


def config_from_hf(config: Mapping[str, Any], generation: Mapping[str, Any] | None = None) -> DecoderConfig:
    """A `config.json`, old style (rope_theta, rope_scaling) or new (rope_parameters), with its generation config.

    Raises UnsupportedArchitectureError, naming the family or the feature that is not computed here, and WeightsError
    where a size is missing.
    """
    family = str(config.get("model_type"))
    if family not in FAMILIES:
        architecture = ", ".join(config.get("architectures") or []) or family
        raise _refuse(f"architecture {architecture} (model_type {family})")
    for key, fine in (("hidden_act", "silu"), ("mlp_bias", False), ("pretraining_tp", 1)):
        if config.get(key, fine) != fine:
            raise _refuse(f"{key} = {config[key]!r} (only {fine!r})")
    if family in ("llama", "mistral", "qwen3") and config.get("attention_bias"):
        raise _refuse(f"attention_bias in {family}")
    if config.get("quantization_config"):
        raise _refuse(f"a base stored with quantization_config {config['quantization_config'].get('quant_method')!r}")
    missing = [key for key in _SIZES if not isinstance(config.get(key), int)]
    if missing:
        raise WeightsError(f"the base's config lacks {', '.join(missing)}; fetch the base again")
    heads, size = config["num_attention_heads"], config["hidden_size"]
    windowed = family == "mistral" or bool(config.get("use_sliding_window"))
    max_positions = config.get("max_position_embeddings", 2048)
    stops = (generation or {}).get("eos_token_id", config.get("eos_token_id"))
    return DecoderConfig(
        family=family,
        vocab_size=config["vocab_size"],
        hidden_size=size,
        intermediate_size=config["intermediate_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or (128 if family == "qwen3" else size // heads),
        rms_norm_eps=config.get("rms_norm_eps", 1e-6),
        rope=_rope_from_hf(config, max_positions),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        attention_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        max_positions=max_positions,
        sliding_window=config.get("sliding_window", 4096 if family == "mistral" else None) if windowed else None,
        stop_token_ids=_as_ids(stops),
    )


def _as_ids(stops: Any) -> frozenset[int]:
    if stops is None:
        return frozenset()
    return frozenset(stops if isinstance(stops, list) else [stops])


def _rope_from_hf(config: Mapping[str, Any], max_positions: int) -> RopeConfig:
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = scaling.get("rope_theta") or config.get("rope_theta") or 10000.0
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind not in ("default", "linear", "llama3", "yarn"):
        raise _refuse(f"rope scaling {kind!r} (only default, linear, llama3, yarn)")
    if config.get("partial_rotary_factor", scaling.get("partial_rotary_factor", 1.0)) != 1.0:
        raise _refuse("partial rotary embedding")
    for key in ("mscale", "mscale_all_dim", "truncate"):
        if kind == "yarn" and key in scaling:
            raise _refuse(f"yarn with {key}")
    original = (
        scaling.get("original_max_position_embeddings")
        or config.get("original_max_position_embeddings")
        or max_positions
    )
    return RopeConfig(
        theta=float(theta),
        kind=kind,
        factor=float(scaling.get("factor") or (max_positions / original if kind == "yarn" else 1.0)),
        original_max_positions=original,
        low_freq_factor=float(scaling.get("low_freq_factor", 1.0)),
        high_freq_factor=float(scaling.get("high_freq_factor", 4.0)),
        beta_fast=float(scaling.get("beta_fast") or 32.0),
        beta_slow=float(scaling.get("beta_slow") or 1.0),
        attention_factor=scaling.get("attention_factor"),
    )


def config_from_gguf(file: GgufFile) -> DecoderConfig:
    """The metadata of a GGUF file; keys as in the GGUF specification. Raises UnsupportedArchitectureError."""
    metadata = file.metadata
    family = str(metadata.get("general.architecture"))
    if family not in FAMILIES:
        raise _refuse(f"architecture {family}")

    def get(key: str, default: Any = None) -> Any:
        value = metadata.get(f"{family}.{key}", default)
        if value is None:
            raise WeightsError(f"{file.path} lacks the metadata {family}.{key}; it is not a whole {family} base")
        return value

    if metadata.get(f"{family}.expert_count"):
        raise _refuse("a mixture of experts")
    heads, size = get("attention.head_count"), get("embedding_length")
    head_dim = get("attention.key_length", size // heads)
    if get("rope.dimension_count", head_dim) != head_dim:
        raise _refuse("partial rotary embedding")
    names = set(file.names())
    if any(name.endswith("o_proj.bias") for name in names):
        raise _refuse("a bias on the output projection")
    stop_keys = (f"tokenizer.ggml.{key}_token_id" for key in ("eos", "eot"))
    max_positions = get("context_length")
    return DecoderConfig(
        family=family,
        vocab_size=file.shape("model.embed_tokens.weight")[0],
        hidden_size=size,
        intermediate_size=get("feed_forward_length"),
        num_layers=get("block_count"),
        num_heads=heads,
        num_kv_heads=get("attention.head_count_kv", heads),
        head_dim=head_dim,
        rms_norm_eps=get("attention.layer_norm_rms_epsilon"),
        rope=_rope_from_gguf(file, family, max_positions),
        tie_word_embeddings="lm_head.weight" not in names,
        attention_bias="model.layers.0.self_attn.q_proj.bias" in names,
        qk_norm="model.layers.0.self_attn.q_norm.weight" in names,
        max_positions=max_positions,
        sliding_window=metadata.get(f"{family}.attention.sliding_window"),
        stop_token_ids=frozenset(metadata[key] for key in stop_keys if key in metadata),
    )


def _rope_from_gguf(file: GgufFile, family: str, max_positions: int) -> RopeConfig:
    def get(key: str, default: Any) -> Any:
        return file.metadata.get(f"{family}.rope.{key}", default)

    kind = get("scaling.type", "linear")  # as llama.cpp takes a factor that stands alone
    if kind not in ("none", "linear", "yarn"):
        raise _refuse(f"rope scaling {kind!r} (only linear, yarn, and llama3's factors)")
    for key in ("alpha", "attn_factor", "yarn_log_multiplier", "yarn_ext_factor", "yarn_attn_factor"):
        if get(f"scaling.{key}", 1.0) != 1.0:
            raise _refuse(f"rope.scaling.{key} = {get(f'scaling.{key}', 1.0)}")
    factor = float(get("scaling.factor", get("scale_linear", 0.0)))
    divisors = tuple(file.tensor("rope_freqs.weight").tolist()) if "rope_freqs.weight" in file.names() else ()
    return RopeConfig(
        theta=float(get("freq_base", 10000.0)),
        kind="default" if kind == "none" or not factor else kind,
        factor=factor or 1.0,
        original_max_positions=get("scaling.original_context_length", max_positions),
        beta_fast=float(get("scaling.yarn_beta_fast", 32.0)),
        beta_slow=float(get("scaling.yarn_beta_slow", 1.0)),
        divisors=divisors,
    )
