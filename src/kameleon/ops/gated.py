"""The gated activations of Llama's and Gemma's MLPs (Shazeer, 2020, arXiv:2002.05202)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kameleon.ops import native, recomputed, reference
from kameleon.ops.native.abi import ACTIVATIONS, Activation


@dataclass(frozen=True)
class Gated:
    """y = activation(gate) · up, gate and up side by side: SwiGLU with silu, GeGLU with gelu's tanh approximation."""

    activation: Activation

    def forward(self, x: Tensor) -> Tensor:
        """y [tokens, size] of x [tokens, 2 · size]."""
        rows, size = x.shape[0], x.shape[1] // 2
        y = torch.empty(rows, size, dtype=x.dtype)
        native.call("gated", native.type_code(x), ACTIVATIONS[self.activation], x, rows, size, y)
        return y

    def backward(self, x: Tensor, dy: Tensor) -> Tensor:
        """The gradient for x."""
        dx, rows, size = torch.empty_like(x), x.shape[0], x.shape[1] // 2
        native.call("gated_back", native.type_code(x), ACTIVATIONS[self.activation], x, dy, rows, size, dx)
        return dx

    def __call__(self, x: Tensor) -> Tensor:
        return reference.gated(x, self.activation)


def gated(gate_up: Tensor, activation: Activation) -> Tensor:
    """y = activation(gate) · up, where `gate_up` [tokens, 2 · size] holds gate first, then up."""
    return recomputed.apply(Gated(activation), gate_up)
