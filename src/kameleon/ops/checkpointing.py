"""Activation checkpointing (Chen et al., 2016, arXiv:1604.06174): keep a layer's input, recompute the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from kameleon.ops import native


class Layer(Protocol):
    """A layer: [tokens, size] to [tokens, size]. With `skip_output` only the gradient of its output is needed."""

    def __call__(self, x: Tensor, *, skip_output: bool = False) -> Tensor: ...


class _Recompute(torch.autograd.Function):
    """The tensors after `layer` are its trained ones, flat, so that autograd sees them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Layer, *trained: Tensor) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x, *trained)
        return layer(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *trained = ctx.saved_tensors
        x = x.detach().requires_grad_(ctx.needs_input_grad[0])
        wanted = [x, *trained] if ctx.needs_input_grad[0] else trained
        with torch.enable_grad():
            y = ctx.layer(x, skip_output=True)
        found = list(torch.autograd.grad(y, wanted, grads[0], allow_unused=True))
        return (found.pop(0) if ctx.needs_input_grad[0] else None), None, *found


def release_freed_memory(x: Tensor) -> None:
    """Give freed memory back to the system here, and again when the backward pass reaches `x`.

    Called between layers: kept blocks of many sizes leave holes, half as large as the stored activations.
    """
    native.give_back_memory()
    if x.requires_grad:
        x.register_hook(lambda _: native.give_back_memory())


def recompute(layer: Layer, x: Tensor, trained: Sequence[Tensor]) -> Tensor:
    """Run `layer`, saving only `x`; backward recomputes it with `skip_output`, whose result is not read.

    `trained`: all tensors besides x that get gradients. torch's own checkpoint keeps its inputs in a cycle of
    references until the garbage collector runs, which may be a whole step later.
    """
    wanted = [one for one in trained if one.requires_grad]
    if not torch.is_grad_enabled() or not (x.requires_grad or wanted):
        return layer(x)
    return _Recompute.apply(x, layer, *wanted)  # type: ignore[no-any-return]
