"""A frozen projection with low-rank side paths, for a packed batch whose segments may use different adapters.

One call covers all projections that share an input (Q, K and V; gate and up): the frozen matrix is joined, and so are
their A factors, so the input is read twice in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from kameleon.ops.segments import Run, Segments


class Projection(Protocol):
    """What this operator needs of a frozen weight [out, in]; gradients never reach the weight itself."""

    def project(self, x: Tensor) -> Tensor: ...

    def project_back(self, dy: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Branch:
    """One projection's B in a joined side path: y[:, start:stop] += scaling · h[:, rank columns] @ Bᵀ."""

    b: Tensor  # [stop - start, rank] fp32
    start: int
    stop: int
    scaling: float


@dataclass(frozen=True)
class SidePath:
    """The LoRA factors of one adapter for one joined projection.

    `a` [sum of ranks, in] fp32, the A factors of the branches stacked in order. A projection that the adapter does not
    target has no branch.
    """

    a: Tensor
    branches: tuple[Branch, ...]


class _LoraLinear(torch.autograd.Function):
    """Arguments after `sides` are the same factors, flat, so that autograd sees them: per run a, then each b."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Projection, runs: Sequence[Run], sides: Sequence[SidePath], *factors: Tensor
    ) -> Tensor:
        y = weight.project(x)
        hiddens = []
        for run, side in zip(runs, sides, strict=True):
            h = x[run.start : run.stop] @ side.a.to(x.dtype).T  # [run, sum of ranks]
            column = 0
            for branch in side.branches:
                rank = branch.b.shape[1]
                out = y[run.start : run.stop, branch.start : branch.stop]
                out.addmm_(h[:, column : column + rank], branch.b.to(x.dtype).T, alpha=branch.scaling)
                column += rank
            hiddens.append(h)
        ctx.weight, ctx.runs, ctx.sides = weight, runs, sides
        ctx.save_for_backward(x, *hiddens, *factors)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        dy = grads[0]
        x, *saved = ctx.saved_tensors
        dx = ctx.weight.project_back(dy) if ctx.needs_input_grad[0] else None
        factor_grads: list[Tensor] = []
        for run, side, h in zip(ctx.runs, ctx.sides, saved[: len(ctx.runs)], strict=True):
            dy_run, column = dy[run.start : run.stop], 0
            dh = torch.empty_like(h)
            b_grads = []
            for branch in side.branches:
                ranks = slice(column, column + branch.b.shape[1])
                dy_branch = dy_run[:, branch.start : branch.stop]
                torch.mul(dy_branch @ branch.b.to(dy.dtype), branch.scaling, out=dh[:, ranks])
                b_grads.append((dy_branch.T @ h[:, ranks]).to(branch.b.dtype).mul_(branch.scaling))
                column = ranks.stop
            factor_grads += [(dh.T @ x[run.start : run.stop]).to(side.a.dtype), *b_grads]
            if dx is not None:
                dx[run.start : run.stop].addmm_(dh, side.a.to(dh.dtype))
        return dx, None, None, None, *factor_grads


def lora_linear(x: Tensor, weight: Projection, sides: Sequence[SidePath | None], segments: Segments) -> Tensor:
    """y = x Wᵀ + scaling · (x Aᵀ) Bᵀ, with each segment's own A and B (Hu et al., 2021, arXiv:2106.09685).

    `x` [tokens, in]; `weight` [out, in], frozen; `sides[slot]` the factors of the adapter in that slot, None where it
    does not touch this projection. Factors are fp32 masters, used in x's type; their gradients come back in fp32.
    Returns [tokens, out] in x's type. Tokens of the plain base get exactly x Wᵀ.
    """
    live = [(run, side) for run in segments.runs if (side := sides[run.adapter]) is not None]
    runs, used = [run for run, _ in live], [side for _, side in live]
    factors = [t for side in used for t in (side.a, *(branch.b for branch in side.branches))]
    return _LoraLinear.apply(x, weight, runs, used, *factors)  # type: ignore[no-any-return]
