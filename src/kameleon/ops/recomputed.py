"""Operators whose output is recomputed in the backward pass instead of stored: that costs less than the memory."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from kameleon.ops import native


class Recomputed(Protocol):
    """y = f(x), with frozen numbers inside. `forward` and `backward` are kernels; calling it is the reference."""

    def forward(self, x: Tensor) -> Tensor:
        """y."""
        ...

    def backward(self, x: Tensor, dy: Tensor) -> Tensor:
        """The gradient for x."""
        ...

    def __call__(self, x: Tensor) -> Tensor: ...


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, operator: Recomputed) -> Tensor:
        ctx.save_for_backward(x)
        ctx.operator = operator
        return operator.forward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return ctx.operator.backward(x, grads[0].contiguous()), None


def apply(operator: Recomputed, x: Tensor) -> Tensor:
    """f(x) by the kernels, or by the reference where they do not run."""
    return _Apply.apply(x.contiguous(), operator) if native.can_run(x) else operator(x)  # type: ignore[no-any-return]
