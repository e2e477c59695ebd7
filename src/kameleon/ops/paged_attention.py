"""Attention of new tokens over earlier ones whose keys and values lie in pages (Kwon et al., 2023, arXiv:2309.06180).

A sequence's page table says which page holds its tokens 0–15, 16–31, … Sequences that begin alike may share pages.
"""

from __future__ import annotations

import ctypes
from ctypes import c_int64
from dataclasses import dataclass

import torch
from torch import Tensor

from kameleon.ops import native
from kameleon.ops.native import abi
from kameleon.ops.native.abi import PAGE_TOKENS
from kameleon.ops.segments import Segments

_BEYOND = 64  # numbers
_NO_WINDOW = 1 << 40


def page_step(dtype: torch.dtype) -> int:
    """How many numbers products take at once along k: pages hold neighbours in pairs for bf16."""
    return 2 if dtype == torch.bfloat16 else 1


def new_pages(pages: int, layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Keys [layers, pages, kv_heads, head_dim / step, PAGE_TOKENS, step], values [layers, pages, kv_heads,
    PAGE_TOKENS / step, head_dim, step], zero: lanes are tokens for one product, dimensions for the other."""
    step, size = page_step(dtype), layers * pages * kv_heads * head_dim * PAGE_TOKENS
    # A vector may read a little beyond the last head.
    keys, values = (torch.zeros(size + _BEYOND, dtype=dtype)[:size] for _ in range(2))
    return (
        keys.view(layers, pages, kv_heads, head_dim // step, PAGE_TOKENS, step),
        values.view(layers, pages, kv_heads, PAGE_TOKENS // step, head_dim, step),
    )


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
    if not native.can_run(qkv):
        return reference(qkv, heads, kv_heads, segments, pages, window)
    head_dim = qkv.shape[1] // (heads + 2 * kv_heads)
    raw, held = fill_pages(segments, pages.tables, heads, kv_heads, head_dim, window, pages.keys, pages.values)
    out = qkv.new_empty(len(qkv), heads * head_dim)
    native.call("attention_paged", native.type_code(qkv), ctypes.byref(raw), qkv.contiguous(), out)
    del held
    return out


def fill_pages(
    segments: Segments,
    tables: Tensor,
    heads: int,
    kv_heads: int,
    head_dim: int,
    window: int | None,
    keys: Tensor,
    values: Tensor,
) -> tuple[abi.Pages, object]:
    """What the kernel reads; hold the second value until it has run."""
    count = len(segments.lengths)
    lengths, offsets = (c_int64 * count)(*segments.lengths), (c_int64 * count)(*segments.offsets)
    assert tables.is_contiguous() and tables.dtype == torch.int64 and len(tables) == count
    per_segment = ctypes.addressof(lengths), ctypes.addressof(offsets), native.address(tables), tables.shape[1]
    pages = native.address(keys), native.address(values)
    return abi.Pages(count, *per_segment, heads, kv_heads, head_dim, window or _NO_WINDOW, *pages), (lengths, offsets)


def reference(
    qkv: Tensor, heads: int, kv_heads: int, segments: Segments, pages: LayerPages, window: int | None
) -> Tensor:
    """`attention_paged`, plain and slow."""
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
        # What another sequence left behind the last token may be NaN, which no weight of zero takes away.
        seen_k, seen_v = seen_k[: offset + length], seen_v[: offset + length]
        places = torch.arange(len(seen_k))
        sees = places <= positions[:, None]
        if window:
            sees &= places > positions[:, None] - window
        group = heads // kv_heads
        scores = torch.einsum("qhd,khd->hqk", q[new].float(), seen_k.repeat_interleave(group, 1)) * q.shape[2] ** -0.5
        weights = scores.masked_fill(~sees, float("-inf")).softmax(-1)
        out[new] = torch.einsum("hqk,khd->qhd", weights, seen_v.repeat_interleave(group, 1)).to(q.dtype)
    return out.flatten(1)
