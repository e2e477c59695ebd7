"""Qwen3: q and k are normalised per head, and the heads' size is a setting of its own."""

from kameleon.model.families import qwen2
from kameleon.model.family import GGUF_MEMBERS, Family
from kameleon.weights import GgufLayout

FAMILY = Family(
    name="qwen3",
    models="Qwen3",
    architecture="Qwen3ForCausalLM",
    gguf=GgufLayout("qwen3", GGUF_MEMBERS),
    defaults={
        "num_key_value_heads": 32,
        "head_dim": 128,
        "max_position_embeddings": 32768,
        "sliding_window": 4096,
    },
    qk_norm=True,
    from_hf=qwen2.with_windows,
)
