"""All layers of a decoder in one kernel call, for generation. Its slow twin is the decoder's own pass, layer by layer.

A step of generation is a few rows: calls from Python, operator by operator, would take as long as reading the weights.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import c_float, c_int64, c_void_p
from dataclasses import dataclass

import torch
from torch import Tensor

from kameleon.ops import native
from kameleon.ops.gated import CODES, Activation
from kameleon.ops.packed import Packed, Stored
from kameleon.ops.paged_attention import PagesStruct, fill_pages
from kameleon.ops.products import Matrix
from kameleon.ops.segments import Segments
from kameleon.ops.side_table import SideTable


class _Part(ctypes.Structure):
    """`Part` of native/api.h."""

    _fields_ = [("stored", Stored), ("rows", c_int64)]


class _Weight(ctypes.Structure):
    """`Weight` of native/api.h."""

    _fields_ = [("parts", c_void_p), ("count", c_int64), ("inputs", c_int64), ("outputs", c_int64)]


class Stacked:
    """Frozen matrices [rows, in], stacked along their rows, as the kernels take them; keeps their memory alive."""

    def __init__(self, matrices: Sequence[Matrix]) -> None:
        self._held = [m if isinstance(m, Packed) else Packed.view(m.contiguous()) for m in matrices]
        self._parts = (_Part * len(self._held))(*(_Part(m.stored, len(m.data)) for m in self._held))
        rows = sum(len(m.data) for m in self._held)
        self.struct = _Weight(ctypes.addressof(self._parts), len(self._held), self._held[0].columns, rows)

    def project(self, x: Tensor) -> Tensor:
        """x Wᵀ, [rows, out] fp32; a row does not depend on the others, to the bit."""
        y = torch.empty(len(x), self.struct.outputs)
        native.call("project", native.type_code(x), ctypes.byref(self.struct), x.contiguous(), len(x), y)
        return y


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """One layer: matrices as stored, norms fp32, bias in the compute type. What a family has not is None."""

    input_norm: Tensor
    qkv: Stacked
    qkv_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    o: Stacked
    o_norm: Tensor | None
    mlp_norm: Tensor
    gate_up: Stacked
    down: Stacked
    down_norm: Tensor | None
    window: int | None
    rope: int
    """Which of the pass's rotations turns it."""


class _Layer(ctypes.Structure):
    """`Layer` of native/api.h."""

    _fields_ = [
        ("input_norm", c_void_p),
        ("qkv", _Weight),
        ("qkv_bias", c_void_p),
        ("q_norm", c_void_p),
        ("k_norm", c_void_p),
        ("o", _Weight),
        ("o_norm", c_void_p),
        ("mlp_norm", c_void_p),
        ("gate_up", _Weight),
        ("down", _Weight),
        ("down_norm", c_void_p),
        ("window", c_int64),
        ("rope", c_int64),
    ]


class _Stack(ctypes.Structure):
    """`Stack` of native/api.h."""

    _fields_ = [
        ("layers", c_void_p),
        *((name, c_int64) for name in ("count", "hidden", "heads", "kv_heads", "head_dim", "intermediate")),
        ("activation", c_int64),
        ("eps", c_float),
    ]


class _SideRun(ctypes.Structure):
    """`SideRun` of native/api.h."""

    _fields_ = [("start", c_int64), ("stop", c_int64), ("sides", c_void_p)]


class _Pass(ctypes.Structure):
    """`Pass` of native/api.h."""

    _fields_ = [
        ("tokens", c_int64),
        ("runs", c_int64),
        ("run", c_void_p),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("pages", PagesStruct),
        ("layer_bytes", c_int64),
    ]


class LayerStack:
    """The frozen layers of a decoder, laid out once for the kernel."""

    def __init__(
        self,
        layers: Sequence[LayerWeights],
        heads: int,
        kv_heads: int,
        head_dim: int,
        activation: Activation,
        eps: float,
        no_window: int,
    ) -> None:
        self._held = tuple(layers)
        self._heads = heads, kv_heads, head_dim
        raw = (_Layer * len(layers))()
        for one, layer in zip(raw, layers, strict=True):
            for name in ("input_norm", "qkv_bias", "q_norm", "k_norm", "o_norm", "mlp_norm", "down_norm"):
                tensor: Tensor | None = getattr(layer, name)
                assert tensor is None or tensor.is_contiguous()
                setattr(one, name, None if tensor is None else tensor.data_ptr())
            for name in ("qkv", "o", "gate_up", "down"):
                setattr(one, name, getattr(layer, name).struct)
            one.window, one.rope = layer.window or no_window, layer.rope
        self._layers = raw
        first = layers[0]
        sizes = first.o.struct.outputs, heads, kv_heads, head_dim, first.down.struct.inputs, CODES[activation]
        self._stack = _Stack(ctypes.addressof(raw), len(layers), *sizes, eps)

    def run(
        self,
        x: Tensor,
        segments: Segments,
        turns: Sequence[tuple[Tensor, Tensor]],
        keys: Tensor,
        values: Tensor,
        tables: Tensor,
        sides: Mapping[int, SideTable],
    ) -> Tensor:
        """`x` [tokens, hidden] through all layers, in place; new keys and values go to the pages (see `new_pages`).

        `turns` are the rotations' cos and sin; `sides[slot]` the factors of the adapter in a slot.
        """
        runs = [(run.start, run.stop, table.address) for run in segments.runs if (table := sides.get(run.adapter))]
        raw_runs = (_SideRun * len(runs))(*runs)
        cos = (c_void_p * len(turns))(*(c.data_ptr() for c, _ in turns))
        sin = (c_void_p * len(turns))(*(s.data_ptr() for _, s in turns))
        pages, held = fill_pages(segments, tables, *self._heads, None, keys, values)
        addresses = ctypes.addressof(raw_runs), ctypes.addressof(cos), ctypes.addressof(sin)
        layer_bytes = keys.stride(0) * keys.element_size()
        raw = _Pass(len(x), len(runs), *addresses, pages, layer_bytes)
        native.call("layers", native.type_code(x), ctypes.byref(self._stack), ctypes.byref(raw), x)
        del held
        return x
