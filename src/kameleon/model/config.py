"""The shape of a decoder, read from a Hugging Face config.json or from GGUF metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kameleon.errors import UnsupportedArchitectureError, WeightsError
from kameleon.model.rope import RopeConfig
from kameleon.ops.gated import Activation
from kameleon.weights import GgufFile, Metadata, WeightFile

FAMILIES = {
    "llama": "Llama 2, 3, 3.1 and later, SmolLM2, TinyLlama",
    "mistral": "Mistral",
    "qwen2": "Qwen2, Qwen2.5",
    "qwen3": "Qwen3",
    "gemma3_text": "Gemma 3, text only",
}
# GGUF files name an architecture; but for one it is the family.
_ARCHITECTURES = {"gemma3" if family == "gemma3_text" else family: family for family in FAMILIES}
# What a config.json may leave out, where families differ.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096, "max_position_embeddings": 131072},
    "qwen2": {"num_key_value_heads": 32, "max_position_embeddings": 32768},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32768},
    "gemma3_text": {
        "head_dim": 256,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131072,
        "rope_theta": 1e6,
        "sliding_window": 4096,
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": 256,
    },
}
# Gemma 3: every sixth layer sees all, the others a window, with a rotary embedding of their own.
_LOCAL_THETA, _WINDOW_PATTERN = 1e4, 6
_MOST_LAYERS = 4096  # far beyond any real base, and few enough to list


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes and switches of the decoder; one value for all families. Those with defaults are Gemma's, but `windows`."""

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
    """Whether q and k are normalised per head before they are rotated (Qwen3, Gemma)."""
    max_sequence_tokens: int
    stop_token_ids: frozenset[int]
    windows: tuple[int | None, ...] = ()
    """Per layer: how many tokens each token sees, itself included; None is all. Empty where every layer sees all."""
    local_rope: RopeConfig | None = None
    """The rotary embedding of layers with a window, where it is another than `rope`."""
    activation: Activation = "silu"
    embedding_scale: float = 1.0
    sandwich_norms: bool = False
    """Whether attention's and the MLP's results are normalised before they are added to the residual."""
    norm_offset: float = 0.0
    """What is added to the norms' weights as they are stored."""
    query_scale: float = 1.0
    """What q is multiplied by beside 1 / sqrt(head_dim); only with `qk_norm`, whose weight takes it in."""

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise WeightsError(f"{self.num_heads} heads cannot share {self.num_kv_heads} key and value heads evenly")
        if self.head_dim % 2:
            raise WeightsError(f"heads of {self.head_dim} numbers cannot be rotated in pairs")

    def window(self, layer: int) -> int | None:
        """How many tokens each token sees in `layer`, itself included; None is all."""
        return self.windows[layer] if self.windows else None

    def layer_rope(self, layer: int) -> RopeConfig:
        """The rotary embedding of `layer`."""
        return self.local_rope if self.local_rope is not None and self.window(layer) is not None else self.rope


def read_config(path: Path, weights: WeightFile) -> DecoderConfig:
    """The config of a folder in Hugging Face layout or of a `.gguf` file. Raises UnsupportedArchitectureError."""
    if isinstance(weights, GgufFile):
        return config_from_gguf(weights)
    return config_from_hf(read_json(path / "config.json"), read_generation_config(path))


def read_generation_config(path: Path) -> dict[str, Any]:
    """How the authors of the base in a folder would generate; empty if they do not say. Raises WeightsError."""
    generation = path / "generation_config.json"
    return read_json(generation) if generation.exists() else {}


def read_json(path: Path) -> dict[str, Any]:
    """The object in one of a base's JSON files. Raises WeightsError, naming the file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"it holds a {type(values).__name__}, not an object")
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} cannot be read as JSON: {str(error)[:200]}; fetch the base again") from error
    return values


def _refuse(what: str) -> UnsupportedArchitectureError:
    known = "; ".join(f"{name} ({models})" for name, models in FAMILIES.items())
    return UnsupportedArchitectureError(f"{what} is not supported; supported families: {known}")


def config_from_hf(config: Mapping[str, Any], generation: Mapping[str, Any] | None = None) -> DecoderConfig:
    """A `config.json`, old style (rope_theta, rope_scaling) or new (rope_parameters), with its generation config.

    Raises UnsupportedArchitectureError, naming the family or the feature that is not computed here, and WeightsError
    where a value is missing or of another type than it must be.
    """
    family = str(config.get("model_type"))
    if family not in FAMILIES:
        named = config.get("architectures")
        architecture = ", ".join(map(str, named)) if isinstance(named, list) and named else family
        raise _refuse(f"architecture {architecture} (model_type {family})")
    said = {key: value for key, value in config.items() if value is not None}
    # A window that is null is none, and key and value heads are one for each head: not the same as left out.
    null = {key for key, value in config.items() if value is None}
    values = Metadata({**_DEFAULTS.get(family, {}), **said}, "config.json")
    _refuse_features(family, values)
    heads, size = values.size("num_attention_heads"), values.size("hidden_size")
    layers, gemma = _layers(values, "num_hidden_layers"), family == "gemma3_text"
    max_sequence_tokens = values.size("max_position_embeddings", 2048)
    head_dim = values.size("head_dim", max(1, size // heads))
    stops = (generation or {}).get("eos_token_id")
    stops = values.get("eos_token_id") if stops is None else stops
    return DecoderConfig(
        family=family,
        vocab_size=values.size("vocab_size"),
        hidden_size=size,
        intermediate_size=values.size("intermediate_size"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads if "num_key_value_heads" in null else values.size("num_key_value_heads", heads),
        head_dim=head_dim,
        rms_norm_eps=values.find("rms_norm_eps", float, 1e-6),
        rope=_rope_from_hf(values, max_sequence_tokens, "full_attention" if gemma else None),
        tie_word_embeddings=values.find("tie_word_embeddings", bool, False),
        attention_bias=family == "qwen2",
        qk_norm=family in ("qwen3", "gemma3_text"),
        max_sequence_tokens=max_sequence_tokens,
        stop_token_ids=_as_ids(stops),
        windows=() if "sliding_window" in null else _windows_from_hf(family, values, layers),
        local_rope=_rope_from_hf(values, max_sequence_tokens, "sliding_attention") if gemma else None,
        norm_offset=1.0 if gemma else 0.0,
        **_gemma(size, head_dim, values.find("query_pre_attn_scalar", float, 256.0)) if gemma else {},
    )


def _layers(values: Metadata, key: str) -> int:
    layers = values.size(key)
    if layers > _MOST_LAYERS:
        raise WeightsError(f"{key} in {values.where} is {layers}; at most {_MOST_LAYERS} layers are read")
    return layers


def _refuse_features(family: str, values: Metadata) -> None:
    """Raise UnsupportedArchitectureError for what a config.json may ask for and is not computed here."""
    gemma = family == "gemma3_text"
    plain: dict[str, Any] = {"hidden_activation": "gelu_pytorch_tanh"} if gemma else {"hidden_act": "silu"}
    plain |= {"mlp_bias": False, "pretraining_tp": 1, "use_bidirectional_attention": False}
    for key, fine in plain.items():
        if values.find(key, type(fine), fine) != fine:
            raise _refuse(f"{key} = {values[key]!r} (only {fine!r})")
    for key in ("final_logit_softcapping", "attn_logit_softcapping"):
        if values.get(key):
            raise _refuse(f"{key} = {values[key]!r}")
    if family != "qwen2" and values.find("attention_bias", bool, False):
        raise _refuse(f"attention_bias in {family}")
    if quantised := values.get("quantization_config"):
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise _refuse(f"a base stored with quantization_config {method!r}")


def _gemma(size: int, head_dim: int, query_pre_attn_scalar: float) -> dict[str, Any]:
    """What all Gemma 3 bases have. Attention divides by sqrt(query_pre_attn_scalar) instead of sqrt(head_dim)."""
    if query_pre_attn_scalar <= 0:
        raise WeightsError(f"query_pre_attn_scalar is {query_pre_attn_scalar}; it must be above 0")
    return {
        "activation": "gelu_tanh",
        "embedding_scale": size**0.5,
        "sandwich_norms": True,
        "query_scale": (head_dim / query_pre_attn_scalar) ** 0.5,
    }


def _windows_from_hf(family: str, values: Metadata, layers: int) -> tuple[int | None, ...]:
    if family == "llama" or (family.startswith("qwen") and not values.find("use_sliding_window", bool, False)):
        return ()
    window = values.size("sliding_window", 4096)
    if family == "mistral":
        return (window,) * layers
    if values.get("layer_types") is not None:
        kinds = values.row("layer_types", str, layers)
        unknown = set(kinds) - {"full_attention", "sliding_attention"}
        if unknown:
            raise _refuse(f"layer_types with {', '.join(sorted(unknown))}")
        return tuple(window if kind == "sliding_attention" else None for kind in kinds)
    if family == "gemma3_text":
        return _every(values.size("sliding_window_pattern", _WINDOW_PATTERN), window, layers)
    first = values.find("max_window_layers", int, 28)
    return tuple(window if layer >= first else None for layer in range(layers))


def _every(pattern: int, window: int, layers: int) -> tuple[int | None, ...]:
    """Every `pattern`-th layer sees all, the others `window` tokens."""
    return tuple(window if layer % pattern else None for layer in range(1, layers + 1))


def _as_ids(stops: Any) -> frozenset[int]:
    if stops is None:
        return frozenset()
    ids = stops if isinstance(stops, list) else [stops]
    return frozenset(Metadata({"eos_token_id": ids}, "the base's config").row("eos_token_id", int))


def _rope_from_hf(values: Metadata, max_positions: int, layer_type: str | None) -> RopeConfig:
    """The one rotary embedding of a base, or that of one type of layer in a base that has two."""
    local = layer_type == "sliding_attention"
    scaling = values.get("rope_parameters")
    if scaling is not None and layer_type is not None:
        scaling = scaling.get(layer_type) if isinstance(scaling, dict) else scaling
    elif scaling is None and not local:
        scaling = values.get("rope_scaling")
    if not isinstance(scaling or {}, dict):
        raise WeightsError(f"the rope parameters in {values.where} are {scaling!r}; they must be an object")
    said = {key: value for key, value in (scaling or {}).items() if value is not None}
    scaling = Metadata(said, f"the rope parameters in {values.where}")
    theta = (
        values.find("rope_local_base_freq", float, _LOCAL_THETA) if local else values.find("rope_theta", float, 10000.0)
    )
    kind = scaling.find("rope_type", str, scaling.find("type", str, "default"))
    if kind not in ("default", "linear", "llama3", "yarn"):
        raise _refuse(f"rope scaling {kind!r} (only default, linear, llama3, yarn)")
    if values.get("partial_rotary_factor", scaling.get("partial_rotary_factor", 1.0)) != 1.0:
        raise _refuse("partial rotary embedding")
    for key, fine in (("mscale", None), ("mscale_all_dim", None), ("truncate", True)):
        if kind == "yarn" and scaling.get(key, fine) != fine:
            raise _refuse(f"yarn with {key}")
    key = "original_max_position_embeddings"
    original = scaling.size(key, values.size(key, max_positions))
    return RopeConfig(
        theta=scaling.find("rope_theta", float, theta),
        kind=kind,
        factor=scaling.find("factor", float, max_positions / original if kind == "yarn" else 1.0),
        original_max_positions=original,
        low_freq_factor=scaling.find("low_freq_factor", float, 1.0),
        high_freq_factor=scaling.find("high_freq_factor", float, 4.0),
        beta_fast=scaling.find("beta_fast", float, 32.0),
        beta_slow=scaling.find("beta_slow", float, 1.0),
        attention_factor=scaling.find("attention_factor", float, None),
    )


def config_from_gguf(file: GgufFile) -> DecoderConfig:
    """The metadata of a GGUF file; keys as in the GGUF specification.

    Raises UnsupportedArchitectureError, and WeightsError where a value is missing or of another type than it must be.
    """
    metadata = file.metadata
    at = metadata.need("general.architecture", str)
    if at not in _ARCHITECTURES:
        raise _refuse(f"architecture {at}")
    family, gemma = _ARCHITECTURES[at], at == "gemma3"
    if metadata.get(f"{at}.expert_count"):
        raise _refuse("a mixture of experts")
    heads, size = metadata.size(f"{at}.attention.head_count"), metadata.size(f"{at}.embedding_length")
    head_dim = metadata.size(f"{at}.attention.key_length", max(1, size // heads))
    if metadata.size(f"{at}.attention.value_length", head_dim) != head_dim:
        raise _refuse("values of another size than keys")
    if metadata.size(f"{at}.rope.dimension_count", head_dim) != head_dim:
        raise _refuse("partial rotary embedding")
    for key in (f"{at}.attn_logit_softcapping", f"{at}.final_logit_softcapping"):
        if metadata.get(key):
            raise _refuse(f"{key} = {metadata[key]!r}")
    names = set(file.names())
    if any(name.endswith("o_proj.bias") for name in names):
        raise _refuse("a bias on the output projection")
    layers, max_sequence_tokens = _layers(metadata, f"{at}.block_count"), metadata.size(f"{at}.context_length")
    rope = _rope_from_gguf(file, at, max_sequence_tokens, head_dim)
    window = metadata.find(f"{at}.attention.sliding_window", int, 0)
    pattern = metadata.size(f"{at}.attention.sliding_window_pattern", _WINDOW_PATTERN) if gemma else layers + 1
    local_theta = metadata.find(f"{at}.rope.freq_base_swa", float, _LOCAL_THETA)
    # The file does not say it: as llama.cpp, which knows the one base whose scale is another by its 62 layers.
    query_pre_attn_scalar = size / heads if layers == 62 else head_dim
    vocab = file.shape("model.embed_tokens.weight")[0]
    return DecoderConfig(
        family=family,
        vocab_size=vocab,
        hidden_size=size,
        intermediate_size=metadata.size(f"{at}.feed_forward_length"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=metadata.size(f"{at}.attention.head_count_kv", heads),
        head_dim=head_dim,
        rms_norm_eps=metadata.need(f"{at}.attention.layer_norm_rms_epsilon", float),
        rope=rope,
        tie_word_embeddings="lm_head.weight" not in names,
        attention_bias="model.layers.0.self_attn.q_proj.bias" in names,
        qk_norm="model.layers.0.self_attn.q_norm.weight" in names,
        max_sequence_tokens=max_sequence_tokens,
        stop_token_ids=_stops_from_gguf(metadata, vocab),
        windows=_every(pattern, window, layers) if window > 0 else (),
        local_rope=RopeConfig(local_theta, original_max_positions=max_sequence_tokens) if gemma else None,
        **_gemma(size, head_dim, query_pre_attn_scalar) if gemma else {},
    )


def _stops_from_gguf(metadata: Metadata, vocab: int) -> frozenset[int]:
    stops = set()
    for key in (f"tokenizer.ggml.{role}_token_id" for role in ("eos", "eot")):
        token = metadata.find(key, int, None)
        if token is not None:
            if not 0 <= token < vocab:
                raise WeightsError(f"{key} in {metadata.where} is {token}; there are only {vocab:,} tokens")
            stops.add(token)
    return frozenset(stops)


def _rope_from_gguf(file: GgufFile, at: str, max_positions: int, head_dim: int) -> RopeConfig:
    metadata, rope = file.metadata, f"{at}.rope"

    def number(key: str, default: float) -> float:
        return metadata.find(f"{rope}.{key}", float, default)

    kind = metadata.find(f"{rope}.scaling.type", str, "linear")  # as llama.cpp takes a factor that stands alone
    if kind not in ("none", "linear", "yarn"):
        raise _refuse(f"rope scaling {kind!r} (only linear, yarn, and llama3's factors)")
    for key in ("alpha", "attn_factor", "yarn_log_multiplier", "yarn_ext_factor", "yarn_attn_factor"):
        if number(f"scaling.{key}", 1.0) != 1.0:
            raise _refuse(f"rope.scaling.{key} = {number(f'scaling.{key}', 1.0)}")
    factor = number("scaling.factor", number("scale_linear", 0.0))
    stored = "rope_freqs.weight"
    divisors = tuple(file.tensor(stored, (head_dim // 2,)).tolist()) if stored in file.names() else ()
    return RopeConfig(
        theta=number("freq_base", 10000.0),
        kind="default" if kind == "none" or not factor else kind,
        factor=factor or 1.0,
        original_max_positions=metadata.size(f"{rope}.scaling.original_context_length", max_positions),
        beta_fast=number("scaling.yarn_beta_fast", 32.0),
        beta_slow=number("scaling.yarn_beta_slow", 1.0),
        divisors=divisors,
    )
