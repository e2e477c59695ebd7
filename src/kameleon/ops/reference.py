"""Every operator slowly and plainly, with PyTorch's own gradients: what the kernels are tested against, and what runs
where there are none. Computed in fp32 and rounded once, as the kernels do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from kameleon.ops.cross_entropy import IGNORE
from kameleon.ops.lora_linear import SidePath
from kameleon.ops.segments import NO_ADAPTER, NO_PARENT, Segments


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """y = weight · x / sqrt(mean(x²) + eps)."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight.float()).to(x.dtype)


def rope(x: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
    """Rotate each pair (x[i], x[i + head_dim/2]) of the first `heads` heads; `x` [tokens, any heads · head_dim]."""
    size = 2 * cos.shape[1]
    turned, rest = x.unflatten(1, (-1, size)).split([heads, x.shape[1] // size - heads], dim=1)
    first, second = turned.float().chunk(2, dim=-1)
    c, s = cos[:, None], sin[:, None]
    rotated = torch.cat([first * c - second * s, second * c + first * s], dim=-1).to(x.dtype)
    return torch.cat([rotated, rest], dim=1).flatten(1)


def swiglu(gate_up: Tensor) -> Tensor:
    """y = silu(gate) · up."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    return (gate * torch.sigmoid(gate) * up).to(gate_up.dtype)


def lora_linear(x: Tensor, weight: Tensor, sides: Sequence[SidePath | None], segments: Segments) -> Tensor:
    """y = x Wᵀ + scaling · (x Aᵀ) Bᵀ, one segment and one projection at a time; `weight` [out, in] dense."""
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
                y = y + functional.pad(added, (branch.start, weight.shape[0] - branch.stop))
        rows.append(y)
    return torch.cat(rows)


def attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    """softmax(q kᵀ / sqrt(head_dim)) v with the whole score matrix, one segment at a time.

    `q` [tokens, heads, head_dim]; `k`, `v` [tokens, kv_heads, head_dim]. Returns [tokens, heads, head_dim].
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
        hidden = torch.ones(length, len(seen), dtype=torch.bool).triu_(1 + len(before))
        out.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -math.inf).softmax(-1), v[seen]))
    return torch.cat(out).to(dtype)


def linear_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Summed cross-entropy from full logits; `weight` [vocab, size] dense."""
    return functional.cross_entropy(hidden @ weight.T, labels, reduction="sum", ignore_index=IGNORE)
