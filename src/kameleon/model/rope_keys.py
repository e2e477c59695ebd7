"""Rotary embeddings as a config.json or a GGUF file describes them."""

from __future__ import annotations

from typing import Any

from kameleon.errors import UnsupportedArchitectureError, WeightsError
from kameleon.model.rope import RopeConfig
from kameleon.weights import GgufFile, Metadata

_HF_KINDS = ("default", "linear", "llama3", "yarn")


def rope_from_hf(values: Metadata, max_positions: int) -> RopeConfig:
    """The one rotary embedding of a config.json: new style (rope_parameters) or old (rope_theta, rope_scaling).

    Raises what `read_rope` raises.
    """
    new_style = values.get("rope_parameters")
    parameters = values.get("rope_scaling") if new_style is None else new_style
    theta = values.find("rope_theta", float, 10000.0)
    return read_rope(values, parameters, theta=theta, max_positions=max_positions)


def read_rope(values: Metadata, parameters: Any, *, theta: float, max_positions: int) -> RopeConfig:
    """One rotary embedding out of its `parameters`, which may be None; `theta` holds where they have none.

    Raises UnsupportedArchitectureError for a scaling that is not computed here, WeightsError for impossible values.
    """
    if not isinstance(parameters or {}, dict):
        raise WeightsError(f"the rope parameters in {values.where} are {parameters!r}; they must be an object")
    given = {key: value for key, value in (parameters or {}).items() if value is not None}
    scaling = Metadata(given, f"the rope parameters in {values.where}")
    kind = scaling.find("rope_type", str, scaling.find("type", str, "default"))
    if kind not in _HF_KINDS:
        raise UnsupportedArchitectureError(f"rope scaling {kind!r} (only {', '.join(_HF_KINDS)}) is not supported")
    if values.get("partial_rotary_factor", scaling.get("partial_rotary_factor", 1.0)) != 1.0:
        raise UnsupportedArchitectureError("partial rotary embedding is not supported")
    for key, computed in (("mscale", None), ("mscale_all_dim", None), ("truncate", True)):
        if kind == "yarn" and scaling.get(key, computed) != computed:
            raise UnsupportedArchitectureError(f"yarn with {key} is not supported")
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


def rope_from_gguf(file: GgufFile, *, max_positions: int, head_dim: int) -> RopeConfig:
    """The rotary embedding of a GGUF file's full attention. Raises what `read_rope` raises."""
    metadata, rope = file.metadata, f"{file.layout.architecture}.rope"

    def number(key: str, default: float) -> float:
        return metadata.find(f"{rope}.{key}", float, default)

    kind = metadata.find(f"{rope}.scaling.type", str, "linear")  # as llama.cpp takes a factor that stands alone
    if kind not in ("none", "linear", "yarn"):
        raise UnsupportedArchitectureError(
            f"rope scaling {kind!r} (only linear, yarn, and llama3's factors) is not supported"
        )
    for key in ("alpha", "attn_factor", "yarn_log_multiplier", "yarn_ext_factor", "yarn_attn_factor"):
        if (value := number(f"scaling.{key}", 1.0)) != 1.0:
            raise UnsupportedArchitectureError(f"rope.scaling.{key} = {value} is not supported")
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
