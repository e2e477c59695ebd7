"""The LoRA factors of one adapter for one joined projection, as values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Branch:
    """One projection's B in a joined side path: y[:, start:stop] += scaling · h[:, rank columns] @ Bᵀ.

    With a `magnitude` (DoRA, arXiv:2402.09353) these columns of y, the frozen product included, are then multiplied by
    magnitude / norm, where `norm` is that of each row of W + scaling · B A and counts as a constant. `shift` is added.
    """

    b: Tensor  # [stop - start, rank] fp32
    start: int
    stop: int
    scaling: float
    magnitude: Tensor | None = None  # [stop - start] fp32
    norm: Tensor | None = None  # [stop - start] fp32
    shift: Tensor | None = None  # [stop - start] fp32

    @property
    def gain(self) -> Tensor | None:
        """magnitude / norm, or None where there is none."""
        return None if self.magnitude is None or self.norm is None else self.magnitude / self.norm

    @property
    def trained(self) -> list[Tensor]:
        """B, and the magnitude."""
        return [self.b] if self.magnitude is None else [self.b, self.magnitude]


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

    @property
    def trained(self) -> list[Tensor]:
        """A, then each branch's B and magnitude: the tensors that get gradients, in their order."""
        return [self.a, *(tensor for branch in self.branches for tensor in branch.trained)]

    @property
    def finishes(self) -> bool:
        """Whether a branch has a gain or a shift. A magnitude that equals its norm is no gain, so that a fresh adapter
        changes nothing, to the bit."""
        return any(b.shift is not None or _is_gained(b) for b in self.branches)


def _is_gained(branch: Branch) -> bool:
    return branch.magnitude is not None and not torch.equal(branch.magnitude, branch.norm)  # type: ignore[arg-type]
