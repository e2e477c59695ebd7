"""Rotary position embedding (Su et al., 2021, arXiv:2104.09864), halves rotated against each other as in Llama."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kameleon.ops import native, reference


def rotation(positions: Tensor, inv_freq: Tensor, factor: float = 1.0) -> tuple[Tensor, Tensor]:
    """cos and sin of position · inv_freq, [tokens, head_dim / 2] fp32, times `factor` (YaRN's attention factor).

    `positions` [tokens] int64; `inv_freq` [head_dim / 2] fp32.
    """
    angle = positions.to(torch.float32)[:, None] * inv_freq
    return angle.cos().mul_(factor), angle.sin().mul_(factor)


def _turn(x: Tensor, cos: Tensor, sin: Tensor, heads: int, direction: float) -> Tensor:
    tokens, half = cos.shape
    native.call("rope", native.type_code(x), x, cos, sin, direction, tokens, x.shape[1], heads, half)
    return x


class _Rope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.heads = heads
        turned = _turn(x, cos, sin, heads, 1.0)
        if dtype != x.dtype:
            return turned.to(dtype)
        ctx.mark_dirty(x)
        return turned

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        grad = grads[0].clone(memory_format=torch.contiguous_format)
        return _turn(grad, cos, sin, ctx.heads, -1.0), None, None, None, None


def rope(x: Tensor, cos: Tensor, sin: Tensor, heads: int, dtype: torch.dtype | None = None) -> Tensor:
    """Rotate each pair (x[i], x[i + head_dim/2]) of the first `heads` heads by its position's angle, to `dtype`
    (x's own by default).

    `x` [tokens, any heads · head_dim] may be overwritten: go on with what is returned. `cos`, `sin` from
    `rotation`. The backward pass turns the other way.
    """
    if native.can_run(x):
        return _Rope.apply(x.contiguous(), cos, sin, heads, dtype or x.dtype)  # type: ignore[no-any-return]
    return reference.rope(x, cos, sin, heads, dtype)
