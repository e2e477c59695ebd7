"""All layers of a decoder in one kernel call, for generation. Its reference is the decoder's own pass, layer by layer.

A step of generation is a few rows: calls from Python, operator by operator, would take as long as reading the weights.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import c_void_p
from dataclasses import dataclass

import torch
from torch import Tensor

from kameleon.ops import native
from kameleon.ops.native import abi
from kameleon.ops.native.abi import ACTIVATIONS, PROJECTIONS, Activation
from kameleon.ops.paged_attention import fill_pages
from kameleon.ops.products import Matrix
from kameleon.ops.segments import Segments
from kameleon.ops.side_table import SideTable
from kameleon.ops.stored_matrix import StoredMatrix


class Stacked:
    """Frozen matrices [rows, in], stacked along their rows, as the kernels take them; keeps their memory alive."""

    def __init__(self, matrices: Sequence[Matrix]) -> None:
        self._held = [m if isinstance(m, StoredMatrix) else StoredMatrix.view(m.contiguous()) for m in matrices]
        self._parts = (abi.Part * len(self._held))(*(abi.Part(m.stored, len(m.data)) for m in self._held))
        rows = sum(len(m.data) for m in self._held)
        self.struct = abi.Weight(ctypes.addressof(self._parts), len(self._held), self._held[0].columns, rows)

    def project(self, x: Tensor) -> Tensor:
        """x Wᵀ, [rows, out] fp32; a row does not depend on the others, to the bit."""
        y = torch.empty(len(x), self.struct.outputs)
        native.call("project", native.type_code(x), ctypes.byref(self.struct), x.contiguous(), len(x), y)
        return y


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """One layer: matrices as stored, norms fp32, biases in the compute type; None where a family has no such part."""

    input_norm: Tensor
    qkv: Stacked
    qkv_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    o: Stacked
    o_bias: Tensor | None
    o_norm: Tensor | None
    mlp_norm: Tensor
    gate_up: Stacked
    gate_up_bias: Tensor | None
    down: Stacked
    down_bias: Tensor | None
    down_norm: Tensor | None
    window: int | None
    rope: int
    """The number of its rotation among those of the pass."""


_NORMS = ("input_norm", "q_norm", "k_norm", "o_norm", "mlp_norm", "down_norm")


class LayerStack:
    """The frozen layers of a decoder, laid out once for the kernel."""

    def __init__(
        self,
        layers: Sequence[LayerWeights],
        *,
        heads: int,
        kv_heads: int,
        head_dim: int,
        activation: Activation,
        eps: float,
        no_window: int,
    ) -> None:
        self._held = tuple(layers)
        self._heads = heads, kv_heads, head_dim
        raw = (abi.Layer * len(layers))()
        for one, layer in zip(raw, layers, strict=True):
            for name in (*(f"{one}_bias" for one in PROJECTIONS), *_NORMS):
                tensor: Tensor | None = getattr(layer, name)
                assert tensor is None or tensor.is_contiguous()
                setattr(one, name, None if tensor is None else native.address(tensor))
            for name in PROJECTIONS:
                setattr(one, name, getattr(layer, name).struct)
            one.window, one.rope = layer.window or no_window, layer.rope
        self._layers = raw
        first = layers[0]
        sizes = first.o.struct.outputs, heads, kv_heads, head_dim, first.down.struct.inputs, ACTIVATIONS[activation]
        self._stack = abi.Stack(ctypes.addressof(raw), len(layers), *sizes, eps)

    def run(
        self,
        x: Tensor,
        segments: Segments,
        rotations: Sequence[tuple[Tensor, Tensor]],
        keys: Tensor,
        values: Tensor,
        tables: Tensor,
        sides: Mapping[int, SideTable],
    ) -> Tensor:
        """`x` [tokens, hidden] through all layers, in place; new keys and values go to the pages (see `new_pages`).

        `rotations` are pairs of cos and sin; `sides[slot]` holds the factors of the adapter in that slot.
        """
        runs = [(run.start, run.stop, table.address) for run in segments.spans if (table := sides.get(run.adapter))]
        raw_runs = (abi.SideRun * len(runs))(*runs)
        cos = (c_void_p * len(rotations))(*(native.address(c) for c, _ in rotations))
        sin = (c_void_p * len(rotations))(*(native.address(s) for _, s in rotations))
        pages, held = fill_pages(segments, tables, *self._heads, None, keys, values)
        addresses = ctypes.addressof(raw_runs), ctypes.addressof(cos), ctypes.addressof(sin)
        layer_bytes = keys.stride(0) * keys.element_size()
        raw = abi.Pass(len(x), len(runs), *addresses, pages, layer_bytes)
        native.call("layers", native.type_code(x), ctypes.byref(self._stack), ctypes.byref(raw), x)
        del held
        return x
