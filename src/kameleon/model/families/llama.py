"""Llama 2, 3 and later, and many bases with other names that are the same: the plain decoder."""

from kameleon.model.family import GGUF_MEMBERS, Family
from kameleon.weights import GgufLayout

FAMILY = Family(
    name="llama",
    models="Llama 2, 3, 3.1 and later, SmolLM2, TinyLlama",
    architecture="LlamaForCausalLM",
    gguf=GgufLayout(
        "llama",
        GGUF_MEMBERS,
        paired={"self_attn.q_proj": "attention.head_count", "self_attn.k_proj": "attention.head_count_kv"},
    ),
)
