"""The packed batch: one flat row of tokens, cut into segments.

A segment is a run of tokens of one sequence and one adapter (or of none: the plain base). Training packs many rows,
serving packs many requests, and both are the same thing to every operator.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch

IGNORE = -100  # the label of a token that is not trained
NO_ADAPTER = -1
NO_PARENT = -1


class AdapterSpan(NamedTuple):
    """Neighbouring tokens `start:stop` that go through the same adapter slot."""

    start: int
    stop: int
    adapter: int


@dataclass(frozen=True)
class Segments:
    """Where each sequence lies in a packed row of `tokens` tokens.

    `lengths[i]`   tokens of segment i that are in this row (0 is allowed: an empty segment changes nothing).
    `adapters[i]`  adapter slot of segment i, `NO_ADAPTER` for the plain base.
    `parents[i]`   an earlier segment whose tokens stand before segment i in its sequence, `NO_PARENT` for none.
                   Rows that open with the same tokens (a system prompt) share them, forward and backward.
    `offsets[i]`   position of its first token: its parent's length, or the tokens it already has in a KV cache.
    """

    lengths: tuple[int, ...]
    adapters: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    offsets: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.lengths)
        if not self.adapters:
            object.__setattr__(self, "adapters", (NO_ADAPTER,) * count)
        if not self.parents:
            object.__setattr__(self, "parents", (NO_PARENT,) * count)
        if not self.offsets:
            object.__setattr__(self, "offsets", tuple(0 if p == NO_PARENT else self.lengths[p] for p in self.parents))
        assert len(self.adapters) == len(self.parents) == len(self.offsets) == count, "one of each per segment"
        for i, parent in enumerate(self.parents):
            if parent != NO_PARENT:
                assert parent < i and self.parents[parent] == NO_PARENT, "a parent comes first and has no parent"
                assert self.adapters[parent] == self.adapters[i], "a parent goes through its children's adapter"

    @property
    def tokens(self) -> int:
        """Tokens of all segments."""
        return sum(self.lengths)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Where each segment begins in the packed row."""
        starts, at = [], 0
        for length in self.lengths:
            starts.append(at)
            at += length
        return tuple(starts)

    @cached_property
    def positions(self) -> torch.Tensor:
        """[tokens] int64: the position of each token in its own sequence, for rotary embedding."""
        parts = [torch.arange(o, o + n) for o, n in zip(self.offsets, self.lengths, strict=True)]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)

    @cached_property
    def spans(self) -> tuple[AdapterSpan, ...]:
        """Neighbouring segments of one adapter joined; tokens of the plain base are in no span."""
        spans: list[AdapterSpan] = []
        for start, length, adapter in zip(self.starts, self.lengths, self.adapters, strict=True):
            if adapter == NO_ADAPTER or length == 0:
                continue
            if spans and spans[-1].stop == start and spans[-1].adapter == adapter:
                spans[-1] = spans[-1]._replace(stop=start + length)
            else:
                spans.append(AdapterSpan(start, start + length, adapter))
        return tuple(spans)

    @cached_property
    def last(self) -> torch.Tensor:
        """[segments] int64: index of each segment's last token (no segment may be empty)."""
        return torch.tensor([s + n - 1 for s, n in zip(self.starts, self.lengths, strict=True)])
