"""Examples to packed passes: many short sequences in one row of tokens, without padding; none attends to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import NamedTuple

import torch
from torch import Tensor

from kameleon.data.encode import Example
from kameleon.ops import IGNORE, NO_PARENT, Segments

# A shorter shared beginning is not worth a segment of its own.
_SHORTEST_PREFIX_TOKENS = 8


class RowSpan(NamedTuple):
    """The place of an example's own tokens: `start:stop` of the pass. `row` is its place among the packed examples."""

    row: int
    start: int
    stop: int


@dataclass(frozen=True)
class PackedPass:
    """One pass through the base.

    `tokens` [tokens] int64. `labels` [tokens] int64: the next token if it is trained, else IGNORE.
    A row ends before its last trained token: neither that token nor those behind it predict a trained one.
    """

    tokens: Tensor
    labels: Tensor
    segments: Segments
    spans: tuple[RowSpan, ...]

    @property
    def trained(self) -> Tensor:
        """[tokens] bool: whether the token's label is learned."""
        return self.labels != IGNORE

    @property
    def weights(self) -> Tensor:
        """[tokens] fp64: the weight of each token's label in the loss, 1 where it is learned and 0 elsewhere."""
        return self.trained.double()

    @property
    def trained_tokens(self) -> int:
        """The number of learned labels."""
        return int(self.trained.sum())


def pack(examples: Sequence[Example], max_tokens: int, *, adapter: int) -> list[PackedPass]:
    """Lay examples out in passes of at most `max_tokens` tokens (a longer example gets a pass of its own).

    Examples are ordered by length, so that attention pads little. The untrained tokens that all examples begin with are
    stored once in a pass, as the parent segment of the others.
    """
    order = sorted(range(len(examples)), key=lambda i: _needed_tokens(examples[i]))
    shared = _shared_prefix_tokens(examples)
    passes: list[list[int]] = []
    used = 0
    for i in order:
        own = _needed_tokens(examples[i]) - shared
        if not passes or used + own > max_tokens:
            passes.append([])
            used = shared
        passes[-1].append(i)
        used += own
    return [_lay_out(examples, members, shared if len(members) > 1 else 0, adapter) for members in passes]


def pack_groups(
    examples: Sequence[Example], groups: Sequence[Sequence[int]], *, max_tokens: int, adapter: int
) -> list[PackedPass]:
    """Like `pack`, for groups of places in `examples`. The tokens that a group begins with are stored once for that
    group: a prompt, before all the answers that are compared."""
    passes: list[list[PackedPass]] = []
    used = 0
    for group in groups:
        for part in pack([examples[i] for i in group], max_tokens, adapter=adapter):
            if not passes or used + len(part.tokens) > max_tokens:
                passes.append([])
                used = 0
            passes[-1].append(replace(part, spans=tuple(span._replace(row=group[span.row]) for span in part.spans)))
            used += len(part.tokens)
    return [_join(parts) for parts in passes]


def _join(parts: Sequence[PackedPass]) -> PackedPass:
    lengths: list[int] = []
    adapters: list[int] = []
    parents: list[int] = []
    spans: list[RowSpan] = []
    at = 0
    for part in parts:
        parents += [parent if parent == NO_PARENT else parent + len(lengths) for parent in part.segments.parents]
        lengths += part.segments.lengths
        adapters += part.segments.adapters
        spans += [RowSpan(row, start + at, stop + at) for row, start, stop in part.spans]
        at += len(part.tokens)
    tokens, labels = (torch.cat(some) for some in zip(*((p.tokens, p.labels) for p in parts), strict=True))
    return PackedPass(tokens, labels, Segments(tuple(lengths), tuple(adapters), tuple(parents)), tuple(spans))


def _needed_tokens(example: Example) -> int:
    """How many tokens stand before the last trained one, which they help to predict; all if none is trained."""
    return max((at for at, trained in enumerate(example.trained) if trained and at), default=len(example.tokens))


def _shared_prefix_tokens(examples: Sequence[Example]) -> int:
    """How many untrained tokens all examples begin with; 0 if that is not worth a segment.

    The last shared token predicts nothing trained, since a label there would belong to one example only.
    """
    if len(examples) < 2:
        return 0
    shortest, longest = min(e.tokens for e in examples), max(e.tokens for e in examples)
    # The first and the last in lexical order agree on what all agree on.
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(shortest, longest, strict=False)))
    untrained = min(next((at for at, t in enumerate(e.trained) if t), len(e.tokens)) for e in examples)
    shared = min(common, untrained - 1, min(_needed_tokens(e) for e in examples) - 1)
    return shared if shared >= _SHORTEST_PREFIX_TOKENS else 0


def _lay_out(examples: Sequence[Example], members: Sequence[int], shared: int, adapter: int) -> PackedPass:
    tokens: list[int] = []
    labels: list[int] = []
    lengths: list[int] = []
    spans: list[RowSpan] = []
    if shared:
        tokens += examples[members[0]].tokens[:shared]
        labels += [IGNORE] * shared
        lengths.append(shared)
    for i in members:
        example, stop = examples[i], _needed_tokens(examples[i])
        spans.append(RowSpan(i, len(tokens), len(tokens) + stop - shared))
        tokens += example.tokens[shared:stop]
        following = [t if trained else IGNORE for t, trained in zip(example.tokens, example.trained, strict=True)]
        labels += [*following, IGNORE][shared + 1 : stop + 1]
        lengths.append(stop - shared)
    count = len(lengths)
    parents = (NO_PARENT, *([0] * (count - 1))) if shared else ()
    segments = Segments(tuple(lengths), (adapter,) * count, parents)
    return PackedPass(torch.tensor(tokens), torch.tensor(labels), segments, tuple(spans))
