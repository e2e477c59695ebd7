"""Adapters in training: a fresh one, and the state of its optimiser."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from kameleon.adapters import Adapter, Card, LoraFactors
from kameleon.adapters.resident import Bank, weight_norms
from kameleon.bases import Base
from kameleon.model import DecoderConfig, module_shapes
from kameleon.ops import AdamW, give_back_memory
from kameleon.settings import Recipe
from kameleon.training.recipe import target_modules


def fresh_adapter(base: Base, name: str, recipe: Recipe, card: Card) -> Adapter:
    """An adapter with which the base computes the same bits as without it."""
    factors = fresh_factors(base.config, recipe)
    if recipe.variant == "dora":
        factors = {module: replace(f, magnitude=weight_norms(base, module)) for module, f in factors.items()}
        give_back_memory()  # the norms' matrices of many sizes leave holes, on SmolLM2 a quarter of a gigabyte
    return Adapter(name, factors, card)


def fresh_factors(config: DecoderConfig, recipe: Recipe) -> dict[str, LoraFactors]:
    """A ~ U(−1/√in, 1/√in) as in PEFT (Kaiming with a = √5), B = 0."""
    generator = torch.Generator().manual_seed(recipe.seed)
    shapes = module_shapes(config)
    modules = {}
    for module in target_modules(config, recipe):
        out_size, in_size = shapes[module]
        bound = 1 / math.sqrt(in_size)
        a = torch.empty(recipe.rank, in_size).uniform_(-bound, bound, generator=generator)
        modules[module] = LoraFactors(a, torch.zeros(out_size, recipe.rank), recipe.alpha)
    return modules


class Trainee:
    """A resident adapter in training: its slot in the bank, its flat numbers, their gradient, and AdamW over both."""

    def __init__(self, bank: Bank, name: str, recipe: Recipe) -> None:
        self.name, self.slot = name, bank.slot(name)
        self.resident = resident = bank.resident(name)
        self.gradient = torch.zeros_like(resident.flat)  # [parameters] fp32, in the order of `resident.flat`
        at = 0
        for factor in resident.factors():
            # Autograd adds into these views, so that the whole gradient is one vector for clipping and AdamW.
            factor.requires_grad_()
            factor.grad = self.gradient[at : at + factor.numel()].view(factor.shape)
            at += factor.numel()
        self.adamw = AdamW.of(resident.flat, recipe.weight_decay)
        self._clip_norm = recipe.clip_norm

    def update(self, *, trained_tokens: int, learning_rate: float) -> float:
        """Turn the summed gradient into a mean over the step's trained tokens, clip it, step. Returns its norm."""
        return self.adamw.update(
            self.gradient, divisor=max(1, trained_tokens), clip_norm=self._clip_norm, learning_rate=learning_rate
        )
