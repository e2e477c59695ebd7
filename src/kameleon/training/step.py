"""One step of the optimiser: packed rows in, A and B moved a little."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from kameleon.adapters import Adapter, Card, LoraFactors
from kameleon.adapters.resident import Bank, Resident, weight_norms
from kameleon.bases import Base
from kameleon.data import PackedPass
from kameleon.errors import NonFiniteLossError
from kameleon.model import DecoderConfig, module_shapes
from kameleon.ops import IGNORE, AdamW, clear, give_back_memory, keep_memory, linear_cross_entropy
from kameleon.training.recipe import Recipe, target_modules


def fresh_adapter(base: Base, name: str, recipe: Recipe, card: Card) -> Adapter:
    """An adapter that changes nothing yet, to the bit."""
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
    """A resident adapter being trained: its flat numbers, their gradient, and AdamW over both."""

    def __init__(self, resident: Resident, recipe: Recipe) -> None:
        self.resident = resident
        self.gradient = torch.zeros_like(resident.flat)  # [parameters] fp32, in the order of `resident.flat`
        at = 0
        for factor in resident.factors():
            # Autograd adds into these views, so that the whole gradient is one vector for clipping and AdamW.
            factor.requires_grad_()
            factor.grad = self.gradient[at : at + factor.numel()].view(factor.shape)
            at += factor.numel()
        self.adamw = AdamW.of(resident.flat, recipe.weight_decay)
        self._clip_norm = recipe.clip_norm

    def update(self, trained_tokens: int, learning_rate: float) -> float:
        """Turn the summed gradient into a mean over the step's trained tokens, clip it, step. Returns its norm."""
        return self.adamw.update(
            self.gradient, divisor=max(1, trained_tokens), clip_norm=self._clip_norm, learning_rate=learning_rate
        )


@dataclass(frozen=True)
class StepResult:
    """`loss` is the mean over the step's trained tokens, in nats; `tokens` counts all that went through the base."""

    loss: float
    grad_norm: float
    tokens: int
    trained_tokens: int


def train_step(
    base: Base,
    bank: Bank,
    trainee: Trainee,
    packs: Sequence[PackedPass],
    learning_rate: float,
    checkpoint_layers: int = 0,
) -> StepResult:
    """Accumulate over `packs` and step once; every trained token of the step weighs the same, however it is packed.

    Of so many layers as `checkpoint_layers` says, from the first that is trained on, only the input is stored, and they
    are run again in the backward pass. Any at all say that memory counts more than time: it is given back as soon as it
    is free. The gradient takes none before the backward pass brings it, layer by layer, while what was stored goes.

    Raises NonFiniteLossError, with the adapter as it was before, when the loss or its gradient is not finite.
    """
    sparing = checkpoint_layers > 0
    keep_memory(sparing=sparing)
    clear(trainee.gradient, sparing=sparing)
    loss, tokens, trained = 0.0, 0, 0
    for pack in packs:
        loss += _summed_loss(base, bank, pack, checkpoint_layers)
        tokens += len(pack.tokens)
        trained += int((pack.labels != IGNORE).sum())
    norm = trainee.update(trained, learning_rate)
    bank.renew(trainee.resident.name)
    mean = loss / max(1, trained)
    if not (math.isfinite(mean) and math.isfinite(norm)):
        raise NonFiniteLossError(
            f"the loss is {mean} and its gradient's norm {norm}; the learning rate {learning_rate:.2g} may "
            "be too high: try a third of it, and look at the rows with `kameleon data check`"
        )
    return StepResult(mean, norm, tokens, trained)


def _summed_loss(base: Base, bank: Bank, pack: PackedPass, checkpoint_layers: int) -> float:
    """The summed loss of one pass, its gradient added to the trainee's; nothing of the pass outlives the call."""
    hidden = base.decoder.hidden(pack.tokens, pack.segments, bank, checkpoint_layers=checkpoint_layers)
    summed = linear_cross_entropy(hidden, base.decoder.head, pack.labels, base.config.vocab_size)
    summed.backward()
    return summed.item()
