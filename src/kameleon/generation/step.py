"""One step of generation after the other: requests join and leave between any two of them.

Each step is one pass through the base: a token of every answer that is decoded, and a chunk of the prompts that are
prefilled. Requests with different adapters share it. A request's answer does not depend on the others.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from itertools import groupby
from numbers import Integral

import torch

from kameleon.adapters.resident import Bank
from kameleon.bases import Base
from kameleon.errors import ContextLengthError, KameleonError, RequestFaultError, SettingError
from kameleon.generation.grammars import grammars_of
from kameleon.generation.pages import PagePool, page_bytes
from kameleon.generation.request import Finish, Piece, Request
from kameleon.generation.sampling import Choice, Chooser, scores_of
from kameleon.generation.scheduler import Scheduled, Scheduler
from kameleon.generation.sequence import Sequence
from kameleon.generation.shares import Owner
from kameleon.generation.text import TextStream
from kameleon.ops import PAGE_TOKENS, Segments, chunk_rows
from kameleon.text import TokenBytes


@contextmanager
def _own_part(sequence: Sequence) -> Iterator[None]:
    """The boundary between requests: an exception in one request's own part of a step is the error of that request, and
    the others go on. The pass that all share lies outside; a fault there ends the batch."""
    try:
        yield
    except KameleonError as error:
        sequence.fail(error)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 (a panic of the grammars' library is no Exception)
        fault = RequestFaultError(f"this request failed within Kameleon: {error!r}; the others go on")
        fault.__cause__ = error
        sequence.fail(fault)


class Batch:
    """Requests that are computed together. Not safe for several threads at once.

    What goes wrong with one request alone is the error of its last piece.
    """

    def __init__(
        self,
        base: Base,
        bank: Bank,
        *,
        kv_cache_bytes: int,
        max_sequences: int = 64,
        prefill_chunk_tokens: int = 256,
    ) -> None:
        self._base, self._bank = base, bank
        pages = max(2, kv_cache_bytes // page_bytes(base.config, base.compute_dtype))
        self.pool = PagePool(base.config, pages, base.compute_dtype)
        self._scheduler = Scheduler(self.pool, max_sequences=max_sequences, prefill_chunk_tokens=prefill_chunk_tokens)
        self._stops = base.stop_token_ids
        self._token_bytes = TokenBytes(base.tokenizer)
        self._ended: list[Sequence] = []  # from outside, since the last step

    def check(self, request: Request) -> None:
        """Call it from any thread. Raises ContextLengthError for a prompt that is too long for the base or never fits
        the cache, and SettingError for one that is empty and for tokens that there are not."""
        limit, held = self._base.config.max_sequence_tokens, len(request.prompt)
        if not held:
            raise SettingError("the prompt is empty; give it at least one token")
        if held >= limit:
            raise ContextLengthError(limit, f"the prompt alone has {held}; shorten it, and leave room for the answer")
        if not (request.sampling.max_tokens or request.embed or request.score_prompt):
            raise SettingError("max_tokens is 0, so nothing would come of this; ask for at least one token")
        longest = held if request.embed else min(held + request.sampling.max_tokens, limit)
        room = self.pool.pages * PAGE_TOKENS
        if longest > room:
            raise ContextLengthError(
                room,
                f"prompt and answer may reach {longest}, which is more than the cache holds; "
                "ask for fewer max_tokens, or give the cache more memory",
            )
        vocabulary = self._base.config.vocab_size
        for token in (*request.prompt, *(token for token, _ in request.sampling.logit_bias)):
            if not (isinstance(token, Integral) and 0 <= token < vocabulary):
                raise SettingError(f"token {token!r} is not one of the base's {vocabulary}")

    def add(
        self,
        request: Request,
        slot: int,
        *,
        request_id: int,
        prefix_key: Hashable = None,
        owner: Owner = (),
        chooser: Chooser | None = None,
    ) -> None:
        """Take a request in; its pieces carry `request_id`, which no other request of this batch has.

        `slot` is its adapter's in the bank and stays so until the last piece; `prefix_key` (by default the slot)
        says with whom its prompt shares pages: only prompts of equal keys do. Owners, all of equal depth, share the
        batch equally. `chooser` is that of a request that was checked before; without it the request is checked, and
        its grammar compiled, here. Raises what `check` and `Grammars.constraint` do.
        """
        if chooser is None:
            self.check(request)
            form = request.sampling.form
            chooser = Chooser(request, None if form is None else grammars_of(self._base).constraint(form))
        self._scheduler.add(
            Sequence(
                request_id,
                request,
                slot,
                slot if prefix_key is None else prefix_key,
                chooser,
                TextStream(self._token_bytes, request.sampling.stop),
                list(request.prompt),
                owner,
            )
        )

    def end(self, request_id: int, finish: Finish = "cancelled") -> None:
        """End a request with the tokens it has; its last piece comes with the next step. Unknown ids are ignored,
        since the request may have ended by itself."""
        sequence = self._scheduler.remove(request_id, finish)
        if sequence is not None:
            self._ended.append(sequence)

    def takes(self, owner: Owner = ()) -> bool:
        """Whether one more request of `owner` would be computed now: there is room, or another owner gives way."""
        return self._scheduler.takes(owner)

    @property
    def running(self) -> int:
        """Requests that have pages."""
        return len(self._scheduler.running)

    @property
    def waiting(self) -> int:
        """Requests that wait for pages."""
        return len(self._scheduler.waiting)

    @property
    def preemptions(self) -> int:
        """How often a request lost its place or its pages to another."""
        return self._scheduler.preemptions

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing."""
        return not (self.running or self.waiting or self._ended)

    @torch.inference_mode()
    def step(self) -> list[Piece]:
        """Schedule, run, sample, emit: returns the text that became certain, and the ends of requests."""
        ended, self._ended = self._ended, []
        scheduled = sorted(self._scheduler.schedule(), key=self._is_apart)
        changed = self._sample(scheduled, self._run(scheduled)) if scheduled else []
        return self._emit([*ended, *changed])

    def _is_apart(self, one: Scheduled) -> bool:
        """Whether its adapter has more than A and B. A pass with such a one goes layer by layer, which gives all of its
        rows other bits, so that the others have a pass of their own."""
        return not self._bank.is_plain(one.sequence.slot)

    def _run(self, scheduled: list[Scheduled]) -> torch.Tensor:
        """Final hidden states of the scheduled tokens, one sequence after the other: [tokens, hidden_size]. Those that
        are apart come last."""
        return torch.cat([self._pass(list(part)) for _, part in groupby(scheduled, self._is_apart)])

    def _pass(self, scheduled: list[Scheduled]) -> torch.Tensor:
        segments = Segments(
            tuple(count for _, count in scheduled),
            tuple(sequence.slot for sequence, _ in scheduled),
            offsets=tuple(sequence.computed for sequence, _ in scheduled),
        )
        flat = [t for s, count in scheduled for t in s.tokens[s.computed : s.computed + count]]
        tokens = torch.tensor(flat, dtype=torch.int64)
        pages = self.pool.tables([sequence.pages for sequence, _ in scheduled])
        return self._base.decoder.hidden(tokens, segments, self._bank, cache=pages)

    def _sample(self, scheduled: list[Scheduled], hidden: torch.Tensor) -> list[Sequence]:
        """Choose the next token of every sequence whose tokens are all computed; returns those with anything new."""
        ready, rows, stop = [], [], 0
        for sequence, count in scheduled:
            start, stop = stop, stop + count
            if sequence.unscored:
                with _own_part(sequence):
                    self._score_prompt(sequence, hidden[start:stop])
            self._scheduler.advance(sequence, count)
            if sequence.request.embed:
                with _own_part(sequence):
                    sequence.add_hidden(hidden[start:stop])
            elif not sequence.left and not sequence.request.sampling.max_tokens:
                sequence.finish = sequence.finish or "length"
            elif not sequence.left and sequence.finish is None:
                ready.append(sequence)
                rows.append(stop - 1)
        if ready:
            logits = self._base.decoder.logits(hidden[rows], [s.slot for s in ready], self._bank)
            best, greedy = logits.max(-1)
            for sequence, row, token, highest in zip(ready, logits, greedy.tolist(), best.tolist(), strict=True):
                with _own_part(sequence):
                    self._choose(sequence, row, token, highest)
        return ready + [s for s, _ in scheduled if s not in ready and s.finish is not None]

    def _choose(self, sequence: Sequence, logits: torch.Tensor, token: int, highest: float) -> None:
        """Append the token that follows; `token` is the likeliest, with the logit `highest`."""
        if not math.isfinite(highest):
            return sequence.fail_numbers()
        choice = Choice(token) if sequence.chooser.greedy else sequence.chooser.choose(logits)
        return sequence.append(choice, self._stops, self._base.config.max_sequence_tokens)

    def _emit(self, changed: list[Sequence]) -> list[Piece]:
        pieces = [piece for sequence in changed if (piece := _next_piece(sequence)) is not None]
        self._scheduler.retire()
        return pieces

    def _score_prompt(self, sequence: Sequence, hidden: torch.Tensor) -> None:
        """Score the tokens behind those whose final hidden states these are, as many at a time as the head takes."""
        first, wanted, tokens = sequence.computed, sequence.unscored, sequence.request.prompt
        stop = min(first + len(hidden), wanted.stop)
        rows = chunk_rows(self._base.config.vocab_size, torch.float32)
        for at in range(max(first, wanted.start), stop, rows):
            end = min(at + rows, stop)
            slots = [sequence.slot] * (end - at)
            logits = self._base.decoder.logits(hidden[at - first : end - first], slots, self._bank)
            if not torch.isfinite(logits.amax(-1)).all():
                return sequence.fail_numbers()
            alternatives = sequence.request.sampling.logprobs or 0
            sequence.prompt_scores += scores_of(logits, tokens[at + 1 : end + 1], alternatives=alternatives)
        return None


def _next_piece(sequence: Sequence) -> Piece | None:
    with _own_part(sequence):
        return sequence.next_piece()
    return sequence.next_piece()  # the error of what failed
