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

from kameleon.ops import native
from kameleon.ops.cheap import Cheap
from kameleon.ops.products import Addition, Term, multiply, sum_products
from kameleon.ops.segments import Run, Segments


class Projection(Protocol):
    """What this operator needs of a frozen weight [out, in]; gradients never reach the weight itself."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def project(self, x: Tensor, additions: Sequence[Addition] = (), residual: Tensor | None = None) -> Tensor: ...

    def project_back(self, dy: Tensor, additions: Sequence[Addition] = ()) -> Tensor: ...


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

    @property
    def ranks(self) -> list[slice]:
        """The columns of h = x Aᵀ that belong to each branch."""
        columns, at = [], 0
        for branch in self.branches:
            columns.append(slice(at, at := at + branch.b.shape[1]))
        return columns


class _LoraLinear(torch.autograd.Function):
    """Arguments after `sides` are the same factors, flat, so that autograd sees them: per run a, then each b."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Projection,
        runs: Sequence[Run],
        sides: Sequence[SidePath],
        before: Cheap | None,
        residual: Tensor | None,
        unread: bool,
        *factors: Tensor,
    ) -> Tensor:
        entering = x if before is None else before.forward(x)
        hiddens, additions = [], []
        for (start, stop, _), side in zip(runs, sides, strict=True):
            h = multiply(entering[start:stop], side.a.T)  # [run, sum of ranks]
            hiddens.append(h)
            additions += [
                Addition(start, stop, branch.start, branch.stop, h[:, ranks], branch.b.T, branch.scaling)
                for branch, ranks in zip(side.branches, side.ranks, strict=True)
            ]
        ctx.weight, ctx.runs, ctx.sides, ctx.before = weight, runs, sides, before
        ctx.save_for_backward(x, *hiddens, *factors)
        return x.new_empty(len(x), weight.shape[0]) if unread else weight.project(entering, additions, residual)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        dy = grads[0].contiguous()
        x, *saved = ctx.saved_tensors
        before: Cheap | None = ctx.before
        entering = x if before is None or not ctx.runs else before.forward(x)
        factor_grads: list[Tensor] = []
        additions = []
        for (start, stop, _), side, h in zip(ctx.runs, ctx.sides, saved[: len(ctx.runs)], strict=True):
            dys = [dy[start:stop, branch.start : branch.stop] for branch in side.branches]
            parts = list(zip(dys, side.branches, side.ranks, strict=True))
            dh = sum_products([Term(part, branch.b, branch.scaling, ranks.start) for part, branch, ranks in parts])
            b_grads = [
                multiply(h[:, ranks].T, part, dtype=torch.float32).T.mul_(branch.scaling)
                for part, branch, ranks in parts
            ]
            factor_grads += [multiply(dh.T, entering[start:stop], dtype=torch.float32), *b_grads]
            additions.append(Addition(start, stop, 0, side.a.shape[1], dh, side.a, 1.0))
        del entering  # it was made again, and the gradient of the input is as large
        dx = None
        if ctx.needs_input_grad[0]:
            dx = ctx.weight.project_back(dy, additions)
            dx = dx if before is None else before.backward(x, dx)
        return dx, None, None, None, None, dy if ctx.needs_input_grad[5] else None, None, *factor_grads


def lora_linear(
    x: Tensor,
    weight: Projection,
    sides: Sequence[SidePath | None],
    segments: Segments,
    before: Cheap | None = None,
    residual: Tensor | None = None,
    unread: bool = False,
) -> Tensor:
    """y = u Wᵀ + scaling · (u Aᵀ) Bᵀ + residual, with u = before(x) and each segment's own A and B
    (Hu et al., 2021, arXiv:2106.09685).

    `x` [tokens, in], or what `before` makes [tokens, in] of: u is computed again in the backward pass, not stored.
    `weight` [out, in], frozen; `sides[slot]` the factors of the adapter in that slot, None where it does not touch this
    projection; `residual` [tokens, out]. Factors are fp32 masters, used in x's type; their gradients come back in fp32.
    Returns [tokens, out] in x's type. Tokens of the plain base get exactly u Wᵀ + residual. `unread`: nobody will
    look at y, only its gradient will be asked for; the frozen product is left out, and y holds nothing.
    """
    if before is not None and not native.runs(x):
        x, before = before(x), None
    live = [(run, side) for run in segments.runs if (side := sides[run.adapter]) is not None]
    runs, used = [run for run, _ in live], [side for _, side in live]
    factors = [t for side in used for t in (side.a, *(branch.b for branch in side.branches))]
    return _LoraLinear.apply(x, weight, runs, used, before, residual, unread, *factors)  # type: ignore[no-any-return]
