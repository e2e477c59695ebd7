"""Matrices that stay as their file stores them: blocks of quantised numbers, unpacked where they are multiplied."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kameleon.ops import native, reference
from kameleon.ops.native import abi
from kameleon.ops.native.abi import KINDS

_TILE_NUMBERS = 2 << 20  # unpacked at a time where torch multiplies: few enough for the caches
_WHOLE_BLOCKS = 256  # a whole number of blocks of every kind


def _tile_columns(rows: int, *, whole_blocks: bool) -> int:
    """How many columns are unpacked at a time; where they run along blocks, cut between these."""
    step = max(1, _TILE_NUMBERS // max(1, rows))
    return max(1, step // _WHOLE_BLOCKS) * _WHOLE_BLOCKS if whole_blocks else step


def tile_bytes(rows: int, columns: int, dtype: torch.dtype) -> int:
    """The larger of the pieces in which a packed matrix [rows, columns] and its transposed view are unpacked."""
    along, across = (
        min(columns, _tile_columns(rows, whole_blocks=True)),
        min(rows, _tile_columns(columns, whole_blocks=False)),
    )
    return max(rows * along, columns * across) * dtype.itemsize


@dataclass(frozen=True, eq=False)
class StoredMatrix:
    """A matrix [rows, columns] in one of `KINDS`.

    `data` uint8 [rows, bytes of a row], usually a file's memory map. `half` > 0: llama.cpp keeps the two numbers that a
    rotary embedding turns together next to each other, so in each run of 2 · `half` rows, row i is stored as row
    2 · (i mod half) + i div half. With `transposed`, a view [columns, rows].
    """

    kind: str
    data: Tensor
    columns: int
    half: int = 0
    transposed: bool = False

    def __post_init__(self) -> None:
        assert self.kind in KINDS and self.data.dtype == torch.uint8 and self.data.stride(1) == 1, self.kind

    @staticmethod
    def view(matrix: Tensor) -> StoredMatrix:
        """A plain fp32, bf16 or fp16 matrix with dense rows."""
        return StoredMatrix(abi.PLAIN_KINDS[matrix.dtype], matrix.detach().view(torch.uint8), matrix.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns), or the other way round of a transposed view."""
        rows = self.data.shape[0]  # len() of a tensor takes several times as long
        return (self.columns, rows) if self.transposed else (rows, self.columns)

    @property
    def T(self) -> StoredMatrix:
        """The transposed matrix; nothing moves."""
        return replace(self, transposed=not self.transposed)

    @property
    def code(self) -> int:
        """The number by which kernels know the kind."""
        return abi.stored_code(self.kind)

    def stored_rows(self, ids: Tensor) -> Tensor:
        """Which rows of `data` the rows `ids` are."""
        if not self.half:
            return ids
        within = ids % (2 * self.half)
        return ids - within + 2 * (within % self.half) + within // self.half

    def rows(self, ids: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The rows `ids` [n] int64, unpacked: [n, columns]. Raises IndexError for one that is not there."""
        assert not self.transposed
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < len(self.data):
            raise IndexError(f"rows {int(ids.min())} to {int(ids.max())} of a matrix of {len(self.data)}")
        out = torch.empty(len(ids), self.columns, dtype=dtype)
        return self._unpack(ids.contiguous(), slice(0, self.columns), out)

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """All of it as a plain tensor of the same shape."""
        out = torch.empty(len(self.data), self.columns, dtype=dtype)
        whole = self._unpack(None, slice(0, self.columns), out)
        return whole.T if self.transposed else whole

    def tiles(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """All columns a few at a time: which they are, and they as a plain tensor [rows, some columns].

        Each piece is written over the one before: of a head it may be eighty megabytes, and pages are dear.
        """
        rows, columns = self.shape
        step = min(columns, _tile_columns(rows, whole_blocks=not self.transposed))
        buffer = torch.empty(rows * step, dtype=dtype)
        for at in range(0, columns, max(1, step)):
            cut = slice(at, min(at + step, columns))
            piece = buffer[: rows * (cut.stop - cut.start)]
            if self.transposed:
                ids = torch.arange(cut.start, cut.stop)
                yield cut, self._unpack(ids, slice(0, self.columns), piece.view(len(ids), self.columns)).T
            else:
                yield cut, self._unpack(None, cut, piece.view(rows, -1))

    def times_few(self, x: Tensor, y: Tensor) -> None:
        """y = x @ matrix for at most eight rows; `matrix` is a transposed view, x and y are of one type."""
        assert self.transposed and x.dtype == y.dtype and x.stride(1) == y.stride(1) == 1
        code, size = native.type_code(x), len(self.data)
        native.call(
            "few_rows", ctypes.byref(self.stored), code, x, x.stride(0), len(x), self.columns, size, y, y.stride(0)
        )

    @property
    def stored(self) -> abi.Stored:
        """What kernels read."""
        return abi.Stored(native.address(self.data), self.code, self.data.stride(0), self.half)

    def _unpack(self, ids: Tensor | None, columns: slice, out: Tensor) -> Tensor:
        """The rows `ids` (all, if None), some of their columns, written to `out`."""
        if native.can_run(out):
            count, first = len(out), columns.start
            native.call(
                "unpack", ctypes.byref(self.stored), ids, count, first, out.shape[1], native.type_code(out), out
            )
            return out
        stored = self.stored_rows(torch.arange(len(out)) if ids is None else ids)
        return out.copy_(reference.unpack(self.kind, self.data[stored])[:, columns])
