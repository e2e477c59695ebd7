"""Root-mean-square normalisation with a frozen weight (Zhang and Sennrich, 2019, arXiv:1910.07467)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kameleon.ops import cheap, native, reference


@dataclass(frozen=True, eq=False)
class RmsNorm:
    """y = weight · x / sqrt(mean(x²) + eps); `weight` [size] fp32."""

    weight: Tensor
    eps: float

    def forward(self, x: Tensor) -> Tensor:
        y = torch.empty_like(x)
        size = x.shape[-1]
        native.call("rms_norm", native.type_code(x), x, self.weight, self.eps, x.numel() // size, size, y)
        return y

    def backward(self, x: Tensor, dy: Tensor) -> Tensor:
        dx = torch.empty_like(x)
        size = x.shape[-1]
        native.call("rms_norm_back", native.type_code(x), x, self.weight, self.eps, dy, x.numel() // size, size, dx)
        return dx

    def __call__(self, x: Tensor) -> Tensor:
        return reference.rms_norm(x, self.weight, self.eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """y = weight · x / sqrt(mean(x²) + eps), over the last axis.

    `x` [..., size] fp32 or bf16; `weight` [size] fp32, frozen (it gets no gradient). Computed in fp32, rounded once.
    """
    return cheap.apply(RmsNorm(weight, eps), x)
