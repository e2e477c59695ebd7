"""One adapter's factors over all layers, as generation reads them: in the compute type, B in the order of its use."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kameleon.ops import native, reference
from kameleon.ops.native import abi
from kameleon.ops.native.abi import B_COLUMNS
from kameleon.ops.paged_attention import page_step
from kameleon.ops.side_path import Branch, SidePath


@dataclass(frozen=True, eq=False)
class _Placed:
    """One joined projection's factors in the table's memory."""

    a: Tensor  # [sum of ranks, in]
    b: tuple[
        Tensor, ...
    ]  # of each branch [out / B_COLUMNS, rank / step, B_COLUMNS, step], zero where there is no number
    branches: tuple[tuple[int, int, int, float], ...]  # rank, start, stop, scaling
    finishes: tuple[tuple[Tensor | None, Tensor | None], ...]  # gain and shift of each branch, fp32

    def side(self) -> SidePath:
        """The same as a `SidePath`, for operators one by one; B is put in order again."""
        return SidePath(
            self.a,
            tuple(
                Branch(
                    _rows(b)[: stop - start, :rank],
                    start,
                    stop,
                    scaling,
                    gain,
                    None if gain is None else torch.ones_like(gain),
                    shift,
                )
                for b, (rank, start, stop, scaling), (gain, shift) in zip(
                    self.b, self.branches, self.finishes, strict=True
                )
            ),
        )


def _cells(b: Tensor, step: int) -> tuple[int, int, int, int]:
    """The shape in which B [out, rank] is kept."""
    out, rank = b.shape
    return -(-out // B_COLUMNS), -(-rank // step), B_COLUMNS, step


def place_b(b: Tensor, cells: Tensor) -> None:
    """B [out, rank] fp32 into `cells`, in the order of its use and in their type."""
    if native.can_run(cells):
        b = b.contiguous()
        native.call("place_b", native.type_code(cells), b, *b.shape, cells)
    else:
        reference.place_b(b, cells)


def _rows(cells: Tensor) -> Tensor:
    """B as it was, [out, rank], each rounded up."""
    return cells.transpose(1, 2).flatten(2).flatten(0, 1)


class SideTable:
    """All side paths of one adapter, in one block of memory of type `dtype`.

    `sides[i]` are those of layer i div 4, projection i mod 4 (qkv, o, gate_up, down), None where it has none. `memory`
    is that of a table that is needed no more; it is used if it is of the right size.
    """

    def __init__(self, sides: Sequence[SidePath | None], dtype: torch.dtype, memory: Tensor | None = None) -> None:
        step = page_step(dtype)
        cells = [
            side.a.numel() + sum(math.prod(_cells(b.b, step)) for b in side.branches)
            for side in sides
            if side is not None
        ]
        fits = memory is not None and memory.dtype == dtype and len(memory) == sum(cells)
        self.memory = memory if memory is not None and fits else torch.empty(sum(cells), dtype=dtype)
        """All numbers, flat."""
        self._used = 0
        self._placed = [None if side is None else self._place(side, step) for side in sides]
        self._raw, self._raw_branches = self._structs()

    @property
    def bytes(self) -> int:
        """Memory of the factors."""
        return self.memory.nbytes

    @property
    def is_plain(self) -> bool:
        """Whether A and B are all: `LayerStack` knows neither gains nor shifts."""
        return all(one is None for placed in self._placed if placed for pair in placed.finishes for one in pair)

    @property
    def address(self) -> int:
        """Of the table [layers, 4] that kernels read."""
        return ctypes.addressof(self._raw)

    def side(self, index: int) -> SidePath | None:
        """The side path at one place, for operators one by one."""
        placed = self._placed[index]
        return None if placed is None else placed.side()

    def _take(self, *shape: int) -> Tensor:
        size = torch.Size(shape).numel()
        view = self.memory[self._used : self._used + size].view(shape)
        self._used += size
        return view

    def _place(self, side: SidePath, step: int) -> _Placed:
        a = self._take(*side.a.shape).copy_(side.a)
        b, branches = [], []
        for branch in side.branches:
            cells = self._take(*_cells(branch.b, step))
            place_b(branch.b, cells)
            b.append(cells)
            branches.append((branch.b.shape[1], branch.start, branch.stop, branch.scaling))
        finishes = tuple((branch.gain, branch.shift) for branch in side.branches)
        return _Placed(a, tuple(b), tuple(branches), finishes)

    def _structs(self) -> tuple[ctypes.Array[abi.Side], list[ctypes.Array[abi.BranchB]]]:
        raw, kept = (abi.Side * len(self._placed))(), []
        for one, placed in zip(raw, self._placed, strict=True):
            if placed is None:
                continue
            branches = (abi.BranchB * len(placed.b))()
            at = 0
            for to, b, (rank, start, stop, scaling) in zip(branches, placed.b, placed.branches, strict=True):
                to.b, to.first_rank, to.rank, to.start, to.stop, to.scaling = (
                    native.address(b), at, rank, start, stop, scaling,
                )  # fmt: skip
                at += rank
            kept.append(branches)
            one.a, one.branches = native.address(placed.a), ctypes.addressof(branches)
            one.rank, one.count = len(placed.a), len(branches)
        return raw, kept
