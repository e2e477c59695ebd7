"""Scores of adapters on test sets: what was learned, and what was forgotten.

One pass over the right answers gives every score. The greedy answer equals the right one exactly when each of its
tokens is the most likely after those before it, so exact match needs no generation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from kameleon.adapters import Bank
from kameleon.data import Corpus, Example, Packed, pack
from kameleon.model import Base
from kameleon.ops import IGNORE, NO_ADAPTER, token_scores

GENERAL_TEXT = Path(__file__).with_name("general.jsonl")
"""Two dozen short everyday texts: the loss on them shows what an adapter has made the base forget."""

_MOST_CHOICES = 32


@dataclass(frozen=True)
class TestSet:
    """Encoded rows of one test set.

    `alternatives[i]` holds other right answers to row i. `choices` are the first tokens of all answers in the set,
    when these are few and start differently; else it is empty and there is no choice score.
    """

    __test__ = False  # not a test case, whatever pytest thinks of its name

    name: str
    examples: tuple[Example, ...]
    alternatives: tuple[tuple[Example, ...], ...]
    choices: tuple[int, ...]
    answer_bytes: int
    corpus: Corpus | None = None
    """What it was made of, where its rows take the system prompt of the adapter that answers."""


@dataclass(frozen=True)
class Score:
    """One adapter on one test set. `loss` is in nats per trained token; the shares are of all rows."""

    adapter: str | None
    testset: str
    rows: int
    loss: float
    bits_per_byte: float
    exact_match: float
    choice_accuracy: float | None

    @property
    def held_out(self) -> float:
        """The score that people quote: choice accuracy where the set has choices, else exact match."""
        return self.exact_match if self.choice_accuracy is None else self.choice_accuracy


def make_test_set(
    base: Base, name: str, examples: Sequence[Example], alternatives: Sequence[Sequence[Example]]
) -> TestSet:
    """A test set out of encoded rows (each with at least one trained token)."""
    answers = {tuple(_answer(example)) for example in examples}
    firsts = sorted({answer[0] for answer in answers})
    has_choices = len(answers) <= _MOST_CHOICES and len(firsts) == len(answers) < len(examples)
    text = (base.tokenizer.decode(_answer(example), skip_special_tokens=True) for example in examples)
    return TestSet(
        name,
        tuple(examples),
        tuple(tuple(more) for more in alternatives),
        tuple(firsts) if has_choices else (),
        sum(len(str(one).encode()) for one in text),
    )


def _answer(example: Example) -> list[int]:
    """The trained tokens that something precedes: those that are predicted."""
    return [token for token, trained in zip(example.tokens[1:], example.trained[1:], strict=True) if trained]


@dataclass(frozen=True)
class _RowScore:
    loss: float
    exact: bool
    chosen: int | None


@torch.inference_mode()
def evaluate(
    base: Base,
    bank: Bank,
    adapters: Sequence[str | None],
    test: TestSet,
    micro_batch_tokens: int = 1024,
    on_rows: Callable[[int], None] | None = None,
) -> list[Score]:
    """Score resident adapters (None: the plain base) on one test set, in the order given.

    Layers below the lowest adapted one are run once for all. `on_rows(n)` reports each (adapter, row) pair done.
    """
    others = [(i, other) for i, more in enumerate(test.alternatives) for other in more]
    examples = [*test.examples, *(other for _, other in others)]
    scored = _score_rows(base, bank, adapters, examples, test.choices, micro_batch_tokens, on_rows)
    return [_total(name, test, [i for i, _ in others], rows) for name, rows in zip(adapters, scored, strict=True)]


def _score_rows(
    base: Base,
    bank: Bank,
    adapters: Sequence[str | None],
    examples: Sequence[Example],
    choices: Sequence[int],
    micro_batch_tokens: int,
    on_rows: Callable[[int], None] | None,
) -> list[list[_RowScore]]:
    decoder, depth = base.decoder, base.config.num_layers
    slots = [bank.slot(name) for name in adapters]
    shared = min((bank.lowest_layer(slot) for slot in slots), default=0)
    scored: list[dict[int, _RowScore]] = [{} for _ in adapters]
    for packed in pack(examples, micro_batch_tokens, NO_ADAPTER):
        below = None
        if shared:
            below = decoder.run(decoder.embed(packed.tokens, packed.segments), packed.segments, layers=range(shared))
        for slot, rows in zip(slots, scored, strict=True):
            segments = replace(packed.segments, adapters=(slot,) * len(packed.segments.lengths))
            # An adapter that changes the embedding shares no layer.
            entering = decoder.embed(packed.tokens, segments, bank) if below is None else below
            hidden = decoder.finish(decoder.run(entering, segments, bank, layers=range(shared, depth)))
            rows |= _score_packed(base, bank, slot, hidden, packed, choices)
            if on_rows:
                on_rows(len(packed.spans))
    return [[rows[i] for i in range(len(examples))] for rows in scored]


def _score_packed(
    base: Base, bank: Bank, slot: int, hidden: Tensor, packed: Packed, choices: Sequence[int]
) -> dict[int, _RowScore]:
    trained = (packed.labels != IGNORE).nonzero().flatten()
    labels = packed.labels[trained]
    scores = token_scores(
        hidden[trained],
        lambda some: base.decoder.logits(some, [slot] * len(some), bank),
        labels,
        base.config.vocab_size,
        choices,
    )
    right = scores.argmax == labels
    rows = {}
    for row, start, stop in packed.spans:
        mine = (trained >= start) & (trained < stop)
        chosen = int(scores.choice[mine][0]) if choices else None
        rows[row] = _RowScore(-float(scores.logprob[mine].sum()), bool(right[mine].all()), chosen)
    return rows


def _total(name: str | None, test: TestSet, other_of: Sequence[int], rows: Sequence[_RowScore]) -> Score:
    count = len(test.examples)
    own, others = rows[:count], rows[count:]
    exact = {i for i, row in enumerate(own) if row.exact} | {
        i for i, row in zip(other_of, others, strict=True) if row.exact
    }
    firsts = [_answer(example)[0] for example in test.examples]
    loss = sum(row.loss for row in own)
    return Score(
        adapter=name,
        testset=test.name,
        rows=count,
        loss=loss / sum(len(_answer(example)) for example in test.examples),
        bits_per_byte=loss / math.log(2) / max(1, test.answer_bytes),
        exact_match=len(exact) / count,
        choice_accuracy=sum(r.chosen == first for r, first in zip(own, firsts, strict=True)) / count
        if test.choices
        else None,
    )
