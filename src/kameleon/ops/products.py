"""Products with a matrix, and low-rank products added to parts of them."""

from __future__ import annotations

from collections.abc import Sequence
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


def multiply(
    x: Tensor,
    matrix: Tensor,
    additions: Sequence[Addition] = (),
    residual: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """x @ matrix (+ residual) with all `additions`, in `dtype` (x's own by default).

    `x` [rows, k]; `matrix` [k, columns], any strides (`w.T` costs nothing), in x's type or another; `residual`
    [rows, columns].
    """
    few = len(x) < _FEW_ROWS and matrix.dtype == x.dtype == torch.float32
    if few or not native.multiplies(x):
        wide = matrix.to(x.dtype)
        y = x @ wide if residual is None else torch.addmm(residual, x, wide)
        for start, stop, first, last, a, b, scale in additions:
            y[start:stop, first:last].addmm_(a, b.to(a.dtype), alpha=scale)
        return y.to(dtype or x.dtype)
    y = x.new_empty(len(x), matrix.shape[1], dtype=dtype) if residual is None else residual.clone()
    product, add = native.Term(x, matrix), residual is not None
    if all((one.start, one.stop) == (0, len(x)) for one in additions):
        # All of them while a piece of y is in registers.
        return native.gemm(y, [product, *(native.Term(a.a, a.b, a.scale, a.first_column) for a in additions)], add)
    native.gemm(y, [product], add)
    for start, stop, first, last, a, b, scale in additions:
        native.gemm(y[start:stop, first:last], [native.Term(a, b, scale)], True)
    return y
