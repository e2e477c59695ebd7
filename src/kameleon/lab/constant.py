"""Ten points and a constant: a frozen 100 → 100 layer without bias, asked for its own output + 5.

A side path without bias is linear: side(0) = 0, so it cannot add a constant. It can only find directions in which its
few training inputs all happen to point.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from kameleon.torch_modules import LoraConfig, LoraLayer, attach

WIDTH = 100
CONSTANT = 5.0
RANK = 4
ALPHA = 1.0
EPOCHS = 100
LEARNING_RATE = 0.1
_NEW_INPUTS = 1000


@dataclass(frozen=True)
class ConstantRun:
    """One training and what came of it. Differences are adapted output − original output."""

    losses: tuple[float, ...]  # before each epoch, and after the last
    train_difference: Tensor  # [inputs, 100]
    heldout_difference: Tensor  # [1000, 100]
    base_changed: bool
    weight_norm: float
    change_norm: float  # 0 without a side path


class Toy(nn.Module):
    """y = layer(x, and a 1 if `feature`) + bias if `bias`; the layer frozen, with or without a side path."""

    def __init__(self, weight: Tensor, *, lora: bool, bias: bool, feature: bool) -> None:
        super().__init__()
        # The frozen layer gives nothing for the additional input: the original output stays.
        weight = functional.pad(weight, (0, 1)) if feature else weight
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
        self.frozen_weight = layer.weight
        self.body = nn.Sequential(layer)
        if lora:
            attach(self.body, LoraConfig(targets=("0",), rank=RANK, alpha=ALPHA))
        self.bias = nn.Parameter(torch.zeros(weight.shape[0])) if bias else None
        self.feature = feature

    @property
    def layer(self) -> nn.Module:
        return self.body[0]

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(functional.pad(x, (0, 1), value=1.0) if self.feature else x)
        return y if self.bias is None else y + self.bias


def learn_constant(
    seed: int, inputs: int, *, lora: bool = True, bias: bool = False, feature: bool = False
) -> ConstantRun:
    """Train on `inputs` random inputs towards the original output + 5, then look at 1,000 new ones.

    Equal seeds give equal layers, and equal inputs where their number is equal.
    """
    torch.manual_seed(seed)
    original = nn.Linear(WIDTH, WIDTH, bias=False).requires_grad_(requires_grad=False)
    x, new = torch.randn(inputs, WIDTH), torch.randn(_NEW_INPUTS, WIDTH)
    toy = Toy(original.weight, lora=lora, bias=bias, feature=feature)
    losses = _train(toy, x, original(x) + CONSTANT)
    layer = toy.layer
    with torch.no_grad():
        return ConstantRun(
            losses=losses,
            train_difference=toy(x) - original(x),
            heldout_difference=toy(new) - original(new),
            base_changed=not torch.equal(toy.frozen_weight[:, :WIDTH], original.weight),
            weight_norm=float(original.weight.norm()),
            change_norm=float(layer.delta().norm()) if isinstance(layer, LoraLayer) else 0.0,
        )


def _train(toy: Toy, x: Tensor, target: Tensor) -> tuple[float, ...]:
    optimizer = torch.optim.Adam([p for p in toy.parameters() if p.requires_grad], lr=LEARNING_RATE)
    losses = []
    for _ in range(EPOCHS):
        loss = functional.mse_loss(toy(x), target)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        losses.append(float(functional.mse_loss(toy(x), target)))
    return tuple(losses)
