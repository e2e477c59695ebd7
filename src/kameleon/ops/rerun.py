"""Layer checkpointing (Chen et al., 2016, arXiv:1604.06174): keep what enters, compute the rest again for gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kameleon.ops import native

Layer = Callable[[Tensor, bool], Tensor]


class _Rerun(torch.autograd.Function):
    """The tensors after `layer` are those it is trained by, flat, so that autograd sees them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Layer, *trained: Tensor) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x, *trained)
        return layer(x, False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *trained = ctx.saved_tensors
        x = x.detach().requires_grad_(ctx.needs_input_grad[0])
        wanted = [x, *trained] if ctx.needs_input_grad[0] else trained
        with torch.enable_grad():
            y = ctx.layer(x, True)
        found = list(torch.autograd.grad(y, wanted, grads[0], allow_unused=True))
        return (found.pop(0) if ctx.needs_input_grad[0] else None), None, *found


def spare(x: Tensor) -> None:
    """Give freed memory back here, and again where the backward pass comes to `x`.

    Between the layers: blocks of many sizes that are kept leave holes, half of what is stored.
    """
    native.give_back_memory()
    if x.requires_grad:
        x.register_hook(lambda _: native.give_back_memory())


def rerun(layer: Layer, x: Tensor, trained: Sequence[Tensor]) -> Tensor:
    """layer(x, False), of which x alone is kept; for the gradient layer(x, True) is run, whose result is not read.

    `trained`: all tensors besides x that gradients are for. torch's own checkpoint keeps its inputs in a cycle of
    references until the garbage collector comes by, which may be a whole step later.
    """
    wanted = [one for one in trained if one.requires_grad]
    if not torch.is_grad_enabled() or not (x.requires_grad or wanted):
        return layer(x, False)
    return _Rerun.apply(x, layer, *wanted)  # type: ignore[no-any-return]
