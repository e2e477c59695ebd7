"""The input and the output of generation, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from kameleon.errors import KameleonError
from kameleon.settings import Sampling
from kameleon.words import short_repr

Finish = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Request:
    """A prompt, the adapter that answers it (None: the plain base), and how to sample."""

    prompt: tuple[int, ...]
    adapter: str | None = None
    sampling: Sampling = Sampling()  # noqa: RUF009 (frozen, so one shared default is safe)
    embed: bool = False
    """Only the mean of the prompt's final hidden states is wanted; nothing is generated."""
    score_prompt: bool = False
    """The tokens of the prompt are scored too, with as many alternatives as `Sampling.logprobs` says."""

    __repr__ = short_repr


@dataclass(frozen=True)
class ScoredToken:
    """A token with the natural logarithm of its probability, and the most likely tokens in its place.

    Probabilities are the model's own, before temperature, penalties, biases and constraints.
    """

    token: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Completion:
    """What was generated, without end tokens and stop strings.

    `finish`: "stop" at an end token, a stop string or a constraint's end; "length" at a limit of tokens or time;
    "cancelled". `scores` has one entry a token if `Sampling.logprobs` asked for them.
    """

    text: str
    tokens: tuple[int, ...]
    finish: Finish
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Tokens of the prompt whose keys and values an earlier request of the same adapter had left in the cache."""
    scores: tuple[ScoredToken, ...] = ()
    embedding: Tensor | None = field(default=None, compare=False)
    """[hidden_size] fp32, for a request that asked to `embed`."""
    prompt_scores: tuple[ScoredToken, ...] = ()
    """Of the prompt's tokens from the second on, for a request that asked to `score_prompt`. `scores` then has an entry
    for the end token as well, which `tokens` leaves out: texts are scored position by position."""

    __repr__ = short_repr


@dataclass(frozen=True)
class Piece:
    """New text of one request, as soon as no later token can change it; `completion` is set with its last piece.

    `tokens` (and `scores`, if asked for) are those generated since the piece before; the first piece has
    `prompt_scores`, if asked for. `error` instead of a completion ends a request that cannot be answered.
    """

    request: int
    """The request's id."""
    text: str
    completion: Completion | None = None
    tokens: tuple[int, ...] = ()
    scores: tuple[ScoredToken, ...] = ()
    error: KameleonError | None = None
    prompt_scores: tuple[ScoredToken, ...] = ()

    __repr__ = short_repr
