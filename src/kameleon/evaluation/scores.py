"""Scores of adapters on test sets: what was learned, and what was forgotten.

One pass over the right answers gives every score. The greedy answer equals the right one exactly when each of its
tokens is the most likely after those before it, so exact match needs no generation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from kameleon.adapters.resident import Bank
from kameleon.bases import Base
from kameleon.data import Corpus, Example, PackedPass, pack, pack_groups
from kameleon.evaluation.choices import Answer, Choices, answer_of, find_choices
from kameleon.notebook import html_table
from kameleon.ops import NO_ADAPTER
from kameleon.terminal import printable
from kameleon.training.losses import score_tokens
from kameleon.words import first_few, short_repr

GENERAL_TEXT = Path(__file__).with_name("general.jsonl")
"""Two dozen short everyday texts: the loss on them shows what an adapter has made the base forget."""


@dataclass(frozen=True)
class TestSet:
    """Encoded rows of one test set.

    `alternatives[i]` holds other right answers to row i. `choices` are the answers of the rows if these are few; with
    None there is no choice score.
    """

    __test__ = False  # pytest takes a class of this name for a test case

    name: str
    examples: tuple[Example, ...] = field(repr=False)
    alternatives: tuple[tuple[Example, ...], ...] = field(repr=False)
    choices: Choices | None = field(repr=False)
    answer_bytes: int
    corpus: Corpus | None = None
    """Its rows before encoding, where they take the system prompt of the answering adapter."""

    __repr__ = short_repr

    @cached_property
    def sequences(self) -> tuple[tuple[Example, int], ...]:
        """All sequences that are scored, each with the place of its row: the rows, their other right answers, and, if
        whole answers are compared, their prompts with each other choice."""
        own = [(example, i) for i, example in enumerate(self.examples)]
        others = [(other, i) for i, more in enumerate(self.alternatives) for other in more]
        if self.choices is None:
            return (*own, *others)
        rivals = [(rival, i) for example, i in own for rival in self.choices.rivals(example, self.right_answers(i))]
        return (*own, *others, *rivals)

    def right_answers(self, place: int) -> frozenset[Answer]:
        """The tokens of each right answer to a row."""
        return frozenset(map(answer_of, (self.examples[place], *self.alternatives[place])))


@dataclass(frozen=True)
class Score:
    """One adapter on one test set. `loss` is in nats per trained token; exact match and accuracies are shares of rows.

    `choice_by` is "first_token" or "whole_answer": the log-probability that chooses between the set's answers.
    `choice_accuracy_per_byte` divides it by the bytes of the answer's text, not by its tokens: a rare word is cut into
    many tokens and would gain. It is None for first tokens. All three are None if the set has no choices.
    """

    adapter: str | None
    testset: str
    rows: int
    loss: float
    bits_per_byte: float
    exact_match: float
    choice_accuracy: float | None
    choice_accuracy_per_byte: float | None = None
    choice_by: str | None = None

    @property
    def held_out(self) -> float:
        """The headline score: choice accuracy if the set has choices, else exact match.

        Not the accuracy per byte: the model would say the most probable answer.
        """
        return self.exact_match if self.choice_accuracy is None else self.choice_accuracy


class Scores(list[Score]):
    """The scores of adapters on test sets; a notebook shows them as a table."""

    def __repr__(self) -> str:
        told = (f"{one.adapter or 'base'} on {one.testset} {one.held_out:.3f}" for one in self)
        return printable(f"Scores({first_few(told, 6)})")

    def _repr_html_(self) -> str:
        columns = ("adapter", "test set", "rows", "score", "of", "bits per byte")
        rows = (
            (
                one.adapter or "base",
                one.testset,
                one.rows,
                f"{one.held_out:.3f}",
                "exact answers" if one.choice_by is None else "choices",
                f"{one.bits_per_byte:.3f}",
            )
            for one in self
        )
        return html_table(columns, rows)


def make_test_set(
    base: Base, name: str, examples: Sequence[Example], alternatives: Sequence[Sequence[Example]]
) -> TestSet:
    """A test set of encoded rows. Each row has at least one trained token."""
    text = (base.tokenizer.decode(list(answer_of(example)), skip_special_tokens=True) for example in examples)
    return TestSet(
        name,
        tuple(examples),
        tuple(tuple(more) for more in alternatives),
        find_choices(base, examples),
        sum(len(str(one).encode()) for one in text),
    )


@dataclass(frozen=True)
class _RowScore:
    loss: float
    exact: bool
    chosen: int


@torch.inference_mode()
def evaluate(
    base: Base,
    bank: Bank,
    adapters: Sequence[str | None],
    test: TestSet,
    *,
    micro_batch_tokens: int = 1024,
    on_rows: Callable[[int], None] | None = None,
) -> list[Score]:
    """Score resident adapters (None: the plain base) on one test set, in the order given.

    Layers below the lowest adapted one run once for all adapters. `on_rows(n)` reports n more sequences that are scored
    with one adapter, of `len(test.sequences)` each.
    """
    examples = [example for example, _ in test.sequences]
    if test.choices is not None and test.choices.by == "whole_answer":
        groups: list[list[int]] = [[] for _ in test.examples]
        for at, (_, row) in enumerate(test.sequences):
            groups[row].append(at)
        passes = pack_groups(examples, groups, max_tokens=micro_batch_tokens, adapter=NO_ADAPTER)
    else:
        passes = pack(examples, micro_batch_tokens, adapter=NO_ADAPTER)
    firsts = test.choices.firsts if test.choices is not None else ()
    scored = _score_passes(base, bank, adapters, passes, firsts, on_rows)
    return [_total(name, test, rows) for name, rows in zip(adapters, scored, strict=True)]


def _score_passes(
    base: Base,
    bank: Bank,
    adapters: Sequence[str | None],
    passes: Sequence[PackedPass],
    choices: Sequence[int],
    on_rows: Callable[[int], None] | None,
) -> list[dict[int, _RowScore]]:
    decoder, depth = base.decoder, base.config.num_layers
    slots = [bank.slot(name) for name in adapters]
    shared = min((bank.lowest_layer(slot) for slot in slots), default=0)
    scored: list[dict[int, _RowScore]] = [{} for _ in adapters]
    for packed in passes:
        below = None
        if shared:
            below = decoder.run_layers(
                decoder.embed(packed.tokens, packed.segments), packed.segments, layers=range(shared)
            )
        for slot, rows in zip(slots, scored, strict=True):
            segments = replace(packed.segments, adapters=(slot,) * len(packed.segments.lengths))
            # For an adapter that changes the embedding `lowest_layer` is 0, so that `below` is None.
            entering = decoder.embed(packed.tokens, segments, bank) if below is None else below
            hidden = decoder.finish(decoder.run_layers(entering, segments, bank, layers=range(shared, depth)))
            rows |= _score_packed(base, bank, slot, hidden, packed, choices)
            if on_rows:
                on_rows(len(packed.spans))
    return scored


def _score_packed(
    base: Base, bank: Bank, slot: int, hidden: Tensor, packed: PackedPass, choices: Sequence[int]
) -> dict[int, _RowScore]:
    trained = packed.trained.nonzero().flatten()
    labels = packed.labels[trained]
    scores = score_tokens(base.decoder, bank, slot=slot, hidden=hidden[trained], labels=labels, choices=choices)
    right = scores.argmax == labels
    rows = {}
    for row, start, stop in packed.spans:
        mine = (trained >= start) & (trained < stop)
        rows[row] = _RowScore(-float(scores.logprob[mine].sum()), bool(right[mine].all()), int(scores.choice[mine][0]))
    return rows


def _total(name: str | None, test: TestSet, rows: Mapping[int, _RowScore]) -> Score:
    """The scores of a test set; `rows` has the score of each of `test.sequences` by its place."""
    count = len(test.examples)
    right = [test.right_answers(i) for i in range(count)]
    logprobs: list[dict[Answer, float]] = [{} for _ in right]
    exact: set[int] = set()
    for at, (example, row) in enumerate(test.sequences):
        answer = answer_of(example)
        logprobs[row][answer] = -rows[at].loss
        if rows[at].exact and answer in right[row]:
            exact.add(row)
    loss = sum(rows[i].loss for i in range(count))
    score = Score(
        adapter=name,
        testset=test.name,
        rows=count,
        loss=loss / sum(len(answer_of(example)) for example in test.examples),
        bits_per_byte=loss / math.log(2) / max(1, test.answer_bytes),
        exact_match=len(exact) / count,
        choice_accuracy=None,
    )
    choices = test.choices
    if choices is None:
        return score

    def share(taken: Iterable[Answer]) -> float:
        return sum(answer in answers for answer, answers in zip(taken, right, strict=True)) / count

    if choices.by == "first_token":
        chosen = (choices.with_first(rows[i].chosen) for i in range(count))
        return replace(score, choice_by=choices.by, choice_accuracy=share(chosen))
    return replace(
        score,
        choice_by=choices.by,
        choice_accuracy=share(choices.likeliest(one.__getitem__) for one in logprobs),
        choice_accuracy_per_byte=share(choices.likeliest_per_byte(one.__getitem__) for one in logprobs),
    )
