"""How the next token is chosen from the logits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kameleon.bases import Base
from kameleon.generation.constraint import Constraint
from kameleon.generation.request import Request, ScoredToken
from kameleon.settings import Sampling

# Sorting a whole vocabulary takes milliseconds; nearly always the mass that is asked for lies in fewer tokens.
_SORTED_FIRST = 1024
_LEAST = torch.finfo(torch.float32).tiny  # a smaller temperature would be 0 in fp32


class Choice(NamedTuple):
    """A token, its score if that was asked for, and whether the answer's constraint is fulfilled with it."""

    token: int
    score: ScoredToken | None = None
    ends: bool = False


class Chooser:
    """One request's choices, with a random stream of its own. Raises SettingError, MissingExtraError for a constraint
    that cannot be followed."""

    def __init__(self, request: Request, base: Base) -> None:
        self.sampling = request.sampling
        self._generator = new_generator(self.sampling.seed)
        self._prompt = frozenset(request.prompt) if self.sampling.repetition_penalty != 1 else frozenset[int]()
        constrained = self.sampling.json_schema is not None or self.sampling.regex is not None
        self._constraint = Constraint(self.sampling, base) if constrained else None

    @property
    def greedy(self) -> bool:
        """Whether the choice is the most likely token, and nothing else is asked for."""
        one = self.sampling
        changed = one.repetition_penalty != 1 or one.presence_penalty or one.frequency_penalty or one.logit_bias
        return one.temperature == 0 and not changed and one.logprobs is None and self._constraint is None

    def choose(self, logits: Tensor, answer: Sequence[int]) -> Choice:
        """The next token after `answer`, from `logits` [vocab_size] fp32. Raises SettingError where the constraint's
        grammar cannot be followed to its end."""
        changed = self._changed(logits, answer)
        if self._constraint is not None:
            changed = self._constraint.apply(changed)
        token = choose(changed, self.sampling, self._generator)
        count = self.sampling.logprobs
        ends = self._constraint is not None and self._constraint.take(token)
        return Choice(token, None if count is None else scores_of(logits[None], [token], alternatives=count)[0], ends)

    def _changed(self, logits: Tensor, answer: Sequence[int]) -> Tensor:
        """Logits after penalties and biases."""
        one, counts = self.sampling, Counter(answer)
        if one.repetition_penalty != 1 and (self._prompt or counts):
            seen = torch.tensor(sorted(self._prompt | counts.keys()))
            there = logits[seen]
            punished = torch.where(there > 0, there / one.repetition_penalty, there * one.repetition_penalty)
            punished = punished.nan_to_num()  # an extreme penalty goes beyond what fp32 holds
            logits = logits.index_put((seen,), punished)
        if counts and (one.presence_penalty or one.frequency_penalty):
            seen = torch.tensor(list(counts))
            times = torch.tensor(list(counts.values()), dtype=torch.float32)
            logits = logits.index_add(0, seen, -(one.presence_penalty + one.frequency_penalty * times))
        if one.logit_bias:
            tokens, biases = zip(*one.logit_bias, strict=True)
            logits = logits.index_add(0, torch.tensor(tokens), torch.tensor(biases))
        return logits


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
    # The largest becomes 0 first, so that no temperature makes it infinite.
    probabilities = ((logits - logits.max()) / max(sampling.temperature, _LEAST)).softmax(-1)
    if sampling.top_p == 1 and not sampling.top_k:
        probabilities = probabilities * (probabilities >= sampling.min_p * probabilities.max())
        return int(torch.multinomial(probabilities, 1, generator=generator))
    wanted = min(sampling.top_k or len(logits), len(logits))
    kept, tokens = probabilities.topk(min(wanted, _SORTED_FIRST))
    if len(kept) < wanted and float(kept.sum()) < sampling.top_p:
        kept, tokens = probabilities.topk(wanted)
    # A token stays when those before it have not yet reached top_p; the first one always stays.
    before = kept.cumsum(-1) - kept
    mass = kept.sum() if sampling.top_k else 1.0
    stays = (before < sampling.top_p * mass) & (kept >= sampling.min_p * kept[0])
    stays[0] = True
    kept = kept * stays
    return int(tokens[torch.multinomial(kept, 1, generator=generator)])


def scores_of(logits: Tensor, tokens: Sequence[int], *, alternatives: int) -> list[ScoredToken]:
    """The log-probability of each of `tokens` and of the `alternatives` most likely ones in its place, under its row of
    `logits` [tokens, vocab_size] fp32."""
    total = logits.logsumexp(-1, keepdim=True)
    own = (logits.gather(1, torch.tensor(tokens)[:, None]) - total).flatten().tolist()
    best, which = logits.topk(alternatives)
    others = zip(which.tolist(), (best - total).tolist(), strict=True)
    return [
        ScoredToken(token, logprob, tuple(zip(*other, strict=True)))
        for token, logprob, other in zip(tokens, own, others, strict=True)
    ]
