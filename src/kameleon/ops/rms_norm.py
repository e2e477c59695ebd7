"""Root-mean-square normalisation with a frozen weight (Zhang and Sennrich, 2019, arXiv:1910.07467)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        normed = x.float() * scale
        inner = (grads[0] * weight).float()
        shift = (inner * normed).mean(dim=-1, keepdim=True)
        return inner.addcmul_(normed, shift, value=-1).mul_(scale).to(x.dtype), None, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """y = weight · x / sqrt(mean(x²) + eps), over the last axis.

    `x` [..., size] fp32 or bf16; `weight` [size], frozen (it gets no gradient). The mean is taken in fp32.
    """
    return _RmsNorm.apply(x, weight, eps)  # type: ignore[no-any-return]
