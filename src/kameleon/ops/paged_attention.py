"""Attention of new tokens over earlier ones whose keys and values lie in pages (Kwon et al., 2023, arXiv:2309.06180).

A sequence's page table says which page holds its tokens 0–15, 16–31, … Sequences that begin alike may share pages.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kameleon.ops.segments import Segments

PAGE_TOKENS = 16
"""Tokens of a page: as many as the widest vector has lanes, few enough that a half-filled last page wastes little."""


def page_step(dtype: torch.dtype) -> int:
    """How many numbers products take at once along k: pages hold neighbours in pairs for bf16."""
    return 2 if dtype == torch.bfloat16 else 1


def new_pages(pages: int, layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Keys [layers, pages, kv_heads, head_dim / step, PAGE_TOKENS, step], values [layers, pages, kv_heads,
    PAGE_TOKENS / step, head_dim, step], zero: lanes are tokens for one product, dimensions for the other."""
    step = page_step(dtype)
    keys = torch.zeros(layers, pages, kv_heads, head_dim // step, PAGE_TOKENS, step, dtype=dtype)
    values = torch.zeros(layers, pages, kv_heads, PAGE_TOKENS // step, head_dim, step, dtype=dtype)
    return keys, values


@dataclass(frozen=True, eq=False)
class LayerPages:
    """One layer's pages (see `new_pages`), and for each segment of a pass the pages of its sequence.

    `tables` [segments, widest] int64; what a row has beyond its sequence's pages is not looked at.
    """

    keys: Tensor
    values: Tensor
    tables: Tensor


def attention_paged(
    qkv: Tensor, heads: int, kv_heads: int, segments: Segments, pages: LayerPages, window: int | None = None
) -> Tensor:
    """Store the new keys and values, then softmax(q kᵀ / sqrt(head_dim)) v over all keys of each segment's sequence.

    `qkv` [tokens, (heads + 2 · kv_heads) · head_dim]; segment i goes on after `segments.offsets[i]` tokens that lie in
    the pages of its table, which must have room for its new ones. Each token sees itself and those before it, the last
    `window` of them if that is given. Returns [tokens, heads · head_dim]. No gradients.
    """
    return _reference(qkv, heads, kv_heads, segments, pages, window)


def _reference(
    qkv: Tensor, heads: int, kv_heads: int, segments: Segments, pages: LayerPages, window: int | None
) -> Tensor:
    q, k, v = qkv.unflatten(1, (heads + 2 * kv_heads, -1)).split([heads, kv_heads, kv_heads], dim=1)
    step, out = page_step(qkv.dtype), torch.empty_like(q)
    for i, (start, length, offset) in enumerate(zip(segments.starts, segments.lengths, segments.offsets, strict=True)):
        new, positions = slice(start, start + length), torch.arange(offset, offset + length)
        page, place = pages.tables[i][positions // PAGE_TOKENS], positions % PAGE_TOKENS
        pages.keys[page, :, :, place] = k[new].unflatten(2, (-1, step))
        pages.values[page, :, place // step, :, place % step] = v[new]
        held = pages.tables[i][: -(-(offset + length) // PAGE_TOKENS)]
        seen_k = pages.keys[held].permute(0, 3, 1, 2, 4).flatten(3).flatten(0, 1).float()  # [keys, kv_heads, head_dim]
        seen_v = pages.values[held].permute(0, 2, 4, 1, 3).flatten(0, 2).float()
        places = torch.arange(len(seen_k))
        sees = places <= positions[:, None]
        if window:
            sees &= places > positions[:, None] - window
        group = heads // kv_heads
        scores = torch.einsum("qhd,khd->hqk", q[new].float(), seen_k.repeat_interleave(group, 1)) * q.shape[2] ** -0.5
        weights = scores.masked_fill(~sees, float("-inf")).softmax(-1)
        out[new] = torch.einsum("hqk,khd->qhd", weights, seen_v.repeat_interleave(group, 1)).to(q.dtype)
    return out.flatten(1)
