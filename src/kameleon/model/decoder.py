"""The decoder on packed segments: one forward pass for training, evaluation and generation.

It knows frozen weights and side paths, but neither adapters by name nor files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from kameleon.errors import SettingError
from kameleon.model.blocks import Attention, Mlp
from kameleon.model.config import DecoderConfig
from kameleon.model.ends import AdaptedEnd, project_wide, runs_as_one
from kameleon.model.layer_weights import LayerReader, read_norm
from kameleon.model.layout import groups
from kameleon.model.projections import LayerPass
from kameleon.model.rope import attention_factor, inv_freq
from kameleon.ops import (
    NO_ADAPTER,
    LayerPages,
    LayerStack,
    LayerWeights,
    Segments,
    SidePath,
    SideTable,
    recompute,
    release_freed_memory,
    rms_norm,
    rotation,
    torch_has_amx,
)
from kameleon.weights import EMBEDDING, HEAD, FrozenWeight, WeightFile
from kameleon.weights.names import NORM


class SidePaths(Protocol):
    """The resident adapters, as the decoder sees them."""

    def sides(self, layer: int, group: str) -> Sequence[SidePath | None]:
        """The factors in each slot for one group of projections; None where an adapter does not touch it."""
        ...

    def end(self, slot: int, name: str) -> AdaptedEnd | None:
        """The embedding or head of the adapter in a slot; None if it uses the base's."""
        ...


@runtime_checkable
class SideTables(Protocol):
    """The same adapters for generation's kernels."""

    def table(self, slot: int) -> SideTable:
        """All factors of the adapter in a slot."""
        ...


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
    """One layer: attention, then the MLP."""

    attention: Attention
    mlp: Mlp
    dtype: torch.dtype
    """The type of its products in training and evaluation; generation uses the base's compute type everywhere."""

    def forward(self, x: Tensor, at: LayerPass, *, skip_output: bool = False) -> Tensor:
        """`x` [tokens, hidden_size] through the layer; with `skip_output` the result is left uninitialised."""
        x = self.attention.forward(x, at)
        return self.mlp.forward(x, at, skip_output=skip_output)

    def weight(self, group: str) -> FrozenWeight:
        """The joined weight of a group."""
        return (self.attention.projections | self.mlp.projections)[group].weight

    def with_weights(self, change: Callable[[FrozenWeight], FrozenWeight]) -> Layer:
        """The same layer with other weights."""
        return replace(self, attention=self.attention.with_weights(change), mlp=self.mlp.with_weights(change))


def _no_sides(group: str) -> tuple[SidePath | None, ...]:
    return ()


class Decoder:
    """Frozen layers and the pass through them; it holds no state between calls."""

    def __init__(
        self,
        config: DecoderConfig,
        *,
        embedding: FrozenWeight,
        layers: Sequence[Layer],
        norm: Tensor,
        head: FrozenWeight,
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
        *,
        cache: Cache | None = None,
        checkpoint_layers: int = 0,
    ) -> Tensor:
        """Final normed hidden states [tokens, hidden_size] of a packed row.

        `tokens` [tokens] int64. `adapters` may be None when every segment is the plain base. With `cache`, segment i
        goes on where `segments.offsets[i]` says, and its keys and values are added to the cache.
        Raises SettingError for a sequence longer than the base was made for.
        """
        entering = self.embed(tokens, segments, adapters)
        x = self.run_layers(entering, segments, adapters, cache=cache, checkpoint_layers=checkpoint_layers)
        return self.finish(x)

    def embed(self, tokens: Tensor, segments: Segments, adapters: SidePaths | None = None) -> Tensor:
        """The embeddings of the tokens, [tokens, hidden_size]: the input of the first layer."""
        x, scale = self.embedding.rows(tokens), self.config.embedding_scale
        if adapters is not None:
            for run in segments.spans:
                if (end := adapters.end(run.adapter, EMBEDDING)) is not None:
                    x[run.start : run.stop] = end.rows(tokens[run.start : run.stop])
        # Rounded to x's type before the product, as Gemma was trained.
        return x if scale == 1.0 else x * torch.tensor(scale, dtype=x.dtype)

    def run_layers(
        self,
        x: Tensor,
        segments: Segments,
        adapters: SidePaths | None = None,
        *,
        cache: Cache | None = None,
        layers: range | None = None,
        checkpoint_layers: int = 0,
    ) -> Tensor:
        """`x` [tokens, hidden_size] through `layers` (all of them by default).

        Layers below the lowest adapted one give the same for every adapter, so one pass through them serves several.
        Activation checkpointing: the first `checkpoint_layers` trained layers keep only their input and are recomputed
        in backward, after the later layers have freed what they stored.
        Without `cache` it returns fp32: the sum of the layers' results is not rounded between them.
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
        saves_memory = checkpoint_layers > 0
        for index in layers if layers is not None else range(len(self.layers)):
            if saves_memory:
                release_freed_memory(x)
            layer, angles = self.layers[index], rotations[self.config.layer_rope(index)]
            at = self._pass(index, segments, angles, adapters, cache, layer.dtype if cache is None else x.dtype)
            trained = self._trained(index, segments, adapters) if checkpoint_layers else []
            if trained or (checkpoint_layers and x.requires_grad):
                checkpoint_layers -= 1
                x = recompute(partial(layer.forward, at=at), x, trained)
            else:
                x = layer.forward(x, at)
        return x

    def finish(self, x: Tensor) -> Tensor:
        """The last norm, [tokens, hidden_size]: the input of the head."""
        return rms_norm(x, self.norm, eps=self.config.rms_norm_eps, dtype=self.head.dtype)

    def logits(self, hidden: Tensor, slots: Sequence[int] = (), adapters: SidePaths | None = None) -> Tensor:
        """hidden · headᵀ in fp32, [rows, vocab_size].

        `slots` has the adapter slot of each row; without it all rows use the base's own head.
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
                **layer.attention.in_stack(), **layer.mlp.in_stack(), rope=ropes.index(config.layer_rope(index))
            )
            for index, layer in enumerate(self.layers)
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

    def _pass(
        self,
        index: int,
        segments: Segments,
        rotation: tuple[Tensor, Tensor],
        adapters: SidePaths | None,
        cache: Cache | None,
        dtype: torch.dtype,
    ) -> LayerPass:
        sides = partial(adapters.sides, index) if adapters is not None else _no_sides
        return LayerPass(segments, rotation, dtype, sides, None if cache is None else cache.layer(index))

    def _trained(self, index: int, segments: Segments, adapters: SidePaths | None) -> list[Tensor]:
        """The tensors that the segments' adapters train in a layer."""
        if adapters is None:
            return []
        slots = {run.adapter for run in segments.spans}
        paths = [adapters.sides(index, group.name) for group in groups(self.config)]
        sides = (side[slot] for side in paths for slot in slots)
        return [tensor for side in sides if side is not None for tensor in side.trained]

    def _head_of(self, slot: int, adapters: SidePaths) -> FrozenWeight | AdaptedEnd:
        """The head of the adapter in `slot`."""
        end = None if slot == NO_ADAPTER else adapters.end(slot, HEAD)
        return self.head if end is None else end

    def _check(self, x: Tensor, segments: Segments) -> None:
        assert len(x) == segments.tokens, f"{len(x)} tokens for segments of {segments.tokens}"
        limit = self.config.max_sequence_tokens
        longest = max((o + n for o, n in zip(segments.offsets, segments.lengths, strict=True)), default=0)
        if longest > limit:
            raise SettingError(f"a sequence of {longest} tokens; this base handles at most {limit}: shorten the text")


def wide_layers(config: DecoderConfig) -> int:
    """The number of first layers that are trained in fp32 although the others are trained in bf16.

    Later layers magnify the rounding errors of the first ones: on SmolLM2 the first two caused most of the error of
    gradients in bf16. It is 0 where torch uses AMX units, because its fp32 products take about eight times as long.
    """
    return 0 if torch_has_amx() else min(2, config.num_layers // 8)


def build_decoder(
    config: DecoderConfig,
    weights: WeightFile,
    *,
    dtype: torch.dtype,
    on_layer: Callable[[int, int], None] | None = None,
) -> Decoder:
    """A decoder out of a weight file, in compute type `dtype`; projections that share their input are joined.

    The first layers of a deep base are trained in fp32 (see `wide_layers`). `on_layer(done, of)` reports progress.
    Raises WeightsError for a tensor that is missing or of another shape.
    """
    layers = []
    for index in range(config.num_layers):
        reader = LayerReader(config, weights, index, dtype)
        wide = index < wide_layers(config)
        layers.append(Layer(Attention.read(reader), Mlp.read(reader), torch.float32 if wide else dtype))
        if on_layer:
            on_layer(index + 1, config.num_layers)
    vocab = (config.vocab_size, config.hidden_size)
    embedding = FrozenWeight(weights.matrix(f"{EMBEDDING}.weight", vocab), dtype=dtype)
    tied = config.tie_word_embeddings
    head = embedding if tied else FrozenWeight(weights.matrix(f"{HEAD}.weight", vocab), dtype=dtype)
    norm = read_norm(weights, config, name=NORM, size=config.hidden_size)
    return Decoder(config, embedding=embedding, layers=layers, norm=norm, head=head)
