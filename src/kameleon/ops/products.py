"""Sums of matrix products: frozen matrices, dense or packed, and the low-rank ones added to parts of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kameleon.ops import native
from kameleon.ops.native import abi
from kameleon.ops.stored_matrix import StoredMatrix

Matrix = Tensor | StoredMatrix

# Below this many rows reading the matrix bounds a product, so it is not unpacked into panels first.
_FEW_ROWS = abi.MAX_FEW_ROWS


class Term(NamedTuple):
    """scale · a @ b, added to the columns of the result from `first_column` on, as many as b has.

    `a` [m, k] and `b` [k, columns], each fp32 or bf16, with any strides; b may be packed.
    """

    a: Tensor
    b: Matrix
    scale: float = 1.0
    first_column: int = 0

    @property
    def last_column(self) -> int:
        return self.first_column + self.b.shape[1]


class Addition(NamedTuple):
    """y[start:stop, first_column:last_column] += scale · a @ b, of low rank."""

    start: int
    stop: int
    first_column: int
    last_column: int
    a: Tensor  # [stop - start, rank] in the type of what is multiplied
    b: Tensor  # [rank, last_column - first_column] fp32
    scale: float


def prepare(matrices: Sequence[Matrix], dtype: torch.dtype) -> tuple[Matrix, ...]:
    """Frozen matrices, stacked along their rows, as products in `dtype` want them.

    Kameleon's own products take them as their file stores them, usually mapped. Elsewhere plain ones are converted,
    packed ones too where there are no kernels to unpack them, and if all are plain they are joined for one product.
    """
    if native.can_multiply(dtype):
        return tuple(m if isinstance(m, StoredMatrix) else _as_stored(m.detach()) for m in matrices)
    unpacks = native.can_run(torch.empty(0, dtype=dtype))
    ready = [m if isinstance(m, StoredMatrix) and unpacks else _plain(m, dtype) for m in matrices]
    plain = [m for m in ready if isinstance(m, Tensor)]
    return (torch.cat(plain),) if len(ready) == len(plain) > 1 else tuple(ready)


def _as_stored(matrix: Tensor) -> Matrix:
    return StoredMatrix.view(matrix) if matrix.dtype == torch.float16 else matrix


def _plain(matrix: Matrix, dtype: torch.dtype) -> Tensor:
    return matrix.dense(dtype) if isinstance(matrix, StoredMatrix) else matrix.detach().to(dtype)


def multiply(x: Tensor, matrix: Matrix, dtype: torch.dtype | None = None) -> Tensor:
    """x @ matrix in `dtype` (x's own by default); `matrix` [k, columns], any strides (`w.T` costs nothing)."""
    return sum_products([Term(x, matrix)], dtype=dtype)


def sum_products(
    terms: Sequence[Term],
    additions: Sequence[Addition] = (),
    residual: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Σ `terms` (+ residual) with all `additions`, in `dtype` (by default the residual's, or that of a term's `a`).

    All terms have the same rows, and all `a` one type; `residual` [rows, columns]. Summed in fp32 and rounded once,
    where Kameleon's own products run.
    """
    x = terms[0].a
    dtype = dtype or (x if residual is None else residual).dtype
    few = x.shape[0] < _FEW_ROWS and dtype == x.dtype
    tensors = (tensor for term in terms for tensor in (term.a, _numbers(term.b)))
    if not native.can_multiply(x.dtype, *tensors) or (few and all(_is_plain(term) for term in terms)):
        later = None if residual is None or residual.dtype == x.dtype else residual
        y = _by_torch(terms, residual if later is None else None)
        for start, stop, first, last, a, b, scale in additions:
            y[start:stop, first:last].addmm_(a, b.to(a.dtype), alpha=scale)
        return (y if later is None else y + later).to(dtype)
    columns = max(term.last_column for term in terms)
    apart = columns == sum(term.b.shape[1] for term in terms)  # no column is the sum of several terms
    if few and apart and all(_reads_rows(term) for term in terms):
        y = x.new_empty(len(x), columns)
        for term in terms:
            matrix = term.b if isinstance(term.b, StoredMatrix) else StoredMatrix.view(term.b.T).T
            matrix.times_few(term.a, y[:, term.first_column : term.last_column])
        y = y if residual is None else y + residual
    else:
        y = x.new_empty(x.shape[0], columns, dtype=dtype)
        if all((one.start, one.stop) == (0, x.shape[0]) for one in additions):
            # All of them while a piece of y is in registers.
            return gemm(y, [*terms, *(Term(a.a, a.b, a.scale, a.first_column) for a in additions)], residual)
        gemm(y, terms, residual)
    for start, stop, first, last, a, b, scale in additions:
        part = y[start:stop, first:last]
        gemm(part, [Term(a, b, scale)], part)
    return y.to(dtype)


def _numbers(matrix: Matrix) -> Tensor:
    return matrix.data if isinstance(matrix, StoredMatrix) else matrix


def _is_plain(term: Term) -> bool:
    """Whether torch multiplies this without converting anything."""
    return isinstance(term.b, Tensor) and term.b.dtype == term.a.dtype == torch.float32


def _reads_rows(term: Term) -> bool:
    """Whether each column of the result is the product of x with one stored row of the matrix."""
    if term.a.stride(1) != 1 or term.scale != 1.0:
        return False
    return term.b.transposed if isinstance(term.b, StoredMatrix) else term.b.stride(0) == 1


def _by_torch(terms: Sequence[Term], residual: Tensor | None) -> Tensor:
    a, b, scale, _ = terms[0]
    if len(terms) == 1 and isinstance(b, Tensor) and scale == 1.0:
        wide = b.to(a.dtype)
        return a @ wide if residual is None else torch.addmm(residual, a, wide)
    columns = max(term.last_column for term in terms)
    y = a.new_empty(len(a), columns) if residual is None else residual.clone()
    written = 0 if residual is None else columns  # terms come by their first column, and leave none out
    for a, b, scale, first in terms:
        for cut, tile in _tiles(b, a.dtype):
            start, stop = first + cut.start, first + cut.stop
            y[:, start:stop].addmm_(a, tile, beta=float(start < written), alpha=scale)
        written = max(written, first + b.shape[1])
    return y


def _tiles(matrix: Matrix, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    if isinstance(matrix, StoredMatrix):
        yield from matrix.tiles(dtype)
    else:
        yield slice(0, matrix.shape[1]), matrix.to(dtype)


def gemm(out: Tensor, terms: Sequence[Term], start: Tensor | None = None) -> Tensor:
    """out [m, n] = `start` + Σ `terms` by Kameleon's own kernel. Returns `out`.

    `out` and `start`, which may be `out` itself, are fp32 or bf16, their rows of any stride. Sums are fp32, rounded
    once.
    """
    rows, columns = out.shape
    assert all(t.a.shape == (rows, t.b.shape[0]) and t.last_column <= columns for t in terms), out.shape
    raw = (abi.Term * len(terms))(*map(_raw_term, terms))
    assert out.stride(1) == 1
    before = (0, None, 0)
    if start is not None:
        assert start.shape == out.shape and start.stride(1) == 1, (start.shape, start.stride())
        before = (native.type_code(start), start, start.stride(0))
    native.call("gemm", raw, len(terms), rows, columns, native.type_code(out), out, out.stride(0), *before)
    return out


def _raw_term(term: Term) -> tuple[object, ...]:
    """The fields of an `abi.Term` in their order: as one tuple they are several times faster to set."""
    a, b = term.a, term.b
    left = native.address(a), *a.stride(), native.type_code(a)
    if isinstance(b, StoredMatrix):
        right, half = (native.address(b.data), b.data.stride(0), not b.transposed, b.code), b.half
    else:
        right, half = (native.address(b), *b.stride(), native.type_code(b)), 0
    return *left, *right, a.shape[1], term.first_column, term.last_column, half, term.scale
