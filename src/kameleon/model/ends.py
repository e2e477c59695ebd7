"""The decoder's two ends, the token embedding and the head (lm_head), as an adapter changes them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kameleon.ops import can_multiply, can_run
from kameleon.weights import FrozenWeight

# From this number of rows on, products in AMX units are faster than reading the weights once.
_FEW_ROWS = 64


def runs_as_one(x: Tensor) -> bool:
    """Whether generation's kernels take `x`. They do not if torch has units that are faster for many rows."""
    return can_run(x) and (can_multiply(x.dtype) or len(x) < _FEW_ROWS)


def project_wide(weight: FrozenWeight, x: Tensor) -> Tensor:
    """x Wᵀ in fp32: [rows, in] to [rows, out]. In generation's kernels a row's bits do not depend on other rows."""
    return weight.stacked.project(x) if runs_as_one(x) else weight.project(x).float()


@dataclass(frozen=True, eq=False)
class AdaptedEnd:
    """W + scaling · B A, where W [vocab, hidden_size] is the base's matrix or the adapter's replacement.

    `b` is [vocab, rank]; `a` is [rank, hidden_size] for the head, its transpose for the embedding. Both are None if
    there is only W.
    """

    weight: FrozenWeight
    a: FrozenWeight | None = None
    b: FrozenWeight | None = None
    scaling: float = 1.0
    held_numbers: int = 0
    """The numbers that this adapter holds in memory in addition to the base's."""

    @property
    def bytes(self) -> int:
        """Memory that it holds in addition to the base's."""
        return self.held_numbers * self.weight.dtype.itemsize

    def rows(self, ids: Tensor) -> Tensor:
        """The embedding's lookup: [n] int64 to [n, hidden_size]."""
        x = self.weight.rows(ids)
        if self.a is None or self.b is None:
            return x
        return (x.float() + self.scaling * project_wide(self.a, self.b.rows(ids))).to(x.dtype)

    def project(self, x: Tensor) -> Tensor:
        """The head's logits in fp32: [rows, hidden_size] to [rows, vocab]."""
        y = project_wide(self.weight, x)
        if self.a is None or self.b is None:
            return y
        return y.add_(project_wide(self.b, project_wide(self.a, x).to(x.dtype)), alpha=self.scaling)
