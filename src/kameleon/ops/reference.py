"""Every operator slowly and plainly, with PyTorch's own gradients: what the kernels are tested against, and what runs
where there are none. Computed in fp32 and rounded once, as the kernels do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import gguf
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kameleon.ops import nf4
from kameleon.ops.segments import IGNORE, NO_ADAPTER, NO_PARENT, Segments
from kameleon.ops.side_path import SidePath


def unpack(kind: str, rows: Tensor) -> Tensor:
    """Stored rows (uint8 [n, bytes of a row]) of a packed matrix as fp32 [n, columns]; but for NF4 by `gguf`."""
    if kind == "NF4":
        return nf4.unpack(rows)
    if not len(rows):  # which `gguf` cannot reshape
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
        return torch.empty(0, rows.shape[1] // size * block)
    with np.errstate(all="ignore"):  # a scale may be infinite or no number; the products say what they say
        return torch.from_numpy(gguf.dequantize(rows.contiguous().numpy(), gguf.GGMLQuantizationType[kind]))


def place_b(b: Tensor, cells: Tensor) -> None:
    """B [out, rank] into `cells` [out / columns, rank / step, columns, step], zero where there is no number."""
    groups, steps, columns, step = cells.shape
    padded = cells.new_zeros(groups * columns, steps * step)
    padded[: len(b), : b.shape[1]] = b
    cells.copy_(padded.view(groups, columns, steps, step).transpose(1, 2))


def rms_norm(x: Tensor, weight: Tensor, *, eps: float, dtype: torch.dtype | None = None) -> Tensor:
    """y = weight · x / sqrt(mean(x²) + eps) in `dtype`, x's own by default."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight).to(dtype or x.dtype)


def rope(x: Tensor, cos: Tensor, sin: Tensor, heads: int, dtype: torch.dtype | None = None) -> Tensor:
    """Rotate each pair (x[i], x[i + head_dim/2]) of the first `heads` heads; `x` [tokens, any heads · head_dim]."""
    size = 2 * cos.shape[1]
    turned, rest = x.unflatten(1, (-1, size)).split([heads, x.shape[1] // size - heads], dim=1)
    first, second = turned.float().chunk(2, dim=-1)
    c, s = cos[:, None], sin[:, None]
    rotated = torch.cat([first * c - second * s, second * c + first * s], dim=-1)
    return torch.cat([rotated, rest], dim=1).flatten(1).to(dtype or x.dtype)


def gated(gate_up: Tensor, activation: str) -> Tensor:
    """y = activation(gate) · up; `activation` is silu or gelu_tanh."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    active = functional.silu(gate) if activation == "silu" else functional.gelu(gate, approximate="tanh")
    return (active * up).to(gate_up.dtype)


def lora_linear(x: Tensor, weight: Tensor, sides: Sequence[SidePath | None], segments: Segments) -> Tensor:
    """y = gain · (x Wᵀ + scaling · (x Aᵀ) Bᵀ) + shift, one segment and one projection at a time; `weight` [out, in]."""
    rows = []
    for start, length, slot in zip(segments.starts, segments.lengths, segments.adapters, strict=True):
        part = x[start : start + length]
        y = part @ weight.T
        side = None if slot == NO_ADAPTER else sides[slot]
        if side is not None:
            column = 0
            for branch in side.branches:
                a = side.a[column : column + branch.b.shape[1]]
                column += branch.b.shape[1]
                added = branch.scaling * (part @ a.T) @ branch.b.T
                around = (branch.start, weight.shape[0] - branch.stop)
                y = y + functional.pad(added, around)
                if branch.magnitude is not None and branch.norm is not None:
                    y = y * functional.pad(branch.magnitude / branch.norm, around, value=1.0)
                if branch.shift is not None:
                    y = y + functional.pad(branch.shift, around)
        rows.append(y)
    return torch.cat(rows)


def attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments, window: int | None = None) -> Tensor:
    """softmax(q kᵀ / sqrt(head_dim)) v with the whole score matrix, one segment at a time.

    `q` [tokens, heads, head_dim]; `k`, `v` [tokens, kv_heads, head_dim]. Returns [tokens, heads, head_dim].
    Each token sees the last `window` tokens of its sequence, itself included; all with None.
    """
    groups, dtype = q.shape[1] // k.shape[1], q.dtype
    q, k, v = q.float(), k.float().repeat_interleave(groups, 1), v.float().repeat_interleave(groups, 1)
    out = []
    for start, length, parent in zip(segments.starts, segments.lengths, segments.parents, strict=True):
        own = torch.arange(start, start + length)
        before = own[:0]
        if parent != NO_PARENT:
            before = torch.arange(segments.starts[parent], segments.starts[parent] + segments.lengths[parent])
        seen = torch.cat([before, own])
        scores = torch.einsum("qhd,khd->hqk", q[own], k[seen]) / math.sqrt(q.shape[-1])
        ahead = torch.arange(len(seen)) - (len(before) + torch.arange(length))[:, None]  # how far behind or ahead
        hidden = (ahead > 0) | (ahead <= -(window or len(seen)))
        out.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -math.inf).softmax(-1), v[seen]))
    return torch.cat(out).to(dtype)


def linear_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each token from full logits, 0 where ignored; `weight` [vocab, size] dense."""
    return functional.cross_entropy(hidden @ weight.T, labels, reduction="none", ignore_index=IGNORE)
