"""Losses: what training minimises, a look measures and the plan times, each out of per-token log-probabilities.

A loss is a function of the log-probabilities of a packed pass and of the pass itself, and returns one term a token, so
that the terms of one adapter can be summed apart from those of another in the same pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from kameleon.data import PackedPass
from kameleon.model.decoder import Decoder, SidePaths
from kameleon.ops import TokenScores, linear_cross_entropy, token_scores

Loss = Callable[[Tensor, PackedPass], Tensor]
"""(log-probabilities [tokens] fp64 of the labels, 0 where there is none; their pass) to terms [tokens] fp64."""


def token_logprobs(decoder: Decoder, hidden: Tensor, labels: Tensor) -> Tensor:
    """log p(label) under the base's head, [tokens] fp64, with a gradient for `hidden` [tokens, hidden_size].

    0 where a label is IGNORE; such rows skip the head.
    """
    return -linear_cross_entropy(hidden, decoder.head, labels, decoder.config.vocab_size)


def next_token_loss(logprobs: Tensor, packed: PackedPass) -> Tensor:
    """−w · log p(label) of each token, w its weight: the loss of supervised fine-tuning, in nats."""
    return -packed.weights * logprobs


def pass_terms(
    decoder: Decoder,
    adapters: SidePaths,
    packed: PackedPass,
    *,
    loss: Loss = next_token_loss,
    checkpoint_layers: int = 0,
) -> Tensor:
    """The terms of `loss` over one pass through the base, [tokens] fp64, with gradients for the adapters' factors."""
    hidden = decoder.hidden(packed.tokens, packed.segments, adapters, checkpoint_layers=checkpoint_layers)
    return loss(token_logprobs(decoder, hidden, packed.labels), packed)


def summed(terms: Tensor) -> float:
    """Σ terms of one pass, rounded to fp32, as logs and checkpoints have always had it."""
    return float(terms.sum().float())


@torch.inference_mode()
def mean_loss(
    decoder: Decoder, adapters: SidePaths, passes: Iterable[PackedPass], *, loss: Loss = next_token_loss
) -> float:
    """Mean over the trained tokens of all passes, in nats."""
    total, tokens = 0.0, 0
    for packed in passes:
        total += summed(pass_terms(decoder, adapters, packed, loss=loss))
        tokens += packed.trained_tokens
    return total / max(1, tokens)


def score_tokens(
    decoder: Decoder, adapters: SidePaths, *, slot: int, hidden: Tensor, labels: Tensor, choices: Sequence[int] = ()
) -> TokenScores:
    """Log-probability, most likely token, and likeliest of `choices`, under the head of the adapter in `slot`.

    `hidden` [tokens, hidden_size]; `labels` [tokens] int64. No gradient.
    """

    def logits(some: Tensor) -> Tensor:
        return decoder.logits(some, [slot] * len(some), adapters)

    return token_scores(hidden, logits, labels, decoder.config.vocab_size, choices)
