"""Products with a matrix, and low-rank products added to parts of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from kameleon.ops import native

# Below this many rows a product is bound by reading the matrix, which torch does without unpacking it first.
_FEW_ROWS = 8


class Addition(NamedTuple):
    """y[start:stop, left_column:right_column] += scale · a @ b, of low rank."""

    start: int
    stop: int
    first_column: int
    last_column: int
    a: Tensor  # [stop - start, rank] in y's type
    b: Tensor  # [rank, last_column - first_column] fp32
    scale: float


def multiply(x: Tensor, matrix: Tensor, additions: Sequence[Addition] = (), residual: Tensor | None = None) -> Tensor:
    """x @ matrix (+ residual) with all `additions`, in x's type.

    `x` [rows, k]; `matrix` [k, columns], any strides (`w.T` costs nothing); `residual` [rows, columns].
    """
    if not native.multiplies(x) or len(x) < _FEW_ROWS:
        y = x @ matrix if residual is None else torch.addmm(residual, x, matrix)
        for start, stop, first, last, a, b, scale in additions:
            y[start:stop, first:last].addmm_(a, b.to(a.dtype), alpha=scale)
        return y
    y = x.new_empty(len(x), matrix.shape[1]) if residual is None else residual.clone()
    add = residual is not None
    if any((one.start, one.stop) != (0, len(x)) for one in additions):
        native.gemm(y, [(x, matrix, 1.0)], add)
        for start, stop, first, last, a, b, scale in additions:
            native.gemm(y[start:stop, first:last], [(a, b, scale)], True)
        return y
    # Every addition spans all rows: it joins the product while a piece of y is in the cache.
    cuts = sorted({0, matrix.shape[1], *(edge for one in additions for edge in (one.first_column, one.last_column))})
    for first, last in pairwise(cuts):
        joined = [
            (one.a, one.b[:, first - one.first_column : last - one.first_column], one.scale)
            for one in additions
            if one.first_column <= first and last <= one.last_column
        ]
        native.gemm(y[:, first:last], [(x, matrix[:, first:last], 1.0), *joined], add)
    return y
