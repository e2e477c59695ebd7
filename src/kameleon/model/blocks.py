"""The two blocks of a decoder layer, attention and MLP. Each knows its projections, norms and biases, and its pass.

The plan and generation's kernels ask these classes for the shape of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from kameleon.model.config import DecoderConfig
from kameleon.model.layer_weights import LayerReader
from kameleon.model.projections import Group, LayerPass, Projections
from kameleon.ops import Gated, Recomputed, RmsNorm, attention, attention_paged, rms_norm, rope, split_heads
from kameleon.weights import FrozenWeight


@dataclass(frozen=True, eq=False)
class Block:
    """One part of a layer, which adds its result to the residual; x is [tokens, hidden_size]."""

    config: DecoderConfig
    input_norm: Tensor
    """The weight of the norm of its input, fp32."""
    result_norm: Tensor | None
    """The weight of the norm of its result, fp32; None if that is added without a norm."""

    @property
    def projections(self) -> dict[str, Projections]:
        """Its projections by the names of their groups."""
        return {name: part for name, part in vars(self).items() if isinstance(part, Projections)}

    def with_weights(self, change: Callable[[FrozenWeight], FrozenWeight]) -> Self:
        """The same block with other weights."""
        changed = {name: replace(part, weight=change(part.weight)) for name, part in self.projections.items()}
        return replace(self, **changed)

    def _enter(self, at: LayerPass) -> RmsNorm:
        return RmsNorm(self.input_norm, self.config.rms_norm_eps, at.dtype)

    def _add(
        self,
        x: Tensor,
        last: Projections,
        part: Tensor,
        at: LayerPass,
        *,
        before: Recomputed | None = None,
        skip_output: bool = False,
    ) -> Tensor:
        """x + the last projection of `part`, normalised if the family says so."""
        if self.result_norm is None:
            return last(part, at, before=before, residual=x, skip_output=skip_output)
        return x + rms_norm(last(part, at, before=before), self.result_norm, eps=self.config.rms_norm_eps)


@dataclass(frozen=True, eq=False)
class Attention(Block):
    """Rotated attention of grouped heads: x + o(attention(rope(qkv(norm(x)))))."""

    qkv: Projections
    q_norm: Tensor | None
    k_norm: Tensor | None
    o: Projections
    window: int | None

    @staticmethod
    def groups(config: DecoderConfig) -> tuple[Group, ...]:
        """Its projections, in the order in which a token meets them."""
        heads, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        return (
            Group.of(
                "qkv",
                config.hidden_size,
                ("self_attn.q_proj", heads),
                ("self_attn.k_proj", kv),
                ("self_attn.v_proj", kv),
            ),
            Group.of("o", heads, ("self_attn.o_proj", config.hidden_size)),
        )

    @classmethod
    def read(cls, reader: LayerReader) -> Attention:
        """Attention of one layer out of its weights. Raises WeightsError."""
        config = reader.config
        qkv, o = (reader.projections(group) for group in cls.groups(config))
        q_norm = k_norm = None
        if config.qk_norm:
            q_norm = reader.norm("self_attn.q_norm", config.head_dim) * config.query_scale
            k_norm = reader.norm("self_attn.k_norm", config.head_dim)
        input_norm, result_norm = reader.norms(config.norms.attention_input, config.norms.attention_result)
        return cls(config, input_norm, result_norm, qkv, q_norm, k_norm, o, config.window(reader.layer))

    def forward(self, x: Tensor, at: LayerPass) -> Tensor:
        """x plus what attention adds."""
        heads = self.config.num_heads, self.config.num_kv_heads
        # In x's type until q and k are rotated: rounding them twice would be half of the error of their scores.
        qkv = self._norm_heads(self.qkv(x, at, before=self._enter(at), dtype=x.dtype))
        qkv = rope(qkv, *at.rotation, sum(heads), at.dtype)
        if at.pages is None:
            mixed = attention(qkv, *heads, at.segments, self.window)
        else:
            mixed = attention_paged(qkv, *heads, at.segments, at.pages, self.window)
        return self._add(x, self.o, mixed, at)

    def _norm_heads(self, qkv: Tensor) -> Tensor:
        """`qkv` [tokens, (heads + 2 · kv_heads) · head_dim] with q and k normalised, where the family does that."""
        if self.q_norm is None or self.k_norm is None:
            return qkv
        q, k, v = split_heads(qkv, self.config.num_heads, self.config.num_kv_heads)
        eps = self.config.rms_norm_eps
        return torch.cat([rms_norm(q, self.q_norm, eps=eps), rms_norm(k, self.k_norm, eps=eps), v], dim=1).flatten(1)

    def in_stack(self) -> Mapping[str, Any]:
        """Its part of `ops.LayerWeights`."""
        return {
            "input_norm": self.input_norm,
            "qkv": self.qkv.weight.stacked,
            "qkv_bias": self.qkv.bias,
            "q_norm": self.q_norm,
            "k_norm": self.k_norm,
            "o": self.o.weight.stacked,
            "o_bias": self.o.bias,
            "o_norm": self.result_norm,
            "window": self.window,
        }

    @staticmethod
    def kept_bytes(config: DecoderConfig, itemsize: int) -> int:
        """Bytes that training keeps of one token: input, q/k/v, attention's output and log-sum-exp, and the inputs of
        norms of q, k or the result, if any.
        """
        heads, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        numbers = config.hidden_size + (heads + 2 * kv) + heads
        numbers += 0 if config.norms.attention_result is None else config.hidden_size
        return itemsize * numbers + 4 * config.num_heads + (4 * (heads + kv) if config.qk_norm else 0)

    @staticmethod
    def wide_bytes(config: DecoderConfig, itemsize: int) -> int:
        """Bytes that a layer keeps more of one token if it runs in fp32 although the base is in a smaller type: what
        enters and leaves attention, and a copy for the product behind it.
        """
        heads, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        return 0 if itemsize == 4 else (4 - itemsize) * (heads + 2 * kv) + 4 * heads

    @staticmethod
    def work_bytes(config: DecoderConfig, tokens: int, seen: int) -> int:
        """Bytes of the fp32 copies that attention's kernels make, forward and backward (native/attention.cpp), in a
        pass of `tokens` whose segments see `seen` keys together.
        """
        heads, kv = config.num_heads, config.num_kv_heads
        rows = tokens * (heads + 3 * kv) + tokens * (3 * heads + 4 * kv) + 2 * heads * seen
        return 4 * config.head_dim * rows


@dataclass(frozen=True, eq=False)
class Mlp(Block):
    """A gated MLP: x + down(act(gate(norm(x))) · up(norm(x)))."""

    gate_up: Projections
    down: Projections

    @staticmethod
    def groups(config: DecoderConfig) -> tuple[Group, ...]:
        """Its projections, in the order in which a token meets them."""
        size, wide = config.hidden_size, config.intermediate_size
        return (
            Group.of("gate_up", size, ("mlp.gate_proj", wide), ("mlp.up_proj", wide)),
            Group.of("down", wide, ("mlp.down_proj", size)),
        )

    @classmethod
    def read(cls, reader: LayerReader) -> Mlp:
        """The MLP of one layer out of its weights. Raises WeightsError."""
        config = reader.config
        gate_up, down = (reader.projections(group) for group in cls.groups(config))
        input_norm, result_norm = reader.norms(config.norms.mlp_input, config.norms.mlp_result)
        return cls(config, input_norm, result_norm, gate_up, down)

    def forward(self, x: Tensor, at: LayerPass, *, skip_output: bool = False) -> Tensor:
        """x plus what the MLP adds; with `skip_output` it is left uninitialised, since only its gradient is needed."""
        gate_up = self.gate_up(x, at, before=self._enter(at))
        activation = Gated(self.config.activation)
        return self._add(x, self.down, gate_up, at, before=activation, skip_output=skip_output)

    def in_stack(self) -> Mapping[str, Any]:
        """Its part of `ops.LayerWeights`."""
        return {
            "mlp_norm": self.input_norm,
            "gate_up": self.gate_up.weight.stacked,
            "gate_up_bias": self.gate_up.bias,
            "down": self.down.weight.stacked,
            "down_bias": self.down.bias,
            "down_norm": self.result_norm,
        }

    @staticmethod
    def kept_bytes(config: DecoderConfig, itemsize: int) -> int:
        """Bytes that training keeps of one token: input, gate and up, and the input of the result's norm, if any."""
        normed = 0 if config.norms.mlp_result is None else config.hidden_size
        return itemsize * (config.hidden_size + 2 * config.intermediate_size + normed)

    @staticmethod
    def work_bytes(config: DecoderConfig, itemsize: int, *, has_wide: bool) -> int:
        """Bytes of work space of one token in backward; `has_wide`: some trained layers run in fp32."""
        return config.intermediate_size * max(4 * itemsize, 12 if has_wide else 0)
