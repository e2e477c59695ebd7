"""Causal attention inside each segment of a packed batch, grouped-query."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from kameleon.ops import native, reference
from kameleon.ops.native import abi
from kameleon.ops.segments import Segments


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int, kv_heads: int, segments: Segments, window: int) -> Tensor:
        head_dim = qkv.shape[1] // (heads + 2 * kv_heads)
        out = qkv.new_empty(len(qkv), heads * head_dim)
        log_sum_exp = torch.empty(heads, len(qkv))
        ctx.sizes, ctx.segments, ctx.window = (heads, kv_heads, head_dim), segments, window
        _run("attention", ctx.sizes, segments, window, qkv, out, log_sum_exp)
        ctx.save_for_backward(qkv, out, log_sum_exp)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        qkv, out, log_sum_exp = ctx.saved_tensors
        d_qkv = torch.empty_like(qkv)
        out_and_grad = out, log_sum_exp, grads[0].contiguous()
        _run("attention_back", ctx.sizes, ctx.segments, ctx.window, qkv, *out_and_grad, d_qkv)
        return d_qkv, None, None, None, None


def _run(
    kernel: str, sizes: tuple[int, int, int], segments: Segments, window: int, qkv: Tensor, *others: Tensor
) -> None:
    """Call a kernel that takes q, k and v one after another; in backward their gradients, last, likewise."""
    heads, kv_heads, head_dim = sizes
    count = len(segments.lengths)
    lengths, parents = (ctypes.c_int64 * count)(*segments.lengths), (ctypes.c_int64 * count)(*segments.parents)
    tree = count, ctypes.addressof(lengths), ctypes.addressof(parents)
    shape = abi.Attention(*tree, heads, kv_heads, head_dim, qkv.stride(0), window)
    *between, last = others

    def parts(x: Tensor) -> list[Tensor]:
        return list(x.split([heads * head_dim, kv_heads * head_dim, kv_heads * head_dim], dim=1))

    tail = parts(last) if kernel == "attention_back" else [last]
    native.call(kernel, native.type_code(qkv), ctypes.byref(shape), *parts(qkv), *between, *tail)


def attention(qkv: Tensor, heads: int, kv_heads: int, segments: Segments, window: int | None = None) -> Tensor:
    """softmax(q kᵀ / sqrt(head_dim)) v, causal, each segment seeing its parent (if any) and itself.

    `qkv` [tokens, (heads + 2 · kv_heads) · head_dim]. Returns [tokens, heads · head_dim]. Each token sees the
    last `window` tokens of its sequence, itself and its parent's included (Beltagy et al., 2020, arXiv:2004.05150); all
    with None. Time grows with the segments' lengths times what a token sees, memory with the lengths: only the
    log-sum-exp of each row is kept for backward.
    """
    if native.can_run(qkv):
        # No sequence is longer than the row.
        qkv, window = qkv.contiguous(), window or max(1, len(qkv))
        return _Attention.apply(qkv, heads, kv_heads, segments, window)  # type: ignore[no-any-return]
    return reference.attention(*split_heads(qkv, heads, kv_heads), segments, window).flatten(1)


def split_heads(qkv: Tensor, heads: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """q [tokens, heads, head_dim], k and v [tokens, kv_heads, head_dim], as views."""
    q, k, v = qkv.unflatten(1, (heads + 2 * kv_heads, -1)).split([heads, kv_heads, kv_heads], dim=1)
    return q, k, v
