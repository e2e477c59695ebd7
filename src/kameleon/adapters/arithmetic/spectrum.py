"""Singular values of what an adapter changes, found from its factors without forming B A."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from kameleon.adapters.adapter import Adapter, LoraFactors

_NOISE = 1e-6  # of the largest singular value: below it lies the rounding of fp32 factors


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Δ = left · diag(values) · right, all float64.

    `left` [out, k] has orthonormal columns, `right` [k, in] orthonormal rows, `values` [k] falls.
    """

    left: Tensor
    values: Tensor
    right: Tensor

    @property
    def norm(self) -> float:
        """‖Δ‖, the Frobenius norm."""
        return float(self.values.norm())

    @property
    def true_rank(self) -> int:
        """How many directions are more than rounding."""
        return int((self.values > _NOISE * self.values.max()).sum()) if len(self.values) and self.norm else 0

    def rank_for(self, share: float) -> int:
        """The smallest rank that holds `share` of the energy ‖Δ‖²."""
        return _first_reaching(self.values.square(), share)

    def error_at(self, rank: int) -> float:
        """‖Δ − Δ truncated‖: by Eckart and Young the least that any matrix of that rank leaves."""
        return float(self.values[rank:].norm())

    def truncated(self, rank: int) -> LoraFactors:
        """The nearest factors of that rank, with √values in each and scaling 1.

        Beyond what Δ has, A gets random rows as a fresh adapter does and B zero columns: no change, but trainable.
        """
        root = self.values[:rank].sqrt()
        a, b = root[:, None] * self.right[:rank], self.left[:, :rank] * root
        missing, in_size = rank - len(root), self.right.shape[1]
        if missing > 0:
            bound = 1 / math.sqrt(in_size)
            generator = torch.Generator().manual_seed(rank)
            fresh = torch.empty(missing, in_size, dtype=a.dtype).uniform_(-bound, bound, generator=generator)
            a, b = torch.cat([a, fresh]), torch.cat([b, b.new_zeros(len(b), missing)], 1)
        return LoraFactors(a.float().contiguous(), b.float().contiguous(), float(rank))


def spectrum(factors: LoraFactors) -> Spectrum:
    """Of scaling · B A: with B = Q R and Aᵀ = P S, the singular values are those of the small R Sᵀ [rank, rank]."""
    with _one_thread():
        q, r = torch.linalg.qr(factors.b.double())
        p, s = torch.linalg.qr(factors.a.double().T)
        left, values, right = torch.linalg.svd(factors.scaling * (r @ s.T), full_matrices=False)
        return Spectrum(q @ left, values, right @ p.T)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Matrices of a few columns: two threads wait for each other fifty times as long as one computes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def spectrum_of(delta: Tensor) -> Spectrum:
    """Of a whole matrix [out, in], through the eigenvectors U of the smaller Gram matrix: Δ = U (Uᵀ Δ).

    In float64 that is exact to 1e-8 of the largest singular value, beyond what fp32 weights hold, and several times
    as fast as a singular value decomposition.
    """
    delta = delta.double()
    if delta.shape[0] > delta.shape[1]:
        turned = spectrum_of(delta.T)
        return Spectrum(turned.right.T, turned.values, turned.left.T)
    _, vectors = torch.linalg.eigh(delta @ delta.T)
    left = vectors.flip(1)
    right = left.T @ delta
    values = right.norm(dim=1)
    return Spectrum(left, values, right / values.clamp_min(torch.finfo(values.dtype).tiny)[:, None])


def effective_rank(adapter: Adapter, share: float = 0.9) -> int:
    """The smallest rank at which all modules together, each truncated to it, keep `share` of the energy."""
    energies = [spectrum(factors).values.square() for factors in adapter.factors.values()]
    longest = max((len(e) for e in energies), default=0)
    total = sum((torch.nn.functional.pad(e, (0, longest - len(e))) for e in energies), torch.zeros(longest).double())
    return _first_reaching(total, share)


def _first_reaching(energy: Tensor, share: float) -> int:
    kept = energy.cumsum(0)
    if not len(kept) or not kept[-1]:
        return 0
    return int((kept < share * kept[-1] * (1 - 1e-12)).sum()) + 1
