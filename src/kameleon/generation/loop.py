"""The one loop that generates: prompts in, a token for every unfinished sequence per turn, until all are done.

Sequences with different adapters share every pass through the base.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from kameleon.adapters import Bank
from kameleon.errors import SettingError
from kameleon.generation.kv_cache import KVCache
from kameleon.generation.sampling import choose, new_generator
from kameleon.model import Base
from kameleon.ops import Segments
from kameleon.settings import Sampling


@dataclass(frozen=True)
class Request:
    """A prompt, the resident adapter that answers it (None: the plain base), and how to sample."""

    prompt: tuple[int, ...]
    adapter: str | None = None
    sampling: Sampling = Sampling()  # noqa: RUF009 (frozen, so one shared default is safe)


@dataclass(frozen=True)
class Completion:
    """What was generated, without end tokens and stop strings. `finish` is "stop" or "length"."""

    text: str
    tokens: tuple[int, ...]
    finish: str


@dataclass(frozen=True)
class Piece:
    """New text of one request, as soon as it is certain; `completion` is set with its last piece."""

    request: int
    text: str
    completion: Completion | None = None


@dataclass
class _Sequence:
    index: int
    request: Request
    slot: int
    generator: torch.Generator
    tokens: list[int] = field(default_factory=list)
    shown: int = 0  # characters already given out
    finish: str | None = None

    @property
    def offset(self) -> int:
        """Tokens of this sequence that lie in the cache: all but the newest."""
        return len(self.request.prompt) + len(self.tokens) - 1 if self.tokens else 0

    @property
    def fresh(self) -> Sequence[int]:
        """Tokens that have not been through the decoder yet."""
        return self.tokens[-1:] if self.tokens else self.request.prompt


def stream(base: Base, bank: Bank, requests: Sequence[Request]) -> Iterator[Piece]:
    """Generate for all requests at once and yield text as it becomes certain.

    Greedy text of a request is what it would be alone, whatever else is in the batch (fp32).
    Raises AdapterNotFoundError for an adapter that is not resident, SettingError for an empty or too long prompt; both
    before anything is computed.
    """
    live = [_admit(base, bank, i, request) for i, request in enumerate(requests)]
    if not live:
        return
    capacity = max(len(s.request.prompt) + s.request.sampling.max_tokens for s in live)
    cache = KVCache(base.config, len(live), min(capacity, base.config.max_sequence_tokens), base.compute_dtype)
    while live:
        _step(base, bank, cache, live)
        yield from (piece for sequence in live if (piece := _piece(base, sequence)))
        left = [i for i, sequence in enumerate(live) if sequence.finish is None]
        if left and len(left) < len(live):
            cache.keep(left)
        live = [live[i] for i in left]


def generate(base: Base, bank: Bank, requests: Sequence[Request]) -> list[Completion]:
    """`stream`, run until done; completions in the order of the requests."""
    done = {p.request: p.completion for p in stream(base, bank, requests) if p.completion is not None}
    return [done[i] for i in range(len(requests))]


def _admit(base: Base, bank: Bank, index: int, request: Request) -> _Sequence:
    limit = base.config.max_sequence_tokens
    if not request.prompt:
        raise SettingError(f"prompt {index} is empty; give it at least one token")
    if len(request.prompt) >= limit:
        raise SettingError(f"prompt {index} has {len(request.prompt)} tokens; this base takes fewer than {limit}")
    return _Sequence(index, request, bank.slot(request.adapter), new_generator(request.sampling.seed))


@torch.inference_mode()
def _step(base: Base, bank: Bank, cache: KVCache, live: list[_Sequence]) -> None:
    """One pass through the base: every live sequence gets its next token."""
    segments = Segments(
        tuple(len(s.fresh) for s in live), tuple(s.slot for s in live), offsets=tuple(s.offset for s in live)
    )
    tokens = torch.tensor([t for s in live for t in s.fresh])
    hidden = base.decoder.hidden(tokens, segments, bank, cache)
    logits = base.decoder.logits(hidden[segments.last])
    limit, stops = base.config.max_sequence_tokens, base.stop_token_ids
    for sequence, row in zip(live, logits, strict=True):
        token = choose(row, sequence.request.sampling, sequence.generator)
        if token in stops:
            sequence.finish = "stop"
            continue
        sequence.tokens.append(token)
        held = len(sequence.request.prompt) + len(sequence.tokens)
        if len(sequence.tokens) == sequence.request.sampling.max_tokens or held == limit:
            sequence.finish = "length"


def _piece(base: Base, sequence: _Sequence) -> Piece | None:
    """The text that became certain in this turn, or None; looks for stop strings."""
    text = str(base.tokenizer.decode(sequence.tokens, skip_special_tokens=True))
    stops = sequence.request.sampling.stop
    found = min((at for stop in stops if (at := text.find(stop)) >= 0), default=None)
    if found is not None:
        text, sequence.finish = text[:found], "stop"
    certain = len(text)
    if sequence.finish is None:
        certain = _certain(text, stops)
    new = text[sequence.shown : certain]
    sequence.shown = max(sequence.shown, certain)
    if sequence.finish is not None:
        return Piece(sequence.index, new, Completion(text, tuple(sequence.tokens), sequence.finish))
    return Piece(sequence.index, new) if new else None


def _certain(text: str, stops: Sequence[str]) -> int:
    """How much of `text` no later token can change: half a character or half a stop string waits at the end."""
    end = len(text.rstrip("\N{REPLACEMENT CHARACTER}"))
    for stop in stops:
        for length in range(len(stop) - 1, 0, -1):
            if text.endswith(stop[:length]):
                end = min(end, len(text) - length)
    return end
