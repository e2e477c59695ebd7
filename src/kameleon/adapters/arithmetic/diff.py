"""Two adapters compared, module by module, without forming B A."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from kameleon.adapters.adapter import Adapter
from kameleon.adapters.arithmetic.spectrum import Spectrum, spectrum
from kameleon.errors import AdapterMismatchError


@dataclass(frozen=True)
class ModuleDiff:
    """One module of two adapters. None where only one of them has it, or where it changes nothing.

    `cosine` is ⟨Δa, Δb⟩ / ‖Δa‖ ‖Δb‖. `out_angles` and `in_angles` are the principal angles, in degrees and rising,
    between what the two write to and between what they read: 0 is a shared direction, 90 none.
    """

    norm_a: float | None
    norm_b: float | None
    distance: float | None
    """‖Δa − Δb‖."""
    cosine: float | None
    out_angles: tuple[float, ...] | None
    in_angles: tuple[float, ...] | None


def diff(a: Adapter, b: Adapter) -> dict[str, ModuleDiff]:
    """Every module that either has. Raises AdapterMismatchError when a module's sizes differ, AdapterError
    for a variant that is not A and B alone."""
    for adapter in (a, b):
        adapter.require_plain("a comparison")
    found = {}
    for module in dict.fromkeys([*a.modules, *b.modules]):
        one, other = a.modules.get(module), b.modules.get(module)
        if one is None or other is None:
            only = spectrum(one or other).norm  # pyright: ignore[reportArgumentType]
            found[module] = ModuleDiff(only if one else None, only if other else None, None, None, None, None)
        elif (one.b.shape[0], one.a.shape[1]) != (other.b.shape[0], other.a.shape[1]):
            raise AdapterMismatchError(f"{module} has other sizes in {a.name} than in {b.name}: they fit no same base")
        else:
            found[module] = _compare(spectrum(one), spectrum(other))
    return found


def _compare(a: Spectrum, b: Spectrum) -> ModuleDiff:
    left, right = a.left.T @ b.left, a.right @ b.right.T
    product = float((a.values[:, None] * left * right * b.values).sum())
    distance = math.sqrt(max(0.0, a.norm**2 + b.norm**2 - 2 * product))
    if not a.norm or not b.norm:
        return ModuleDiff(a.norm, b.norm, distance, None, None, None)
    ranks = slice(0, a.true_rank), slice(0, b.true_rank)
    cosine = max(-1.0, min(1.0, product / (a.norm * b.norm)))
    return ModuleDiff(a.norm, b.norm, distance, cosine, _angles(left[ranks]), _angles(right[ranks]))


def _angles(cosines: torch.Tensor) -> tuple[float, ...]:
    """From the products of two orthonormal bases (Björck and Golub, 1973)."""
    return tuple(torch.linalg.svdvals(cosines).clamp(max=1.0).acos().rad2deg().tolist())
