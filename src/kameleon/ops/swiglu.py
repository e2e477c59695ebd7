"""The gated activation of Llama's MLP (Shazeer, 2020, arXiv:2002.05202)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor]:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        out = torch.empty_like(gate_up)
        d_gate, d_up = out.chunk(2, dim=-1)
        torch.mul(grads[0], silu(gate), out=d_up)
        torch.ops.aten.silu_backward.grad_input(grads[0] * up, gate, grad_input=d_gate)
        return (out,)


def swiglu(gate_up: Tensor) -> Tensor:
    """y = silu(gate) · up, where `gate_up` [tokens, 2 · size] holds gate in its first half and up in its second.

    Only `gate_up` is kept for the backward pass: silu is cheaper to compute again than to store.
    """
    return _SwiGlu.apply(gate_up)  # type: ignore[no-any-return]
