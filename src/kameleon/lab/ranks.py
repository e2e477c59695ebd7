"""How much rank a change needs: side paths trained towards a ΔW of full rank and towards one of rank 4.

The best possible error at rank r is known (Eckart, Young): what the singular values after the r-th add up to.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kameleon.lab.report import RankPoint
from kameleon.torch_modules import LoraConfig, attach

WIDTH = 100
TRUE_RANK = 4
RANKS = range(1, WIDTH + 1)
_ITERATIONS = 300


def rank_curve(seed: int) -> tuple[RankPoint, ...]:
    """Errors over `RANKS`, each from a side path that was trained."""
    torch.manual_seed(seed)
    identity = torch.eye(WIDTH)
    low_rank = torch.randn(WIDTH, TRUE_RANK) @ torch.randn(TRUE_RANK, WIDTH)
    identity_best, low_rank_best = best_errors(identity), best_errors(low_rank)
    return tuple(
        RankPoint(
            rank,
            trained_error(identity, rank),
            identity_best[rank],
            trained_error(low_rank, rank),
            low_rank_best[rank],
        )
        for rank in RANKS
    )


def best_errors(change: Tensor) -> list[float]:
    """At [r]: min over all matrices of rank r of ‖M − change‖ / ‖change‖, for r = 0 … full."""
    squares = torch.linalg.svdvals(change.double()).square()
    tails = torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)])
    return (tails / tails[0]).sqrt().tolist()


def trained_error(change: Tensor, rank: int) -> float:
    """‖scaling · BA − change‖ / ‖change‖ after training A and B on a zero layer that should compute x · changeᵀ."""
    layer = nn.Linear(change.shape[1], change.shape[0], bias=False)
    nn.init.zeros_(layer.weight)
    model = attach(nn.Sequential(layer), LoraConfig(targets=("0",), rank=rank, alpha=float(rank)))
    # All unit vectors at once: the outputs are then ΔW itself, and their squared error is the one in the weight.
    inputs, wanted = torch.eye(change.shape[1]), change.T
    optimizer = torch.optim.LBFGS(
        [p for p in model.parameters() if p.requires_grad],
        max_iter=_ITERATIONS,
        history_size=20,
        tolerance_grad=1e-6,
        tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (model(inputs) - wanted).square().sum() / change.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        return float((model(inputs) - wanted).norm() / change.norm())
