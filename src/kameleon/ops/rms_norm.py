"""Root-mean-square normalisation with a frozen weight (Zhang and Sennrich, 2019, arXiv:1910.07467)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kameleon.ops import native, recomputed, reference


@dataclass(frozen=True, eq=False)
class RmsNorm:
    """y = weight · x / sqrt(mean(x²) + eps) in `dtype`, x's own by default; `weight` [size] fp32."""

    weight: Tensor
    eps: float
    dtype: torch.dtype | None = None

    def forward(self, x: Tensor) -> Tensor:
        """y, of x's shape."""
        y = torch.empty_like(x, dtype=self.dtype)
        code, y_code, size = native.type_code(x), native.type_code(y), x.shape[-1]
        native.call("rms_norm", code, x, self.weight, self.eps, x.numel() // size, size, y_code, y)
        return y

    def backward(self, x: Tensor, dy: Tensor) -> Tensor:
        """The gradient for x."""
        dx = torch.empty_like(x)
        code, dy_code, size = native.type_code(x), native.type_code(dy), x.shape[-1]
        native.call("rms_norm_back", code, x, self.weight, self.eps, dy_code, dy, x.numel() // size, size, dx)
        return dx

    def __call__(self, x: Tensor) -> Tensor:
        return reference.rms_norm(x, self.weight, eps=self.eps, dtype=self.dtype)


def rms_norm(x: Tensor, weight: Tensor, *, eps: float, dtype: torch.dtype | None = None) -> Tensor:
    """y = weight · x / sqrt(mean(x²) + eps), over the last axis, in `dtype` (x's own by default).

    `x` [..., size] fp32 or bf16; `weight` [size] fp32, frozen (it gets no gradient). Computed in fp32, rounded once.
    """
    return recomputed.apply(RmsNorm(weight, eps, dtype), x)
