"""A weight that is only multiplied: it never changes and has no gradient."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from kameleon.ops import Addition, Matrix, Stacked, StoredMatrix, Term, prepare, sum_products


class FrozenWeight:
    """W [out, in], multiplied in type `dtype`: one matrix, or several that share their input, stacked along the output.

    Each is a plain tensor or packed (see `ops.prepare` for where it stays as its file stores it).
    """

    def __init__(self, *matrices: Matrix, dtype: torch.dtype | None = None) -> None:
        for matrix in matrices:
            assert len(matrix.shape) == 2, f"a weight has two axes, not {tuple(matrix.shape)}"
        self.dtype = dtype or (torch.float32 if isinstance(matrices[0], StoredMatrix) else matrices[0].dtype)
        self._parts = prepare(matrices, self.dtype)

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return sum(part.shape[0] for part in self._parts), self._parts[0].shape[1]

    def project(
        self,
        x: Tensor,
        additions: Sequence[Addition] = (),
        residual: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """x Wᵀ (+ residual) with all `additions`, in `dtype` (see `ops.sum_products`): [rows, in] to [rows, out]."""
        return sum_products([Term(x, part.T, 1.0, first) for first, part in self._placed()], additions, residual, dtype)

    def project_back(self, dy: Tensor, additions: Sequence[Addition] = ()) -> Tensor:
        """dy W with all `additions`: [rows, out] to [rows, in], the gradient for the input of `project`."""
        return sum_products(
            [Term(dy[:, first : first + part.shape[0]], part) for first, part in self._placed()], additions
        )

    @cached_property
    def stacked(self) -> Stacked:
        """The same memory as generation's kernels take it."""
        return Stacked(self._parts)

    def rows(self, ids: Tensor) -> Tensor:
        """W[ids]: [n] int64 to [n, in], an embedding's lookup."""
        (table,) = self._parts
        return table.rows(ids, self.dtype) if isinstance(table, StoredMatrix) else table[ids].to(self.dtype)

    def dense(self) -> Tensor:
        """W as one tensor [out, in]; a view where possible, not to be written to."""
        whole = [
            part.dense(self.dtype) if isinstance(part, StoredMatrix) else part.to(self.dtype) for part in self._parts
        ]
        return whole[0] if len(whole) == 1 else torch.cat(whole)

    @cached_property
    def row_squares(self) -> Tensor:
        """Σ of each row's squares, [out] fp32."""
        wide = ((p.dense(torch.float32) if isinstance(p, StoredMatrix) else p.float()) for p in self._parts)
        return torch.cat([part.square().sum(1) for part in wide])

    @property
    def kinds(self) -> tuple[str, ...]:
        """How its matrices are stored: ggml's names of packed ones, torch's of plain ones."""
        return tuple(
            p.kind if isinstance(p, StoredMatrix) else str(p.dtype).removeprefix("torch.") for p in self._parts
        )

    def _placed(self) -> list[tuple[int, Matrix]]:
        """Each matrix with its first row in the whole."""
        placed, at = [], 0
        for part in self._parts:
            placed.append((at, part))
            at += part.shape[0]
        return placed
