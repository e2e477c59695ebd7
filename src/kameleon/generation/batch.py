"""The one loop that generates, as an object: requests join and leave between any two steps.

Each step is one pass through the base: a token for every answer that is being written, and a chunk of the prompts that
are still being read. Requests with different adapters share it. What a request gets does not depend on the others.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch

from kameleon.adapters.resident import Bank
from kameleon.bases import Base
from kameleon.errors import AdapterMismatchError, KameleonError, SettingError
from kameleon.generation.pages import PagePool, page_bytes, pages_for
from kameleon.generation.request import Completion, Finish, Piece, Request, ScoredToken
from kameleon.generation.sampling import Choice, Chooser, scores_of
from kameleon.generation.text import TextStream
from kameleon.ops import PAGE_TOKENS, Segments, chunk_rows


@dataclass(eq=False)
class _Sequence:
    """A request on its way. `tokens` is prompt and answer; keys and values of the first `computed` are in `pages`."""

    number: int
    request: Request
    slot: int
    adapter_key: Hashable
    chooser: Chooser
    stream: TextStream
    tokens: list[int]
    pages: list[int] = field(default_factory=list)
    computed: int = 0
    learned: int = 0  # full pages that others can find
    branch: Hashable = None
    cached: int | None = None
    told: int | None = None  # tokens of the answer already given out; None before the first piece
    scores: list[ScoredToken] = field(default_factory=list)
    prompt_scores: list[ScoredToken] = field(default_factory=list)  # of the prompt's tokens from the second on
    finish: Finish | None = None
    error: KameleonError | None = None
    hidden: torch.Tensor | None = None  # sum of final hidden states, for a request that asked to embed

    @property
    def answer(self) -> list[int]:
        return self.tokens[len(self.request.prompt) :]

    @property
    def unscored(self) -> range:
        """Positions whose logits are still wanted for the scores of the tokens behind them."""
        return range(len(self.prompt_scores), len(self.request.prompt) - 1 if self.request.score_prompt else 0)

    @property
    def left(self) -> int:
        """Tokens that have not been through the decoder yet."""
        return len(self.tokens) - self.computed


class Batch:
    """Requests that are computed together. Not safe for several threads at once."""

    def __init__(
        self,
        base: Base,
        bank: Bank,
        kv_cache_bytes: int,
        max_sequences: int = 64,
        prefill_chunk_tokens: int = 256,
    ) -> None:
        self._base, self._bank = base, bank
        pages = max(2, kv_cache_bytes // page_bytes(base.config, base.compute_dtype))
        self.pool = PagePool(base.config, pages, base.compute_dtype)
        self._max_sequences, self._prefill_chunk_tokens = max_sequences, prefill_chunk_tokens
        self._waiting: deque[_Sequence] = deque()
        self._running: list[_Sequence] = []
        self._stops = base.stop_token_ids
        self._numbers = 0
        self._cancelled: list[_Sequence] = []
        self.preemptions = 0

    def add(self, request: Request, slot: int, adapter_key: Hashable = None, chooser: Chooser | None = None) -> int:
        """Take a request in; returns the number that its pieces carry.

        `slot` is its adapter's in the bank and stays so until the last piece; `adapter_key` (by default the slot) names
        the adapter's version: only prompts of equal keys share computed pages. `chooser` is what `check` returned, if
        that was called before. Raises what `check` does.
        """
        chooser = chooser or self.check(request)
        self._numbers += 1
        self._waiting.append(
            _Sequence(
                self._numbers,
                request,
                slot,
                slot if adapter_key is None else adapter_key,
                chooser,
                TextStream(self._base.tokenizer, request.sampling.stop),
                list(request.prompt),
            )
        )
        return self._numbers

    def check(self, request: Request) -> Chooser:
        """What will choose the request's tokens; from any thread, since compiling a grammar takes time.

        Raises SettingError for a prompt that is empty, too long for the base or never fits the cache, for tokens that
        there are not, and for a grammar that cannot be followed; MissingExtraError where the grammars' library is not.
        """
        limit, held = self._base.config.max_sequence_tokens, len(request.prompt)
        if not held:
            raise SettingError("the prompt is empty; give it at least one token")
        if held >= limit:
            raise SettingError(f"the prompt has {held} tokens; this base takes fewer than {limit}")
        if not (request.sampling.max_tokens or request.embed or request.score_prompt):
            raise SettingError("max_tokens is 0, so nothing would come of this; ask for at least one token")
        longest = held if request.embed else min(held + request.sampling.max_tokens, limit)
        room = self.pool.pages * PAGE_TOKENS
        if longest > room:
            raise SettingError(
                f"prompt and answer may reach {longest} tokens, the cache holds {room}; "
                "ask for fewer max_tokens, or give the cache more memory"
            )
        vocabulary = self._base.config.vocab_size
        for token in (*request.prompt, *(token for token, _ in request.sampling.logit_bias)):
            if not 0 <= token < vocabulary:
                raise SettingError(f"token {token} is not one of the base's {vocabulary}")
        return Chooser(request, self._base)

    def cancel(self, number: int) -> None:
        """End a request; its last piece comes with the next step. One that has ended already is left alone."""
        self.end(number, "cancelled")

    def end(self, number: int, finish: Finish) -> None:
        """End a request with what it has."""
        for queue in (self._running, self._waiting):
            for sequence in [s for s in queue if s.number == number]:
                queue.remove(sequence)
                sequence.finish = finish
                self._drop_pages(sequence)
                self._cancelled.append(sequence)

    @property
    def running(self) -> int:
        """Requests that generate now."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests that wait for pages."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing."""
        return not (self._running or self._waiting or self._cancelled)

    @torch.inference_mode()
    def step(self) -> list[Piece]:
        """One pass through the base; returns the text that became certain, and the ends of requests."""
        pieces = [self._last_piece(s) for s in self._cancelled]
        self._cancelled.clear()
        self._admit()
        parts = self._plan()
        if not parts:
            return pieces
        ready = self._run(parts)
        for sequence in ready:
            piece = self._piece(sequence)
            if piece is not None:
                pieces.append(piece)
        self._running = [s for s in self._running if s.finish is None]
        return pieces

    def _admit(self) -> None:
        """Waiting requests start in their order while there is room for all that they have so far."""
        while self._waiting and len(self._running) < self._max_sequences:
            sequence = self._waiting[0]
            # Whoever wants a mean of hidden states, or logits of the prompt, has to compute them all.
            tokens = () if sequence.request.embed or sequence.unscored else sequence.tokens
            found, branch = self.pool.find(sequence.adapter_key, tokens)
            # One page more than now needed, so that nobody starts only to be put off by the next token of another.
            needed = pages_for(len(sequence.tokens) + 1) - len(found)
            if needed > self.pool.available and self._running:
                self.pool.release(found)
                return
            sequence.pages, sequence.branch, sequence.learned = found, branch, len(found)
            sequence.computed = len(found) * PAGE_TOKENS
            if sequence.cached is None:
                sequence.cached = sequence.computed
            self._running.append(self._waiting.popleft())

    def _plan(self) -> list[tuple[_Sequence, int]]:
        """How many tokens of which sequences go through the base now, with pages to write them to."""
        parts: list[tuple[_Sequence, int]] = []
        chunk = self._prefill_chunk_tokens
        for sequence in list(self._running):
            if sequence not in self._running:
                continue  # put off for an earlier one
            count = sequence.left if sequence.left == 1 else min(sequence.left, chunk)
            if count == 0 or not self._make_room(sequence, count):
                continue
            if sequence.left > 1:
                chunk -= count
            parts.append((sequence, count))
        # Neighbours of one adapter are multiplied with its factors together.
        return sorted(((s, n) for s, n in parts if s in self._running), key=lambda part: part[0].slot)

    def _make_room(self, sequence: _Sequence, count: int) -> bool:
        """Pages for `count` more tokens, if need be by putting off those who came last. False: it is put off itself."""
        while len(sequence.pages) < pages_for(sequence.computed + count):
            page = self.pool.take()
            if page is not None:
                sequence.pages.append(page)
                continue
            last = self._running[-1]
            self._running.remove(last)
            self._drop_pages(last)
            self._waiting.appendleft(last)
            self.preemptions += 1
            if last is sequence:
                return False
        return True

    def _drop_pages(self, sequence: _Sequence) -> None:
        self.pool.release(sequence.pages)
        sequence.pages, sequence.computed, sequence.learned, sequence.hidden = [], 0, 0, None

    def _run(self, parts: Sequence[tuple[_Sequence, int]]) -> list[_Sequence]:
        """The pass; returns the sequences that have a new token (or an end)."""
        segments = Segments(
            tuple(count for _, count in parts),
            tuple(s.slot for s, _ in parts),
            offsets=tuple(s.computed for s, _ in parts),
        )
        fresh = torch.tensor([t for s, n in parts for t in s.tokens[s.computed : s.computed + n]])
        pages = self.pool.tables([s.pages for s, _ in parts])
        hidden = self._base.decoder.hidden(fresh, segments, self._bank, pages)
        ready, rows = [], []
        for (sequence, count), last in zip(parts, segments.last.tolist(), strict=True):
            mine = hidden[last + 1 - count : last + 1]
            if sequence.unscored:
                self._score_prompt(sequence, mine)
            sequence.computed += count
            self._learn(sequence)
            if sequence.request.embed:
                self._add_hidden(sequence, mine)
            elif not sequence.left and not sequence.request.sampling.max_tokens:
                sequence.finish = sequence.finish or "length"
            elif not sequence.left and sequence.finish is None:
                ready.append(sequence)
                rows.append(last)
        if ready:
            logits = self._base.decoder.logits(hidden[rows], [s.slot for s in ready], self._bank)
            best, tokens = logits.max(-1)
            for sequence, row, token, highest in zip(ready, logits, tokens.tolist(), best.tolist(), strict=True):
                if not math.isfinite(highest):
                    self._spoil(sequence)
                else:
                    plain = sequence.chooser.greedy
                    self._take(sequence, Choice(token) if plain else sequence.chooser.choose(row, sequence.answer))
        return ready + [s for s, _ in parts if s not in ready and s.finish is not None]

    def _score_prompt(self, sequence: _Sequence, hidden: torch.Tensor) -> None:
        """Score the tokens behind those whose final hidden states these are, as many at a time as the head takes."""
        first, wanted, tokens = sequence.computed, sequence.unscored, sequence.request.prompt
        stop = min(first + len(hidden), wanted.stop)
        rows = chunk_rows(self._base.config.vocab_size, torch.float32)
        for at in range(max(first, wanted.start), stop, rows):
            end = min(at + rows, stop)
            slots = [sequence.slot] * (end - at)
            logits = self._base.decoder.logits(hidden[at - first : end - first], slots, self._bank)
            if not torch.isfinite(logits.amax(-1)).all():
                return self._spoil(sequence)
            alternatives = sequence.request.sampling.logprobs or 0
            sequence.prompt_scores += scores_of(logits, tokens[at + 1 : end + 1], alternatives)
        return None

    def _add_hidden(self, sequence: _Sequence, hidden: torch.Tensor) -> None:
        total = hidden.float().sum(0)
        sequence.hidden = total if sequence.hidden is None else sequence.hidden + total
        if not torch.isfinite(sequence.hidden).all():
            self._spoil(sequence)
        elif not sequence.left:
            sequence.finish = "stop"

    def _learn(self, sequence: _Sequence) -> None:
        while (sequence.learned + 1) * PAGE_TOKENS <= sequence.computed:
            at = sequence.learned * PAGE_TOKENS
            page = sequence.pages[sequence.learned]
            sequence.branch = self.pool.learn(sequence.branch, sequence.tokens[at : at + PAGE_TOKENS], page)
            sequence.learned += 1

    def _spoil(self, sequence: _Sequence) -> None:
        whose = f"adapter {sequence.request.adapter!r}" if sequence.request.adapter else "the base"
        sequence.error = AdapterMismatchError(f"{whose} turns what is computed into NaN or infinity; it is broken")
        sequence.finish = "stop"

    def _take(self, sequence: _Sequence, choice: Choice) -> None:
        if choice.token in self._stops:
            sequence.finish = "stop"
            if choice.score is not None and sequence.request.score_prompt:
                sequence.scores.append(choice.score)
            return
        sequence.tokens.append(choice.token)
        if choice.score is not None:
            sequence.scores.append(choice.score)
        if choice.ends:
            sequence.finish = "stop"
            return
        length = len(sequence.tokens) - len(sequence.request.prompt)
        at_limit = len(sequence.tokens) == self._base.config.max_sequence_tokens
        if length == sequence.request.sampling.max_tokens or at_limit:
            sequence.finish = "length"

    def _piece(self, sequence: _Sequence) -> Piece | None:
        if sequence.error is not None:
            self._drop_pages(sequence)
            return Piece(sequence.number, "", error=sequence.error)
        text = sequence.stream.take(sequence.answer, sequence.finish is not None)
        if sequence.stream.stopped:
            sequence.finish = "stop"
        if sequence.finish is not None:
            piece = self._end(sequence, text)
            self._drop_pages(sequence)
            return piece
        if not text:
            return None
        return self._news(sequence, text)

    def _last_piece(self, sequence: _Sequence) -> Piece:
        return self._end(sequence, sequence.stream.take(sequence.answer, True))

    def _end(self, sequence: _Sequence, text: str) -> Piece:
        assert sequence.finish is not None
        completion = Completion(
            sequence.stream.text,
            tuple(sequence.answer),
            sequence.finish,
            len(sequence.request.prompt),
            sequence.cached or 0,
            tuple(sequence.scores),
            None if sequence.hidden is None else sequence.hidden / len(sequence.request.prompt),
            tuple(sequence.prompt_scores),
        )
        return self._news(sequence, text, completion)

    def _news(self, sequence: _Sequence, text: str, completion: Completion | None = None) -> Piece:
        """`text` with the tokens, and their scores, since the piece before."""
        answer, told = sequence.answer, sequence.told or 0
        prompt_scores = tuple(sequence.prompt_scores) if sequence.told is None else ()
        sequence.told = len(answer)
        fresh = tuple(answer[told:]), tuple(sequence.scores[told:])
        return Piece(sequence.number, text, completion, *fresh, prompt_scores=prompt_scores)
