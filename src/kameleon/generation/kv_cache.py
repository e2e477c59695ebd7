"""Keys and values of the tokens that each sequence already has."""

from __future__ import annotations

import torch
from torch import Tensor

from kameleon.model import DecoderConfig
from kameleon.ops import Segments


class LayerKV:
    """One layer's part of a `KVCache`."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values  # [sequences, capacity, kv_heads, head_dim]

    def extend(self, k: Tensor, v: Tensor, segments: Segments) -> tuple[Tensor, Tensor]:
        """Store the new tokens of every sequence; return all keys and values up to the longest sequence."""
        lengths = torch.tensor(segments.lengths)
        sequence = torch.arange(len(lengths)).repeat_interleave(lengths)
        self.keys[sequence, segments.positions] = k
        self.values[sequence, segments.positions] = v
        longest = max(o + n for o, n in zip(segments.offsets, segments.lengths, strict=True))
        return self.keys[:, :longest], self.values[:, :longest]


class KVCache:
    """Room for `capacity_tokens` tokens of each of `sequences` sequences, in the base's compute type."""

    def __init__(self, config: DecoderConfig, sequences: int, capacity_tokens: int, dtype: torch.dtype) -> None:
        shape = (sequences, capacity_tokens, config.num_kv_heads, config.head_dim)
        # Zeros, not empty memory: masked rows still enter a product, where NaN times zero would be NaN.
        self._layers = [
            LayerKV(torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)) for _ in range(config.num_layers)
        ]

    def layer(self, index: int) -> LayerKV:
        return self._layers[index]

    def keep(self, sequences: list[int]) -> None:
        """Drop all sequences but these, which take the numbers 0, 1, … in the given order."""
        rows = torch.tensor(sequences)
        self._layers = [LayerKV(one.keys[rows], one.values[rows]) for one in self._layers]
