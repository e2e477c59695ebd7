"""The differences between a family of decoders and a plain Llama. Each file of `families/` holds one `Family`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kameleon.model.config import DecoderConfig, NormNames
from kameleon.ops.gated import Activation
from kameleon.weights import GgufLayout, Metadata

QKV = frozenset(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"))

REQUIRED: Mapping[str, Any] = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "pretraining_tp": 1,
    "use_bidirectional_attention": False,
    "attn_logit_softcapping": 0.0,
    "final_logit_softcapping": 0.0,
}
"""The only values of these keys in a config.json that a plain Llama computes."""

GGUF_MEMBERS: Mapping[str, str] = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""For each tensor of a layer, its name in the GGUF files of most architectures and its Hugging Face name."""

_PLAIN_NORMS = NormNames()

Change = Callable[[DecoderConfig, Metadata], DecoderConfig]


def _unchanged(config: DecoderConfig, values: Metadata) -> DecoderConfig:
    return config


@dataclass(frozen=True, eq=False)
class Family:
    """One family: its names and defaults in files, its switches, and the values that it refuses."""

    name: str
    """`model_type` in its config.json."""
    models: str
    """Its models, as people know them."""
    architecture: str
    """Its class in transformers, which a config.json names."""
    gguf: GgufLayout
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """The meaning of keys that a config.json leaves out."""
    required: Mapping[str, Any] = field(default_factory=lambda: REQUIRED)
    """Keys that must have this value where a config.json has them; any other value is refused by name."""
    biases: frozenset[str] = frozenset()
    """Projections that have a bias."""
    qk_norm: bool = False
    norms: NormNames = _PLAIN_NORMS
    activation: Activation = "silu"
    from_hf: Change = _unchanged
    """Finishes a config out of the values of a config.json, in which `defaults` are filled in."""
    from_gguf: Change = _unchanged
    """Finishes a config out of the metadata of a GGUF file."""
    to_hf: Callable[[DecoderConfig], dict[str, Any]] = lambda _: {}
    """Keys of a config.json that other families do not have."""
