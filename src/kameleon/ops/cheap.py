"""Operators that cost less to compute again than to store: the backward pass keeps their input alone."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from kameleon.ops import native


class Cheap(Protocol):
    """y = f(x), with its frozen numbers inside. `forward` and `backward` are native; calling it is the reference."""

    def forward(self, x: Tensor) -> Tensor: ...

    def backward(self, x: Tensor, dy: Tensor) -> Tensor: ...

    def __call__(self, x: Tensor) -> Tensor: ...


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, operator: Cheap) -> Tensor:
        ctx.save_for_backward(x)
        ctx.operator = operator
        return operator.forward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return ctx.operator.backward(x, grads[0].contiguous()), None


def apply(operator: Cheap, x: Tensor) -> Tensor:
    """f(x) by the kernels, or by the reference where they do not run."""
    return _Apply.apply(x.contiguous(), operator) if native.runs(x) else operator(x)  # type: ignore[no-any-return]
