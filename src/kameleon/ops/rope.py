"""Rotary position embedding (Su et al., 2021, arXiv:2104.09864), halves rotated against each other as in Llama."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rotation(positions: Tensor, inv_freq: Tensor, factor: float = 1.0) -> tuple[Tensor, Tensor]:
    """cos and sin of position · inv_freq, [tokens, 1, head_dim / 2] fp32, times `factor` (YaRN's attention factor).

    `positions` [tokens] int64; `inv_freq` [head_dim / 2] fp32.
    """
    angle = positions.to(torch.float32)[:, None] * inv_freq
    return angle.cos().mul_(factor)[:, None], angle.sin().mul_(factor)[:, None]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    out = torch.empty(x.shape, dtype=x.dtype)
    torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out[..., half:]).addcmul_(first, sin)
    return out


class _Rope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _rotate(grads[0], cos, -sin), None, None


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (x[i], x[i + head_dim/2]) of every head by its position's angle.

    `x` [tokens, heads, head_dim]; `cos`, `sin` from `rotation`. The backward pass turns the other way.
    """
    return _Rope.apply(x, cos.to(x.dtype), sin.to(x.dtype))  # type: ignore[no-any-return]
