"""The norms by which DoRA divides its magnitudes (Liu et al., 2024, arXiv:2402.09353)."""

from __future__ import annotations

import torch
from torch import Tensor

from kameleon.bases import Base
from kameleon.model import find_member
from kameleon.ops import SidePath
from kameleon.weights import ModuleName


def weight_norms(base: Base, module: str) -> Tensor:
    """‖W‖ of each row of a projection, [out] fp32: the magnitudes of a DoRA adapter that changes nothing."""
    name = ModuleName.parse(module)
    group, member = find_member(base.config, name.member)
    squares = base.decoder.layers[name.layer].weight(group.name).row_squares
    return squares[member.start : member.stop].sqrt()


@torch.no_grad()
def renew_norms(base: Base, layer: int, group: str, side: SidePath) -> None:
    """Write ‖W + s B A‖ of each row into each branch with a magnitude, in place.

    ‖W + s B A‖² = ‖W‖² + 2 s ⟨B, W Aᵀ⟩ + s² ⟨B A Aᵀ, B⟩, row by row.
    """
    if all(branch.norm is None for branch in side.branches):
        return
    weight = base.decoder.layers[layer].weight(group)
    squares, products = weight.row_squares, weight.project(side.a)  # [out]; A Wᵀ [ranks, out]
    for branch, ranks in zip(side.branches, side.ranks, strict=True):
        if branch.norm is not None:
            a, b, rows = side.a[ranks], branch.b, slice(branch.start, branch.stop)
            crossed = (b * products[ranks, rows].T).sum(1)
            own = (b @ (a @ a.T) * b).sum(1)
            branch.norm.copy_((squares[rows] + 2 * branch.scaling * crossed + branch.scaling**2 * own).sqrt())
