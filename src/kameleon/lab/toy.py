"""The mathematics of LoRA on toy layers, with every number measured here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kameleon.lora import Count, LoraConfig, attach, count, layers

SIZE, RANK, SHIFT = 100, 4, 5.0
RANKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 80, 90, 100)


@dataclass(frozen=True)
class Curve:
    """How well a change of known rank is learned at each rank; errors are relative Frobenius norms."""

    ranks: tuple[int, ...]
    trained: tuple[float, ...]
    best: tuple[float, ...]
    """The smallest error that any matrix of that rank can have: what its SVD leaves (Eckart and Young, 1936)."""


@dataclass(frozen=True)
class LabReport:
    """All numbers of the lab. `heldout_*` are differences from the frozen layer on 1,000 new inputs; 5 was taught."""

    share_1000: float
    """Share of the numbers of a 1000 × 1000 layer that rank 4 does not have to train."""
    share_100: float
    """Share of frozen numbers in a 100 × 100 layer with its side path of rank 4."""
    trained_1000: int
    trained_100: int
    fresh_change: float
    loss_first: float
    loss_last: float
    losses: tuple[float, ...]
    base_changed: bool
    largest_change: float
    """The largest number in B·A."""
    heldout_mean: float
    heldout_spread: float
    heldout_mean_bias_10: float
    heldout_mean_bias_only_10: float
    heldout_mean_bias_1000: float
    heldout_mean_one_1000: float
    """LoRA without a bias, but with an input feature that is always 1."""
    heldout: tuple[float, ...]
    """The mean difference of each new input, for the picture."""
    full_rank: Curve
    low_rank: Curve

    def to_json(self) -> dict[str, Any]:
        """Everything but the points of the pictures."""
        return {key: value for key, value in asdict(self).items() if key not in ("losses", "heldout")}


class _Toy(nn.Module):
    """A frozen layer without bias, with a side path, and with what else the experiment trains."""

    def __init__(self, seed: int, lora: bool = True, bias: bool = False, one: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        frozen = nn.Linear(SIZE, SIZE, bias=False)
        self.frozen_weight = frozen.weight.detach().clone()
        self.one = one
        if one:  # a feature that is always 1 stands behind the inputs; the frozen layer ignores it
            wider = nn.Linear(SIZE + 1, SIZE, bias=False)
            wider.weight = nn.Parameter(torch.cat([frozen.weight, torch.zeros(SIZE, 1)], dim=1).detach())
            frozen = wider
        self.layer = nn.Sequential(frozen)
        self.requires_grad_(False)
        if lora:
            attach(self.layer, LoraConfig(targets=("0",), rank=RANK, alpha=float(RANK)))  # scaling 1
        self.bias = nn.Parameter(torch.zeros(SIZE)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, torch.ones(len(x), 1)], dim=1) if self.one else x
        y = self.layer(x)
        return y if self.bias is None else y + self.bias

    def fit(self, x: Tensor, epochs: int = 100) -> list[float]:
        """Adam, learning rate 0.1, on the mean square distance to the frozen layer's output + 5; the losses."""
        target = x @ self.frozen_weight.T + SHIFT
        optimizer = torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=0.1)
        losses = []
        for _ in range(epochs):
            loss = (self(x) - target).square().mean()
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return [*losses, (self(x) - target).square().mean().item()]

    @torch.no_grad()
    def difference(self, x: Tensor) -> Tensor:
        """What the training added to the frozen layer's output."""
        return self(x) - x @ self.frozen_weight.T


def run_lab(seed: int = 0) -> LabReport:
    """Compute everything; some seconds on one core, the same numbers for the same seed."""
    thousand, hundred = _counted(1000), _counted(SIZE)
    generator = torch.Generator().manual_seed(seed + 100)
    ten, many, new = (torch.randn(rows, SIZE, generator=generator) for rows in (10, 1000, 1000))
    toy = _Toy(seed)
    (_, side), *_ = layers(toy.layer)
    fresh_change = float((toy(new) - side.base(new)).detach().abs().max())
    losses = toy.fit(ten)
    heldout = toy.difference(new)
    return LabReport(
        share_1000=1 - thousand.trainable / thousand.frozen,
        share_100=1 - hundred.share,
        trained_1000=thousand.trainable,
        trained_100=hundred.trainable,
        fresh_change=fresh_change,
        loss_first=losses[0],
        loss_last=losses[-1],
        losses=tuple(losses),
        base_changed=not torch.equal(side.base.weight, toy.frozen_weight),  # type: ignore[arg-type]
        largest_change=float(side.delta().detach().abs().max()),
        heldout_mean=float(heldout.mean()),
        heldout_spread=float(heldout.std()),
        heldout_mean_bias_10=_taught_mean(_Toy(seed, bias=True), ten, new),
        heldout_mean_bias_only_10=_taught_mean(_Toy(seed, lora=False, bias=True), ten, new),
        heldout_mean_bias_1000=_taught_mean(_Toy(seed, bias=True), many, new, epochs=300),
        heldout_mean_one_1000=_taught_mean(_Toy(seed, one=True), many, new, epochs=300),
        heldout=tuple(heldout.mean(dim=1).tolist()),
        full_rank=_curve(torch.eye(SIZE), seed),
        low_rank=_curve(_of_rank(RANK, seed), seed),
    )


def _counted(size: int) -> Count:
    return count(attach(nn.Sequential(nn.Linear(size, size, bias=False)), LoraConfig(targets=("0",), rank=RANK)))


def _taught_mean(toy: _Toy, x: Tensor, new: Tensor, epochs: int = 100) -> float:
    toy.fit(x, epochs)
    return float(toy.difference(new).mean())


def _of_rank(rank: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SIZE, rank, generator=generator) @ torch.randn(rank, SIZE, generator=generator) / SIZE**0.5


def _curve(change: Tensor, seed: int) -> Curve:
    """Train side paths of every rank towards `change`, on the unit vectors as inputs (so the loss is the matrix's)."""
    singular = torch.linalg.svdvals(change)
    norm = float(torch.linalg.vector_norm(singular))
    trained = []
    for rank in RANKS:
        torch.manual_seed(seed)
        side = attach(nn.Sequential(nn.Linear(SIZE, SIZE, bias=False)), LoraConfig(("0",), rank, alpha=float(rank)))
        trained.append(_distance(side, change) / norm)
    best = [float(torch.linalg.vector_norm(singular[rank:])) / norm for rank in RANKS]
    return Curve(RANKS, tuple(trained), tuple(best))


def _distance(model: nn.Module, change: Tensor, steps: int = 600) -> float:
    """The Frobenius distance that is left after `steps` of Adam with a falling learning rate."""
    (_, side), *_ = layers(model)
    optimizer = torch.optim.Adam([side.lora_a, side.lora_b], lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        loss = (side.delta() - change).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return float(torch.linalg.vector_norm(side.delta().detach() - change))
