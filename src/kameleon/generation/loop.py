"""Prompts to answers: steps of a `Batch` until it is empty."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kameleon.adapters.resident import Bank
from kameleon.bases import Base
from kameleon.generation.pages import page_bytes, pages_for
from kameleon.generation.request import Completion, Piece, Request
from kameleon.generation.step import Batch

_MAX_SEQUENCES = 64


def stream(base: Base, bank: Bank, requests: Sequence[Request]) -> Iterator[Piece]:
    """Generate for all requests and yield text as it becomes certain; `Piece.request` counts them from 0.

    Greedy text of a request is what it would be alone: the others in the batch change nothing.
    Raises AdapterNotFoundError for an adapter that is not resident, SettingError for an empty or too long prompt; both
    before anything is computed; and AdapterMismatchError when logits become NaN.
    """
    if not requests:
        return
    limit = base.config.max_sequence_tokens
    longest = sorted((min(len(r.prompt) + r.sampling.max_tokens, limit) for r in requests), reverse=True)
    pages = sum(pages_for(tokens + 1) for tokens in longest[:_MAX_SEQUENCES])
    kv_cache_bytes = pages * page_bytes(base.config, base.compute_dtype)
    batch = Batch(base, bank, kv_cache_bytes=kv_cache_bytes, max_sequences=_MAX_SEQUENCES)
    for i, request in enumerate(requests):
        batch.add(request, bank.slot(request.adapter), request_id=i)
    while not batch.idle:
        for piece in batch.step():
            if piece.error is not None:
                raise piece.error
            yield piece


def generate(base: Base, bank: Bank, requests: Sequence[Request]) -> list[Completion]:
    """`stream`, run until done; completions in the order of the requests."""
    done = {p.request: p.completion for p in stream(base, bank, requests) if p.completion is not None}
    return [done[i] for i in range(len(requests))]
