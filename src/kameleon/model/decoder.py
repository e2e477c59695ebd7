"""The Llama-family decoder on packed segments: Llama 2/3, SmolLM2, Mistral, Qwen2, Qwen3, Gemma 3.

One forward pass for training, evaluation and generation. It knows frozen weights and side paths, but neither adapters
by name nor files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from kameleon.errors import SettingError
from kameleon.model.config import DecoderConfig
from kameleon.model.ends import EMBEDDING, HEAD, AdaptedEnd, project_wide, runs_as_one
from kameleon.model.layout import Group, Member, groups
from kameleon.model.rope import attention_factor, inv_freq
from kameleon.ops import (
    NO_ADAPTER,
    Gated,
    LayerPages,
    LayerStack,
    LayerWeights,
    Recomputed,
    RmsNorm,
    Segments,
    SidePath,
    SideTable,
    attention,
    attention_paged,
    lora_linear,
    recompute,
    release_freed_memory,
    rms_norm,
    rope,
    rotation,
    split_heads,
    torch_has_amx,
)
from kameleon.weights import FrozenWeight, ModuleName, WeightFile


class SidePaths(Protocol):
    """The resident adapters, as the decoder sees them: the factors in each slot for one joined projection, and what
    the adapter in a slot makes of the embedding or the head (None: nothing)."""

    def sides(self, layer: int, group: str) -> Sequence[SidePath | None]: ...

    def end(self, slot: int, name: str) -> AdaptedEnd | None: ...


@runtime_checkable
class SideTables(Protocol):
    """The same as generation's kernels take them: one table for each slot."""

    def table(self, slot: int) -> SideTable: ...


class Cache(Protocol):
    """Keys and values of earlier tokens, and room for new ones, in each layer's pages."""

    @property
    def keys(self) -> Tensor: ...

    @property
    def values(self) -> Tensor: ...

    @property
    def tables(self) -> Tensor: ...

    def layer(self, index: int) -> LayerPages: ...


@dataclass(frozen=True, eq=False)
class Layer:
    """Frozen weights of one layer, the norms in fp32. What a family has not is None."""

    input_norm: Tensor
    qkv: FrozenWeight
    qkv_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    o: FrozenWeight
    o_norm: Tensor | None
    mlp_norm: Tensor
    gate_up: FrozenWeight
    down: FrozenWeight
    down_norm: Tensor | None
    dtype: torch.dtype
    """What it multiplies in, in training and evaluation; generation is in the base's compute type throughout."""


class Decoder:
    """Frozen layers and the pass through them; it holds no state between calls."""

    def __init__(
        self, config: DecoderConfig, embedding: FrozenWeight, layers: Sequence[Layer], norm: Tensor, head: FrozenWeight
    ) -> None:
        self.config = config
        self.embedding = embedding
        self.layers = tuple(layers)
        self.norm = norm
        self.head = head
        self._ropes = {
            one: (inv_freq(one, config.head_dim), attention_factor(one))
            for one in {config.layer_rope(layer) for layer in range(config.num_layers)}
        }

    def hidden(
        self,
        tokens: Tensor,
        segments: Segments,
        adapters: SidePaths | None = None,
        cache: Cache | None = None,
        checkpoint_layers: int = 0,
    ) -> Tensor:
        """Final normed hidden states [tokens, hidden_size] of a packed row.

        `tokens` [tokens] int64. `adapters` may be None when every segment is the plain base. With `cache`, segment i
        goes on where `segments.offsets[i]` says, and its keys and values are added to the cache.
        Raises SettingError for a sequence longer than the base was made for.
        """
        entering = self.embed(tokens, segments, adapters)
        return self.finish(self.run(entering, segments, adapters, cache, None, checkpoint_layers))

    def embed(self, tokens: Tensor, segments: Segments, adapters: SidePaths | None = None) -> Tensor:
        """[tokens, hidden_size]: what enters the first layer."""
        x, scale = self.embedding.rows(tokens), self.config.embedding_scale
        if adapters is not None:
            for run in segments.spans:
                if (end := adapters.end(run.adapter, EMBEDDING)) is not None:
                    x[run.start : run.stop] = end.rows(tokens[run.start : run.stop])
        # Rounded to x's type before the product, as Gemma was trained.
        return x if scale == 1.0 else x * torch.tensor(scale, dtype=x.dtype)

    def run(
        self,
        x: Tensor,
        segments: Segments,
        adapters: SidePaths | None = None,
        cache: Cache | None = None,
        layers: range | None = None,
        checkpoint_layers: int = 0,
    ) -> Tensor:
        """`x` [tokens, hidden_size] through `layers` (all of them by default).

        Layers below the lowest adapted one give every adapter the same; whoever compares adapters runs them once.
        So many layers as `checkpoint_layers` says, from the first that is trained on, keep their inputs alone and run
        again when their gradients are asked for. The last layers' gradients come first: what they stored is free again
        before the first of these runs.
        Returns fp32 without `cache`: what the layers add up is rounded nowhere between them.
        """
        self._check(x, segments)
        x = x.float() if cache is None else x
        rotations = {one: rotation(segments.positions, *ready) for one, ready in self._ropes.items()}
        if cache is not None and layers is None and runs_as_one(x):
            slots = {run.adapter for run in segments.spans}
            tables = adapters if isinstance(adapters, SideTables) else None
            assert not slots or tables is not None
            sides = {slot: tables.table(slot) for slot in slots} if tables is not None else {}
            if all(table.is_plain for table in sides.values()):
                return self._stack.run(
                    x, segments, list(rotations.values()), cache.keys, cache.values, cache.tables, sides
                )
        sparing = checkpoint_layers > 0
        for index in layers if layers is not None else range(len(self.layers)):
            if sparing:
                release_freed_memory(x)
            rotation_ = rotations[self.config.layer_rope(index)]
            trained = self._trained(index, segments, adapters) if checkpoint_layers else []
            if trained or (checkpoint_layers and x.requires_grad):
                checkpoint_layers -= 1
                x = recompute(
                    lambda x, *, skip_output=False, i=index, turn=rotation_: self._layer(
                        i, x, segments, turn, adapters, cache, skip_output=skip_output
                    ),
                    x,
                    trained,
                )
            else:
                x = self._layer(index, x, segments, rotation_, adapters, cache)
        return x

    def finish(self, x: Tensor) -> Tensor:
        """The last norm, [tokens, hidden_size]: what the head multiplies."""
        return rms_norm(x, self.norm, eps=self.config.rms_norm_eps, dtype=self.head.dtype)

    def logits(self, hidden: Tensor, slots: Sequence[int] = (), adapters: SidePaths | None = None) -> Tensor:
        """hidden · headᵀ in fp32, [rows, vocab_size]; give it only the rows that are needed.

        `slots` says through whose adapter each row went; without them, all through the plain base's head.
        """
        heads = {slot: self._head_of(slot, adapters) for slot in set(slots)} if adapters is not None else {}
        if all(head is self.head for head in heads.values()):
            return project_wide(self.head, hidden)
        logits = torch.empty(len(hidden), self.config.vocab_size)
        for head in dict.fromkeys(heads.values()):
            mine = torch.tensor([heads[slot] is head for slot in slots])
            logits[mine] = (
                head.project(hidden[mine]) if isinstance(head, AdaptedEnd) else project_wide(head, hidden[mine])
            )
        return logits

    @cached_property
    def _stack(self) -> LayerStack:
        config, ropes = self.config, list(self._ropes)
        layers = [
            LayerWeights(
                layer.input_norm,
                layer.qkv.stacked,
                layer.qkv_bias,
                layer.q_norm,
                layer.k_norm,
                layer.o.stacked,
                None,
                layer.o_norm,
                layer.mlp_norm,
                layer.gate_up.stacked,
                None,
                layer.down.stacked,
                None,
                layer.down_norm,
                config.window(i),
                ropes.index(config.layer_rope(i)),
            )
            for i, layer in enumerate(self.layers)
        ]
        return LayerStack(
            layers,
            heads=config.num_heads,
            kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            activation=config.activation,
            eps=config.rms_norm_eps,
            no_window=config.max_sequence_tokens,
        )

    def _layer(
        self,
        index: int,
        x: Tensor,
        segments: Segments,
        turn: tuple[Tensor, Tensor],
        adapters: SidePaths | None,
        cache: Cache | None,
        *,
        skip_output: bool = False,
    ) -> Tensor:
        layer, config, eps = self.layers[index], self.config, self.config.rms_norm_eps
        heads, window = (config.num_heads, config.num_kv_heads), config.window(index)
        dtype = layer.dtype if cache is None else x.dtype

        def project(
            group: str,
            x: Tensor,
            before: Recomputed | None = None,
            residual: Tensor | None = None,
            skip_output: bool = False,
            dtype: torch.dtype | None = None,
        ) -> Tensor:
            sides = adapters.sides(index, group) if adapters is not None else ()
            return lora_linear(
                x,
                getattr(layer, group),
                sides,
                segments,
                before=before,
                residual=residual,
                skip_output=skip_output,
                dtype=dtype,
            )

        def add(x: Tensor, group: str, part: Tensor, norm: Tensor | None, before: Recomputed | None = None) -> Tensor:
            """x + norm(the projection of `part`)."""
            if norm is None:
                return project(group, part, before, residual=x, skip_output=skip_output and group == "down")
            return x + rms_norm(project(group, part, before), norm, eps=eps)

        # In x's type until queries and keys are turned: rounding them twice would be half of the error of their scores.
        qkv = project("qkv", x, RmsNorm(layer.input_norm, eps, dtype), dtype=x.dtype)
        qkv = rope(self._finish_qkv(layer, qkv), *turn, sum(heads), dtype)
        if cache is None:
            mixed = attention(qkv, *heads, segments, window)
        else:
            mixed = attention_paged(qkv, *heads, segments, cache.layer(index), window)
        x = add(x, "o", mixed, layer.o_norm)
        gate_up = project("gate_up", x, RmsNorm(layer.mlp_norm, eps, dtype))
        return add(x, "down", gate_up, layer.down_norm, Gated(config.activation))

    def _trained(self, index: int, segments: Segments, adapters: SidePaths | None) -> list[Tensor]:
        """What the segments' adapters train in a layer."""
        if adapters is None:
            return []
        slots = {run.adapter for run in segments.spans}
        paths = [adapters.sides(index, group.name) for group in groups(self.config)]
        sides = (side[slot] for side in paths for slot in slots)
        return [tensor for side in sides if side is not None for tensor in side.trained]

    def _finish_qkv(self, layer: Layer, qkv: Tensor) -> Tensor:
        """`qkv` [tokens, (heads + 2 · kv_heads) · head_dim] with its bias and q/k norms, where the family has them."""
        if layer.qkv_bias is not None:
            qkv = qkv + layer.qkv_bias
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k, v = split_heads(qkv, self.config.num_heads, self.config.num_kv_heads)
            eps = self.config.rms_norm_eps
            qkv = torch.cat([rms_norm(q, layer.q_norm, eps=eps), rms_norm(k, layer.k_norm, eps=eps), v], dim=1).flatten(
                1
            )
        return qkv

    def _head_of(self, slot: int, adapters: SidePaths) -> FrozenWeight | AdaptedEnd:
        """What rows of the adapter in `slot` are multiplied with to give logits."""
        end = None if slot == NO_ADAPTER else adapters.end(slot, HEAD)
        return self.head if end is None else end

    def _check(self, x: Tensor, segments: Segments) -> None:
        assert len(x) == segments.tokens, f"{len(x)} tokens for segments of {segments.tokens}"
        limit = self.config.max_sequence_tokens
        longest = max((o + n for o, n in zip(segments.offsets, segments.lengths, strict=True)), default=0)
        if longest > limit:
            raise SettingError(f"a sequence of {longest} tokens; this base handles at most {limit}: shorten the text")


def wide_layers(config: DecoderConfig) -> int:
    """How many layers, from the first, are trained in fp32 although the others are not.

    All later layers magnify what these round: on SmolLM2 the first two (and of these attention's scores in the second)
    were behind most of the error of gradients in bf16. Where torch drives AMX units they are not: its fp32
    products take some eight times as long there.
    """
    return 0 if torch_has_amx() else min(2, config.num_layers // 8)


def build_decoder(
    config: DecoderConfig, weights: WeightFile, dtype: torch.dtype, on_layer: Callable[[int, int], None] | None = None
) -> Decoder:
    """A decoder out of a weight file, in compute type `dtype`; projections that share their input are joined.

    The first few layers of a deep base are trained in fp32 (see `wide_layers`).

    `on_layer(done, of)` reports progress. Raises WeightsError for a tensor that is missing or of another shape.
    """

    def norm(name: str, size: int = config.hidden_size) -> Tensor:
        return weights.tensor(f"{name}.weight", (size,)).float() + config.norm_offset

    def bias(layer: int, member: Member) -> Tensor:
        return weights.tensor(ModuleName(layer, member.name).bias, (member.stop - member.start,))

    def matrix(name: str, shape: tuple[int, int]) -> FrozenWeight:
        return FrozenWeight(weights.matrix(name, shape), dtype=dtype)

    def joined(layer: int, group: Group) -> FrozenWeight:
        members = (
            weights.matrix(ModuleName(layer, m.name).weight, (m.stop - m.start, group.in_size)) for m in group.members
        )
        return FrozenWeight(*members, dtype=dtype)

    layers = []
    for i in range(config.num_layers):
        at = f"model.layers.{i}"
        by_name = {group.name: joined(i, group) for group in groups(config)}
        biases = [bias(i, member) for member in groups(config)[0].members] if config.attention_bias else None
        mlp_norm = "pre_feedforward" if config.sandwich_norms else "post_attention"
        layers.append(
            Layer(
                input_norm=norm(f"{at}.input_layernorm"),
                qkv_bias=torch.cat(biases).to(dtype) if biases else None,
                q_norm=norm(f"{at}.self_attn.q_norm", config.head_dim) * config.query_scale if config.qk_norm else None,
                k_norm=norm(f"{at}.self_attn.k_norm", config.head_dim) if config.qk_norm else None,
                o_norm=norm(f"{at}.post_attention_layernorm") if config.sandwich_norms else None,
                mlp_norm=norm(f"{at}.{mlp_norm}_layernorm"),
                down_norm=norm(f"{at}.post_feedforward_layernorm") if config.sandwich_norms else None,
                dtype=torch.float32 if i < wide_layers(config) else dtype,
                **by_name,
            )
        )
        if on_layer:
            on_layer(i + 1, config.num_layers)
    vocab = (config.vocab_size, config.hidden_size)
    embedding = matrix("model.embed_tokens.weight", vocab)
    head = embedding if config.tie_word_embeddings else matrix("lm_head.weight", vocab)
    return Decoder(config, embedding, layers, norm("model.norm"), head)
