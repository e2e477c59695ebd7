"""The shape of a decoder as one value. Files are read into it by `hf_config` and `gguf_config`."""

from __future__ import annotations

from dataclasses import dataclass

from kameleon.errors import WeightsError
from kameleon.model.rope import RopeConfig
from kameleon.ops.gated import Activation
from kameleon.words import short_repr


@dataclass(frozen=True)
class NormNames:
    """The norms around the two blocks of a layer, by their names inside the layer."""

    attention_input: str = "input_layernorm"
    attention_result: str | None = None
    """The norm of what attention adds to the residual; None where that is not normalised."""
    mlp_input: str = "post_attention_layernorm"
    mlp_result: str | None = None


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes and switches of the decoder, for all families. The defaults are those of a plain Llama."""

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
    max_sequence_tokens: int
    stop_token_ids: frozenset[int]
    biases: frozenset[str] = frozenset()
    """Projections with a bias, by their names inside a layer (`self_attn.q_proj`)."""
    qk_norm: bool = False
    """Whether q and k are normalised per head before they are rotated."""
    norms: NormNames = NormNames()
    windows: tuple[int | None, ...] = ()
    """Per layer: how many tokens each token sees, itself included; None is all. Empty where every layer sees all."""
    local_rope: RopeConfig | None = None
    """The rotary embedding of layers with a window, where it differs from `rope`."""
    activation: Activation = "silu"
    embedding_scale: float = 1.0
    norm_offset: float = 0.0
    """A number that is added to the stored weights of norms."""
    query_scale: float = 1.0
    """A factor of q beside 1 / sqrt(head_dim); only with `qk_norm`, whose weight takes it in."""

    __repr__ = short_repr

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
