"""A frozen projection with low-rank side paths, for a packed batch whose segments may use different adapters.

One call covers all projections that share an input (Q, K and V; gate and up): the frozen matrix is joined, and so are
their A factors, so the input is read twice in all.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from kameleon.ops import native
from kameleon.ops.products import Addition, Term, multiply, sum_products
from kameleon.ops.recomputed import Recomputed
from kameleon.ops.segments import AdapterSpan, Segments
from kameleon.ops.side_path import SidePath


class Projection(Protocol):
    """A frozen weight [out, in] as this operator uses it; gradients never reach the weight itself."""

    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, int]: ...

    def project(
        self,
        x: Tensor,
        additions: Sequence[Addition] = (),
        residual: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor: ...

    def project_back(self, dy: Tensor, additions: Sequence[Addition] = ()) -> Tensor: ...


def _project(
    entering: Tensor,
    weight: Projection,
    spans: Sequence[AdapterSpan],
    sides: Sequence[SidePath],
    additions: Sequence[Addition],
    residual: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """All products, and behind them gains and shifts. Spans with gains or shifts are multiplied apart and get their
    residual last, so that other tokens keep their bits."""
    apart = [(run, side) for run, side in zip(spans, sides, strict=True) if side.finishes]
    if not apart:
        return weight.project(entering, additions, residual, dtype)
    finishing = {(run.start, run.stop): side for run, side in apart}
    borders = sorted({0, len(entering), *(border for run, _ in apart for border in (run.start, run.stop))})
    blocks = []
    for start, stop in itertools.pairwise(borders):
        inside = [a._replace(start=a.start - start, stop=a.stop - start) for a in additions if start <= a.start < stop]
        before = None if residual is None else residual[start:stop]
        side = finishing.get((start, stop))
        y = weight.project(entering[start:stop], inside, before if side is None else None, dtype)
        if side is not None:
            for branch in side.branches:
                part, gain = y[:, branch.start : branch.stop], branch.gain
                if gain is not None:
                    part.mul_(gain)
                if branch.shift is not None:
                    part.add_(branch.shift)
            y = y if before is None else y.add_(before)
        blocks.append(y)
    return torch.cat(blocks) if len(blocks) > 1 else blocks[0]


class _LoraLinear(torch.autograd.Function):
    """Arguments after `dtype` are the trained tensors of `sides`, flat, so that autograd sees them."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Projection,
        spans: Sequence[AdapterSpan],
        sides: Sequence[SidePath],
        before: Recomputed | None,
        residual: Tensor | None,
        skip_output: bool,  # noqa: FBT001 (autograd hands values on by their places)
        dtype: torch.dtype | None,
        *factors: Tensor,
    ) -> Tensor:
        entering = x if before is None else before.forward(x)
        dtype = dtype or (entering if residual is None else residual).dtype
        hiddens, additions = [], []
        for (start, stop, _), side in zip(spans, sides, strict=True):
            h = multiply(entering[start:stop], side.a.T)  # [run, sum of ranks]
            hiddens.append(h)
            additions += [
                Addition(start, stop, branch.start, branch.stop, h[:, ranks], branch.b.T, branch.scaling)
                for branch, ranks in zip(side.branches, side.ranks, strict=True)
            ]
        ctx.weight, ctx.spans, ctx.sides, ctx.before = weight, spans, sides, before
        # All of the backward pass is in the weight's type, even behind a wider forward pass: no later layer magnifies
        # its rounding.
        ctx.save_for_backward(*(tensor.to(weight.dtype) for tensor in (x, *hiddens)), *factors)
        if skip_output:
            return x.new_empty(len(x), weight.shape[0], dtype=dtype)
        return _project(entering, weight, spans, sides, additions, residual, dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        dy_all = grads[0].contiguous()
        dy = dy_all.to(ctx.weight.dtype)
        x, *saved = ctx.saved_tensors
        before: Recomputed | None = ctx.before
        entering = x if before is None or not ctx.spans else before.forward(x)
        factor_grads: list[Tensor] = []
        additions = []
        if dy is dy_all and any(branch.magnitude is not None for side in ctx.sides for branch in side.branches):
            dy = dy.clone()  # becomes the gradient before the gain; the residual's is as it came
        for (start, stop, _), side, h in zip(ctx.spans, ctx.sides, saved[: len(ctx.spans)], strict=True):
            dys = [dy[start:stop, branch.start : branch.stop] for branch in side.branches]
            magnitude_grads = _through_gain(ctx.weight, entering[start:stop], h, side, dys)
            parts = list(zip(dys, side.branches, side.ranks, strict=True))
            dh = sum_products([Term(part, branch.b, branch.scaling, ranks.start) for part, branch, ranks in parts])
            b_grads = [
                multiply(h[:, ranks].T, part, dtype=torch.float32).T.mul_(branch.scaling)
                for part, branch, ranks in parts
            ]
            factor_grads.append(multiply(dh.T, entering[start:stop], dtype=torch.float32))
            for b_grad, magnitude_grad in zip(b_grads, magnitude_grads, strict=True):
                factor_grads += [b_grad] if magnitude_grad is None else [b_grad, magnitude_grad]
            additions.append(Addition(start, stop, 0, side.a.shape[1], dh, side.a, 1.0))
        del entering  # it was recomputed, and the gradient of the input is as large
        dx = None
        if ctx.needs_input_grad[0]:
            dx = ctx.weight.project_back(dy, additions)
            dx = dx if before is None else before.backward(x, dx)
        return dx, None, None, None, None, dy_all if ctx.needs_input_grad[5] else None, None, None, *factor_grads


def _through_gain(
    weight: Projection, entering: Tensor, h: Tensor, side: SidePath, dys: Sequence[Tensor]
) -> list[Tensor | None]:
    """Each branch's gradient for its magnitude, Σ dy · z / norm; its `dys` become dy · gain, in place.

    z, the gain's input, is recomputed: DoRA costs one more frozen product, and no memory.
    """
    if all(branch.magnitude is None for branch in side.branches):
        return [None] * len(dys)
    parts = list(zip(side.branches, side.ranks, strict=True))
    z = weight.project(
        entering, [Addition(0, len(h), b.start, b.stop, h[:, ranks], b.b.T, b.scaling) for b, ranks in parts]
    )
    grads: list[Tensor | None] = []
    for branch, dy in zip(side.branches, dys, strict=True):
        gain = branch.gain
        if gain is None or branch.norm is None:
            grads.append(None)
            continue
        mixed = torch.einsum("tc,tc->c", dy.float(), z[:, branch.start : branch.stop].float())
        grads.append(mixed / branch.norm)
        dy.mul_(gain)
    return grads


def lora_linear(
    x: Tensor,
    weight: Projection,
    sides: Sequence[SidePath | None],
    segments: Segments,
    *,
    before: Recomputed | None = None,
    residual: Tensor | None = None,
    skip_output: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """y = u Wᵀ + scaling · (u Aᵀ) Bᵀ + residual, with u = before(x) and each segment's own A and B
    (Hu et al., 2021, arXiv:2106.09685), times a gain and plus a shift where a `Branch` has them.

    `x` [tokens, in], or the input of `before`: u is recomputed in the backward pass, not stored.
    `weight` [out, in], frozen; `sides[slot]` the factors of the adapter in that slot, None where it does not touch this
    projection; `residual` [tokens, out]. Factors are fp32 masters, used in u's type, in which all is multiplied; their
    gradients come back in fp32. Returns [tokens, out] in `dtype`, by default the residual's, or u's. Tokens of the
    plain base get exactly u Wᵀ + residual. With `skip_output` the frozen product is left out and y is left
    uninitialised: only its gradient is needed.
    """
    if before is not None:
        x, before = (x.contiguous(), before) if native.can_run(x) else (before(x), None)
    live = [(run, side) for run in segments.spans if (side := sides[run.adapter]) is not None]
    spans, used = [run for run, _ in live], [side for _, side in live]
    factors = [tensor for side in used for tensor in side.trained]
    return _LoraLinear.apply(x, weight, spans, used, before, residual, skip_output, dtype, *factors)  # type: ignore[no-any-return]
