"""How the next token is chosen from the logits."""

from __future__ import annotations

import torch
from torch import Tensor

from kameleon.settings import Sampling


def new_generator(seed: int | None) -> torch.Generator:
    """A random stream of its own for one request."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def choose(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """The next token from `logits` [vocab_size] fp32."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    ordered, tokens = (logits / sampling.temperature).sort(descending=True)
    probabilities = ordered.softmax(-1)
    if sampling.top_k:
        probabilities[sampling.top_k :] = 0
    # A token stays when those before it have not yet reached top_p; the first one always stays.
    before = probabilities.cumsum(-1) - probabilities
    probabilities[before >= sampling.top_p * probabilities.sum()] = 0
    return int(tokens[torch.multinomial(probabilities, 1, generator=generator)])
