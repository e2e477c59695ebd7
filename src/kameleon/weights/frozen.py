"""A weight that can only be multiplied. It never changes and never holds a gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from kameleon.ops import Addition, multiply


class FrozenWeight(ABC):
    """W [out, in], however it is stored."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(out, in)."""

    @abstractmethod
    def project(self, x: Tensor, additions: Sequence[Addition] = (), residual: Tensor | None = None) -> Tensor:
        """x Wᵀ (+ residual) with all `additions`: [rows, in] to [rows, out]."""

    @abstractmethod
    def project_back(self, dy: Tensor, additions: Sequence[Addition] = ()) -> Tensor:
        """dy W with all `additions`: [rows, out] to [rows, in], the gradient for the input of `project`."""

    @abstractmethod
    def rows(self, ids: Tensor) -> Tensor:
        """W[ids]: [n] int64 to [n, in], an embedding's lookup."""

    @abstractmethod
    def dense(self) -> Tensor:
        """W as one tensor [out, in]; a view where possible, not to be written to."""


class DenseWeight(FrozenWeight):
    """A weight held as a plain tensor, in the type it is multiplied in."""

    def __init__(self, tensor: Tensor) -> None:
        assert tensor.dim() == 2, f"a weight has two axes, not {tuple(tensor.shape)}"
        self._tensor = tensor.detach()

    @property
    def shape(self) -> tuple[int, int]:
        return self._tensor.shape[0], self._tensor.shape[1]

    def project(self, x: Tensor, additions: Sequence[Addition] = (), residual: Tensor | None = None) -> Tensor:
        return multiply(x, self._tensor.T, additions, residual)

    def project_back(self, dy: Tensor, additions: Sequence[Addition] = ()) -> Tensor:
        return multiply(dy, self._tensor, additions)

    def rows(self, ids: Tensor) -> Tensor:
        return self._tensor[ids]

    def dense(self) -> Tensor:
        return self._tensor


def join(weights: Sequence[FrozenWeight]) -> FrozenWeight:
    """Weights that share their input as one, stacked along the output: one product instead of several."""
    return DenseWeight(torch.cat([weight.dense() for weight in weights]))
