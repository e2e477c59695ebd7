"""Which sequences are computed, and which of their tokens go through the base now. It knows pages, but no model.

Sequences are admitted in their order while there are pages for all of their tokens. When a running one needs a page and
none is free, the one that was admitted last is preempted: it loses its pages and is recomputed later. Owners share
places and prefills (see `shares`): when one waits that runs less than another, the last of that other is preempted for
it.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from kameleon.generation.pages import PagePool, pages_for
from kameleon.generation.request import Finish
from kameleon.generation.sequence import Sequence
from kameleon.generation.shares import Owner, Tally, split
from kameleon.ops import PAGE_TOKENS

_SCORED_SHARE = 4  # a scored position costs a row of the head and its softmax beside its way through the layers


class Scheduled(NamedTuple):
    """The next `tokens` tokens of a sequence, which has the pages for them."""

    sequence: Sequence
    tokens: int


class Scheduler:
    """The queue of waiting sequences and the list of running ones."""

    def __init__(self, pool: PagePool, *, max_sequences: int, prefill_chunk_tokens: int) -> None:
        self.pool = pool
        self._max_sequences, self._prefill_chunk_tokens = max_sequences, prefill_chunk_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preemptions = 0
        self._is_full = False  # whether some had to wait at the last step
        self._tally: Tally[Sequence] | None = None  # for `takes`, until something changes

    def takes(self, owner: Owner) -> bool:
        """Whether one more sequence of `owner` would be computed now: there is room, or another one gives way."""
        if not self._is_full and len(self.running) + len(self.waiting) < self._max_sequences:
            return True
        if self._tally is None:  # one of many flows may ask after the other
            self._tally = Tally(self.running, self.waiting)
        return self._tally.gives_way_to(owner) is not None

    def add(self, sequence: Sequence) -> None:
        """Put a sequence at the end of the queue."""
        self.waiting.append(sequence)
        self._tally = None

    def remove(self, request_id: int, finish: Finish) -> Sequence | None:
        """Take a sequence out and give back its pages. Returns None if no sequence has that id."""
        for sequences in (self.running, self.waiting):
            for sequence in sequences:
                if sequence.id == request_id:
                    self._tally = None
                    sequences.remove(sequence)
                    sequence.finish = finish
                    self._free(sequence)
                    return sequence
        return None

    def schedule(self) -> list[Scheduled]:
        """Admit, then choose the tokens of this step: one of each decoding sequence, a chunk of the prefilling ones.

        Neighbours in the list share an adapter where they can, so that its factors multiply them together.
        """
        self._tally = None
        self._admit()
        scheduled: list[Scheduled] = []
        tokens_of = self._prefills()
        for sequence in list(self.running):
            if sequence not in self.running:
                continue  # preempted for an earlier one
            tokens = tokens_of.get(sequence.id, min(sequence.left, 1))
            if tokens and self._make_room(sequence, tokens):
                scheduled.append(Scheduled(sequence, tokens))
        self._is_full = bool(self.waiting)
        return sorted((one for one in scheduled if one.sequence in self.running), key=lambda one: one.sequence.slot)

    def _prefills(self) -> dict[int, int]:
        """How many tokens of each prompt this step takes, by the sequence's id. Prompts that are scored share a part of
        the chunk, so that a step with them is not longer than others."""
        prefills = [one for one in self.running if one.left > 1]
        scored = [(one, one.left) for one in prefills if one.unscored]
        wishes = {one: one.left for one in prefills}
        wishes |= split(self._prefill_chunk_tokens // _SCORED_SHARE, scored)
        return {one.id: tokens for one, tokens in split(self._prefill_chunk_tokens, list(wishes.items()))}

    def advance(self, sequence: Sequence, tokens: int) -> None:
        """Note that the next `tokens` tokens are computed, and publish the pages that became full."""
        sequence.computed += tokens
        while (sequence.published + 1) * PAGE_TOKENS <= sequence.computed:
            at = sequence.published * PAGE_TOKENS
            page = sequence.pages[sequence.published]
            sequence.branch = self.pool.publish(sequence.branch, sequence.tokens[at : at + PAGE_TOKENS], page)
            sequence.published += 1

    def retire(self) -> None:
        """Take out the running sequences that have finished, and give back their pages."""
        for sequence in self.running:
            if sequence.finish is not None:
                self._free(sequence)
        self.running = [sequence for sequence in self.running if sequence.finish is None]
        self._tally = None

    def _admit(self) -> None:
        while self.waiting:
            tally = Tally(self.running)
            sequence = tally.first_of_least(self.waiting)
            if len(self.running) >= self._max_sequences and tally.gives_way_to(sequence.owner) is None:
                return
            wanted = () if sequence.needs_all_hidden else sequence.tokens
            found, branch = self.pool.find(sequence.prefix_key, wanted)
            # One page more than needed now: else the next token of another could preempt it at once.
            needed = pages_for(len(sequence.tokens) + 1) - len(found)
            while len(self.running) >= self._max_sequences or (needed > self.pool.available and self.running):
                last = Tally(self.running).gives_way_to(sequence.owner)
                if last is None:
                    self.pool.release(found)
                    return
                self._preempt(last)
            sequence.pages, sequence.branch, sequence.published = found, branch, len(found)
            sequence.computed = len(found) * PAGE_TOKENS
            if sequence.cached is None:
                sequence.cached = sequence.computed
            self.waiting.remove(sequence)
            self.running.append(sequence)

    def _make_room(self, sequence: Sequence, tokens: int) -> bool:
        """Take pages for `tokens` more, preempting the last admitted of those who run most. False: the sequence itself
        was preempted."""
        while len(sequence.pages) < pages_for(sequence.computed + tokens):
            page = self.pool.take()
            if page is not None:
                sequence.pages.append(page)
                continue
            last = Tally(self.running).last_of_most()
            self._preempt(last)
            if last is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._free(sequence)
        self.waiting.appendleft(sequence)
        self.preemptions += 1

    def _free(self, sequence: Sequence) -> None:
        self.pool.release(sequence.pages)
        sequence.pages, sequence.computed, sequence.published, sequence.hidden_sum = [], 0, 0, None
