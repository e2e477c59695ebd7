"""Causal attention inside each segment of a packed batch, grouped-query, in blocks (no tokens × tokens matrix).

Segments of similar length are laid out as one padded batch for PyTorch's blockwise kernel. Padding stands on the
right, so the causal order alone keeps real tokens from seeing it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kameleon.ops.segments import NO_PARENT, Segments

# A group may hold segments up to this much longer than its shortest one, plus a few tokens: the padding it accepts.
_GROUP_GROWTH = 1.25
_GROUP_SLACK_TOKENS = 8


@dataclass(frozen=True, eq=False)
class _Group:
    """Segments of similar length and one parent, to be padded to `width` tokens."""

    gather: Tensor  # [segments · width] row of the packed batch; padding repeats a segment's first row
    parent: Tensor | None  # [parent tokens] rows of the shared prefix
    width: int


@dataclass(frozen=True, eq=False)
class _Layout:
    groups: tuple[_Group, ...]
    scatter: Tensor  # [tokens] where each packed token stands among all padded rows of all groups


@lru_cache(maxsize=64)
def _layout(lengths: tuple[int, ...], parents: tuple[int, ...]) -> _Layout:
    starts = Segments(lengths).starts
    order = sorted((i for i, n in enumerate(lengths) if n), key=lambda i: (parents[i], lengths[i]))
    groups: list[list[int]] = []
    for i in order:
        first = groups[-1][0] if groups else None
        fits = first is not None and lengths[i] <= lengths[first] * _GROUP_GROWTH + _GROUP_SLACK_TOKENS
        if first is not None and fits and parents[first] == parents[i]:
            groups[-1].append(i)
        else:
            groups.append([i])
    scatter = torch.empty(sum(lengths), dtype=torch.int64)
    laid, padded_row = [], 0
    for members in groups:
        width = max(lengths[i] for i in members)
        rows = torch.tensor([starts[i] for i in members])[:, None].repeat(1, width)
        for place, i in enumerate(members):
            rows[place, : lengths[i]] += torch.arange(lengths[i])
            scatter[starts[i] : starts[i] + lengths[i]] = padded_row + place * width + torch.arange(lengths[i])
        padded_row += len(members) * width
        p = parents[members[0]]
        parent = None if p == NO_PARENT else torch.arange(starts[p], starts[p] + lengths[p])
        laid.append(_Group(rows.flatten(), parent, width))
    return _Layout(tuple(laid), scatter)


class _Gather(torch.autograd.Function):
    """x laid out as each group's padded rows. Every token stands in one group once, so the gradient is a gather too
    (autograd would use index_add, many times slower on a CPU); padding, never attended to, has none.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: _Layout) -> tuple[Tensor, ...]:
        ctx.layout = layout
        return tuple(x.index_select(0, group.gather) for group in layout.groups)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return torch.cat(grads).index_select(0, ctx.layout.scatter), None


class _Scatter(torch.autograd.Function):
    """The packed rows out of all padded groups; padding gets a zero gradient."""

    @staticmethod
    def forward(ctx: Any, layout: _Layout, *padded: Tensor) -> Tensor:
        ctx.layout, ctx.sizes = layout, [p.shape[0] for p in padded]
        return torch.cat(padded).index_select(0, layout.scatter)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        dy = grads[0]
        padded = dy.new_zeros(sum(ctx.sizes), *dy.shape[1:]).index_copy_(0, ctx.layout.scatter, dy)
        return None, *padded.split(ctx.sizes)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """[batch, tokens, heads, head_dim] in and out; causal when there is no mask."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    out = scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=q.shape[1] != k.shape[1])
    return out.transpose(1, 2)


def attention(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    """softmax(q kᵀ / sqrt(head_dim)) v, causal, each segment seeing its parent (if any) and itself.

    `q` [tokens, heads, head_dim]; `k`, `v` [tokens, kv_heads, head_dim]. Returns [tokens, heads, head_dim].
    """
    layout = _layout(segments.lengths, segments.parents)
    out = []
    gathered = (_Gather.apply(t, layout) for t in (q, k, v))
    for group, *qkv in zip(layout.groups, *gathered, strict=True):
        gq, gk, gv = (t.unflatten(0, (-1, group.width)) for t in qkv)
        mask = None
        if group.parent is not None:
            shared = group.parent
            size = gq.shape[0]
            gk, gv = (torch.cat([t[shared].expand(size, -1, -1, -1), own], 1) for t, own in ((k, gk), (v, gv)))
            own_mask = torch.ones(group.width, group.width, dtype=torch.bool).tril_()
            mask = torch.cat([own_mask.new_ones(group.width, len(shared)), own_mask], 1)
        out.append(_attend(gq, gk, gv, mask).flatten(0, 1))
    return _Scatter.apply(layout, *out)  # type: ignore[no-any-return]


class LayerCache(Protocol):
    """Keys and values of earlier tokens: `extend` stores new ones and returns all, padded to the longest sequence."""

    def extend(self, k: Tensor, v: Tensor, segments: Segments) -> tuple[Tensor, Tensor]: ...


def attention_cached(q: Tensor, k: Tensor, v: Tensor, segments: Segments, cache: LayerCache) -> Tensor:
    """Like `attention`, segment i going on after the `segments.offsets[i]` tokens that lie in `cache`. No gradients."""
    keys, values = cache.extend(k, v, segments)  # [segments, longest, kv_heads, head_dim]
    layout = _cached_layout(segments.lengths)
    padded = q.index_select(0, layout.gather).unflatten(0, (len(segments.lengths), layout.width))
    last_seen = torch.tensor(segments.offsets)[:, None] + torch.arange(layout.width)  # [segments, width]
    mask = torch.arange(keys.shape[1]) <= last_seen[:, :, None]
    out = _attend(padded, keys, values, mask[:, None])
    return out.flatten(0, 1).index_select(0, layout.scatter)


@dataclass(frozen=True, eq=False)
class _CachedLayout:
    gather: Tensor
    scatter: Tensor
    width: int


@lru_cache(maxsize=64)
def _cached_layout(lengths: Sequence[int]) -> _CachedLayout:
    width = max(lengths)
    starts = torch.tensor(Segments(tuple(lengths)).starts)
    column = torch.arange(width)
    real = column < torch.tensor(lengths)[:, None]
    rows = torch.where(real, starts[:, None] + column, 0)
    return _CachedLayout(rows.flatten(), real.flatten().nonzero().flatten(), width)
