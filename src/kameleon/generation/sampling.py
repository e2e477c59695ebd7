"""How the next token is chosen from the logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kameleon.errors import SettingError


@dataclass(frozen=True)
class Sampling:
    """One request's wishes. The default is greedy: the most likely token, the same every time."""

    max_tokens: int = 256
    """Stop after so many new tokens."""
    temperature: float = 0.0
    """0 is greedy; 1 samples from the model's own distribution; higher is wilder."""
    top_p: float = 1.0
    """Sample only from the most likely tokens that together reach this probability (arXiv:1904.09751)."""
    top_k: int = 0
    """Sample only from this many most likely tokens; 0 means all."""
    seed: int | None = None
    """The same seed gives the same text, whatever else is in the batch; None draws a new one."""
    stop: tuple[str, ...] = ()
    """Stop before any of these strings; the base's own end tokens always stop."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise SettingError(f"max_tokens is {self.max_tokens}; it must be at least 1")
        if not self.temperature >= 0:
            raise SettingError(f"temperature is {self.temperature}; it must be 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise SettingError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if self.top_k < 0:
            raise SettingError(f"top_k is {self.top_k}; it must be 0 (all) or more")
        if "" in self.stop:
            raise SettingError("an empty stop string would stop everything; leave it out")


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
