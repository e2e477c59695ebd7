"""The gated activation of Llama's MLP (Shazeer, 2020, arXiv:2002.05202)."""

from __future__ import annotations

import torch
from torch import Tensor

from kameleon.ops import cheap, native, reference


class SwiGlu:
    """y = silu(gate) · up, gate and up side by side."""

    def forward(self, x: Tensor) -> Tensor:
        rows, size = x.shape[0], x.shape[1] // 2
        y = torch.empty(rows, size, dtype=x.dtype)
        native.call("swiglu", native.type_code(x), x, rows, size, y)
        return y

    def backward(self, x: Tensor, dy: Tensor) -> Tensor:
        dx = torch.empty_like(x)
        native.call("swiglu_back", native.type_code(x), x, dy, x.shape[0], x.shape[1] // 2, dx)
        return dx

    def __call__(self, x: Tensor) -> Tensor:
        return reference.swiglu(x)


def swiglu(gate_up: Tensor) -> Tensor:
    """y = silu(gate) · up, where `gate_up` [tokens, 2 · size] holds gate in its first half and up in its second."""
    return cheap.apply(SwiGlu(), gate_up)
