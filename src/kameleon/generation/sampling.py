"""How the next token is chosen from the logits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

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
    """One request's choices, with a random stream of its own, and what they need of the tokens before: each choice
    costs the same, however long prompt and answer are.

    `constraint` is that of the request's form.
    """

    def __init__(self, request: Request, constraint: Constraint | None = None) -> None:
        one = self.sampling = request.sampling
        self._generator = new_generator(one.seed)
        self._seen = _Tokens(request.prompt) if one.repetition_penalty != 1 else None
        self._said = _Tokens() if one.presence_penalty or one.frequency_penalty else None
        self._biased = torch.tensor([token for token, _ in one.logit_bias], dtype=torch.int64)
        self._biases = torch.tensor([float(bias) for _, bias in one.logit_bias], dtype=torch.float32)
        self._constraint = constraint

    @property
    def greedy(self) -> bool:
        """Whether the choice is the most likely token, and nothing else is asked for."""
        one = self.sampling
        changed = one.repetition_penalty != 1 or one.presence_penalty or one.frequency_penalty or one.logit_bias
        return one.temperature == 0 and not changed and one.logprobs is None and self._constraint is None

    def choose(self, logits: Tensor) -> Choice:
        """The next token, from `logits` [vocab_size] fp32; it is part of the answer from now on. Raises SettingError
        where the constraint's grammar cannot be followed to its end."""
        changed = self._changed(logits)
        if self._constraint is not None:
            changed = self._constraint.apply(changed)
        token = choose(changed, self.sampling, self._generator)
        for tokens in (self._seen, self._said):
            if tokens is not None:
                tokens.add(token)
        count = self.sampling.logprobs
        ends = self._constraint is not None and self._constraint.take(token)
        return Choice(token, None if count is None else scores_of(logits[None], [token], alternatives=count)[0], ends)

    def _changed(self, logits: Tensor) -> Tensor:
        """Logits after penalties and biases."""
        one = self.sampling
        if self._seen is not None:
            seen = self._seen.tokens
            there = logits[seen]
            punished = torch.where(there > 0, there / one.repetition_penalty, there * one.repetition_penalty)
            punished = punished.nan_to_num()  # an extreme penalty goes beyond what fp32 holds
            logits = logits.index_put((seen,), punished)
        if self._said is not None:
            penalty = one.presence_penalty + one.frequency_penalty * self._said.times
            logits = logits.index_add(0, self._said.tokens, -penalty)
        if one.logit_bias:
            logits = logits.index_add(0, self._biased, self._biases)
        return logits


class _Tokens:
    """Different tokens and how often each has come; one more costs the same, however many there are."""

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        counts = Counter(tokens)
        self._places = {token: place for place, token in enumerate(counts)}
        self._tokens = torch.tensor(list(counts), dtype=torch.int64)
        self._times = torch.tensor(list(counts.values()), dtype=torch.float32)

    @property
    def tokens(self) -> Tensor:
        """[different tokens] int64, in the order in which they came."""
        return self._tokens[: len(self._places)]

    @property
    def times(self) -> Tensor:
        """[different tokens] fp32."""
        return self._times[: len(self._places)]

    def add(self, token: int) -> None:
        """`token` has come once more."""
        place = self._places.setdefault(token, len(self._places))
        if place == len(self._tokens):  # twice the room, so that copies stay rare
            room = max(64, place)
            self._tokens = torch.cat([self._tokens, torch.zeros(room, dtype=torch.int64)])
            self._times = torch.cat([self._times, torch.zeros(room)])
        self._tokens[place] = token
        self._times[place] += 1


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
    # The largest becomes 0 first, so that no temperature makes it infinite. In numpy, whose loops are of one thread:
    # two would wait for each other longer than this takes.
    numbers = logits.numpy()
    with np.errstate(over="ignore"):
        colder = (numbers - numbers.max()) / max(sampling.temperature, _LEAST)
    probabilities = torch.from_numpy(colder).softmax(-1)
    if sampling.top_p == 1 and not sampling.top_k:
        if sampling.min_p:
            probabilities = probabilities * (probabilities >= sampling.min_p * probabilities.max())
        return _draw(probabilities, generator)
    wanted = min(sampling.top_k or len(logits), len(logits))
    kept, tokens = probabilities.topk(min(wanted, _SORTED_FIRST))
    if len(kept) < wanted and float(kept.sum()) < sampling.top_p:
        kept, tokens = _sorted(probabilities)[:wanted], None
    # A token stays when those before it have not yet reached top_p; the first one always stays.
    before = kept.cumsum(-1) - kept
    mass = kept.sum() if sampling.top_k else 1.0
    stays = (before < sampling.top_p * mass) & (kept >= sampling.min_p * kept[0])
    stays[0] = True
    chosen = _draw(kept * stays, generator)
    if tokens is None:
        alike = (probabilities == kept[chosen]).nonzero()
        # Equal probabilities have the order that topk gives them, so that a seed's answer is always the same.
        return int(alike) if len(alike) == 1 else int(probabilities.topk(wanted).indices[chosen])
    return int(tokens[chosen])


def _draw(weights: Tensor, generator: torch.Generator) -> int:
    """An index of `weights` [n] fp32, with a probability in proportion to its weight: where their running sum passes a
    random share of the whole. torch.multinomial draws a number for each weight, which takes a hundred times as long."""
    sums = weights.numpy().cumsum(dtype=np.float64)
    share = float(torch.rand((), generator=generator, dtype=torch.float64)) * sums[-1]
    return int(sums.searchsorted(min(share, np.nextafter(sums[-1], 0)), side="right"))


def _sorted(numbers: Tensor) -> Tensor:
    """[n] fp32, the largest first. torch's sort and topk find the places too, and take nine times as long."""
    return torch.from_numpy(np.sort(numbers.numpy())[::-1].copy())


def scores_of(logits: Tensor, tokens: Sequence[int], *, alternatives: int) -> list[ScoredToken]:
    """The log-probability of each of `tokens` and of the `alternatives` most likely ones in its place, under its row of
    `logits` [tokens, vocab_size] fp32."""
    # Row by row: torch sums a single row in another order than several, and other requests decide how many there are.
    total = torch.stack([row.logsumexp(-1, keepdim=True) for row in logits])
    own = (logits.gather(1, torch.tensor(tokens)[:, None]) - total).flatten().tolist()
    best, which = logits.topk(alternatives)
    others = zip(which.tolist(), (best - total).tolist(), strict=True)
    return [
        ScoredToken(token, logprob, tuple(zip(*other, strict=True)))
        for token, logprob, other in zip(tokens, own, others, strict=True)
    ]
