"""One step of the optimiser: packed passes through the base, then every adapter's A and B move a little."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kameleon.adapters.resident import Bank
from kameleon.bases import Base
from kameleon.data import PackedPass
from kameleon.errors import NonFiniteLossError
from kameleon.ops import clear, keep_memory
from kameleon.training.losses import Loss, next_token_loss, pass_terms, summed
from kameleon.training.trainee import Trainee


@dataclass(frozen=True)
class StepResult:
    """Of one trainee: `loss` is the mean over its trained tokens, in nats; `tokens` counts all that went through the
    base for it."""

    loss: float
    grad_norm: float
    tokens: int
    trained_tokens: int


def train_step(
    base: Base,
    bank: Bank,
    trainees: Sequence[Trainee],
    passes: Sequence[PackedPass],
    *,
    learning_rates: Sequence[float],
    loss: Loss = next_token_loss,
    checkpoint_layers: int = 0,
) -> list[StepResult]:
    """Accumulate gradients over `passes` and step each trainee once. Its trained tokens weigh the same in every pass.

    Activation checkpointing: the first `checkpoint_layers` trained layers keep only their input and are recomputed in
    backward. If there are any, freed blocks go back to the system after each layer, and the gradient takes memory only
    as the backward pass writes it.

    Raises NonFiniteLossError, with that adapter as it was before, when a loss or its gradient is not finite.
    """
    sparing = checkpoint_layers > 0
    keep_memory(sparing=sparing)
    for trainee in trainees:
        clear(trainee.gradient, sparing=sparing)
    sums = [_Sums() for _ in trainees]
    for packed in passes:
        # The graph of a pass ends in this call: two passes are never in memory together.
        terms = _backward(base, bank, packed, loss, checkpoint_layers)
        for trainee, its in zip(trainees, sums, strict=True):
            its.add(trainee.slot, packed, terms)
    return [
        _update(bank, trainee, its, learning_rate)
        for trainee, its, learning_rate in zip(trainees, sums, learning_rates, strict=True)
    ]


@dataclass
class _Sums:
    """What the passes of one step hold for one trainee."""

    loss: float = 0.0
    tokens: int = 0
    trained_tokens: int = 0

    def add(self, slot: int, packed: PackedPass, terms: Tensor) -> None:
        segments = packed.segments
        mine = (torch.tensor(segments.adapters) == slot).repeat_interleave(torch.tensor(segments.lengths))
        self.loss += summed(terms[mine])
        self.tokens += int(mine.sum())
        self.trained_tokens += int(packed.trained[mine].sum())


def _backward(base: Base, bank: Bank, packed: PackedPass, loss: Loss, checkpoint_layers: int) -> Tensor:
    """The terms of one pass, their gradient added to those of the trainees."""
    terms = pass_terms(base.decoder, bank, packed, loss=loss, checkpoint_layers=checkpoint_layers)
    terms.sum().backward()
    return terms.detach()


def _update(bank: Bank, trainee: Trainee, its: _Sums, learning_rate: float) -> StepResult:
    norm = trainee.update(trained_tokens=its.trained_tokens, learning_rate=learning_rate)
    bank.renew(trainee.name)
    mean = its.loss / max(1, its.trained_tokens)
    if not (math.isfinite(mean) and math.isfinite(norm)):
        raise NonFiniteLossError(
            f"the loss is {mean} and its gradient's norm {norm}; the learning rate {learning_rate:.2g} may "
            "be too high: try a third of it, and look at the rows with `base.check(rows)`"
        )
    return StepResult(mean, norm, its.tokens, its.trained_tokens)
