"""The thread that computes: it takes requests from any thread, steps a `Batch`, and sends pieces out."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future

import torch
from torch import Tensor

from kameleon.bases import Base
from kameleon.errors import KameleonError, QueueFullError, RequestFaultError
from kameleon.generation import Batch, Chooser, Completion, Piece, Request, grammars_of
from kameleon.generation.shares import gives_way
from kameleon.ops import PAGE_TOKENS
from kameleon.serving.client import Client
from kameleon.serving.fair_queue import FairQueue
from kameleon.serving.grammar_queue import GrammarQueue
from kameleon.serving.hot_adapters import HotAdapters, shutting_down
from kameleon.serving.memory import memory_budget
from kameleon.serving.state import Counters, EngineState
from kameleon.serving.ticket import OnPiece, Ticket
from kameleon.settings import Limits

_log = logging.getLogger(__name__)


class Engine:
    """Answers requests, many at once, until it is closed. All methods may be called from any thread.

    It starts its thread, and becomes the one engine of `adapters` (see `HotAdapters.connect`). `on_failure` is called
    from the engine's thread if that breaks, after every waiting request got a piece with the error. A server should end
    its process there.
    """

    def __init__(
        self,
        base: Base,
        adapters: HotAdapters,
        limits: Limits | None = None,
        *,
        on_failure: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.base, self.adapters = base, adapters
        self.limits = Limits() if limits is None else limits
        self.memory = memory_budget(self.limits, base)
        adapters.connect(on_change=self._notify, budget_bytes=self.memory.adapter_bytes)
        self._batch = Batch(
            base,
            adapters.bank,
            kv_cache_bytes=self.memory.kv_cache_bytes,
            max_sequences=self.limits.max_batch,
            prefill_chunk_tokens=self.limits.prefill_chunk_tokens,
        )
        self._on_failure = on_failure
        self._lock = threading.Condition()
        self._queue: FairQueue[Ticket] = FairQueue()
        self._grammars = GrammarQueue(
            grammars_of(base, self.limits.max_compile_s),
            self._lock,
            most_forms=self.limits.max_forms,
            on_done=self._on_grammar,
            ahead=lambda: sum(ticket.request.sampling.form is not None for ticket in self._queue),
        )
        self._running: dict[int, Ticket] = {}
        self._cancels: list[int] = []  # ids of requests in the batch
        self._counters: defaultdict[tuple[str, str | None], Counters] = defaultdict(Counters)
        self._ids = 0
        self._found_tokens = 0
        self._draining = self._closed = False
        self._failure: BaseException | None = None
        self._mean_request_s = 1.0
        self._thread = threading.Thread(target=self._main, name="kameleon-engine", daemon=True)
        self._thread.start()

    def submit(
        self,
        request: Request,
        on_piece: OnPiece,
        client: Client = Client(),  # noqa: B008 (immutable)
    ) -> Ticket:
        """Take a request in; `on_piece` gets its text, from the engine's thread or that of a `cancel` or `submit`; it
        must return at once.

        The last piece has a `completion` or an `error`: also of a grammar, which is compiled beside the answers before
        the request comes into the queue. Raises AdapterNotFoundError, AdapterFileError, SettingError for
        a prompt that is empty or too long, and QueueFullError, which says when to try again.
        """
        with self._lock:
            self._refuse_if_full(client)
        self._batch.check(request)
        chooser = Chooser(request) if request.sampling.form is None else None
        version = self.adapters.hold(request.adapter)
        with self._lock:
            try:
                last = self._refuse_if_full(client)
                ticket = Ticket(self._ids + 1, request, client, on_piece, version, time.monotonic(), chooser)
                if chooser is None:
                    self._grammars.put(ticket, retry_after_s=self._retry_after_s())
            except KameleonError:
                self.adapters.release(version)
                raise
            if last is not None:
                told = "others who have fewer requests waiting took this one's place; try again later"
                self._leave_queue(last, Piece(last.id, "", error=QueueFullError(told, self._retry_after_s())))
            self._ids += 1
            if chooser is not None:
                self._queue.put(ticket, (*client, request.adapter))
            self._counters_of(ticket).requests += 1
            self._lock.notify_all()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """End a request; its last piece says "cancelled". One that waits leaves its place in the queue at once, one
        that runs ends after the step, one that has ended is left alone."""
        with self._lock:
            if ticket.started:
                self._cancels.append(ticket.id)
            else:
                self._leave_queue(ticket, Piece(ticket.id, "", self._nothing(ticket, "cancelled")))
            self._lock.notify_all()

    def embed(self, tokens: tuple[int, ...], adapter: str | None = None) -> Tensor:
        """The mean of the final hidden states over all tokens, [hidden_size] fp32. Waits in the queue; raises as
        `submit` does."""
        done: Future[Completion] = Future()

        def finish(piece: Piece) -> None:
            if piece.error is not None:
                done.set_exception(piece.error)
            elif piece.completion is not None:
                done.set_result(piece.completion)

        self.submit(Request(tokens, adapter, embed=True), finish)
        embedding = done.result().embedding
        if embedding is None:
            raise QueueFullError("the time for this request was over before it was computed", self._retry_after_s())
        return embedding

    def state(self) -> EngineState:
        """A snapshot."""
        with self._lock:
            pool = self._batch.pool
            return EngineState(
                self._waiting(),
                len(self._running),
                pool.pages * PAGE_TOKENS,
                pool.held * PAGE_TOKENS,
                self._found_tokens,
                self._batch.preemptions,
                self.adapters.state(),
                self.adapters.bytes,
                self.counters(),
                self._failure is None and not self._draining,
            )

    def counters(self, key: str | None = None) -> dict[str | None, Counters]:
        """What each adapter (None: the plain base) was asked for and gave: to all clients, or to those of one key."""
        found: dict[str | None, Counters] = {}
        with self._lock:
            for (asked_by, adapter), counters in self._counters.items():
                if key in (None, asked_by):
                    found.setdefault(adapter, Counters()).add(counters)
        return found

    def close(self, drain_s: float = 30.0) -> None:
        """Take no more requests, finish those that are there for at most `drain_s` seconds, stop.

        What is not whole by then ends with finish "length", or with QueueFullError if it never began."""
        with self._lock:
            self._draining = True
            self._lock.wait_for(self._is_done, drain_s)
            self._closed = True
            self._lock.notify_all()
        self._thread.join()
        with self._lock:
            self._grammars.close()
        self.adapters.close()

    def _is_done(self) -> bool:
        return self._failure is not None or not (self._waiting() or self._running)

    def _waiting(self) -> int:
        return len(self._queue) + len(self._grammars)

    def _refuse_if_full(self, client: Client) -> Ticket | None:
        """Raise QueueFullError unless `client` may wait. Returns the request whose place in the queue it takes: the
        last of those who have most waiting, if these still have as much afterwards."""
        if self._failure is not None:
            raise KameleonError(f"the engine has failed and answers nothing: {self._failure}") from self._failure
        if self._draining:
            raise shutting_down()
        if len(self._grammars) >= self.limits.max_queue:
            raise QueueFullError("too many requests wait for their grammar; try again later", self._retry_after_s())
        if len(self._queue) < self.limits.max_queue:
            return None
        last, waiting_of = self._queue.last_of_the_longest(), self._queue.waiting_of
        if gives_way(last.client, client, waiting_of, waiting_of):
            return last
        raise QueueFullError("as many requests wait as this server takes; try again later", self._retry_after_s())

    def _retry_after_s(self) -> float:
        """Seconds until a place in the queue should be free: the waiting requests at the recent pace."""
        return max(1.0, round(self._mean_request_s * (1 + self._waiting() / self.limits.max_batch)))

    def _notify(self) -> None:
        with self._lock:
            self._lock.notify_all()

    def _main(self) -> None:
        # OpenMP's thread count belongs to each thread that starts parallel regions.
        torch.set_num_threads(torch.get_num_threads())
        try:
            while self._step():
                pass
        except BaseException as failure:  # noqa: BLE001 (every waiting request must hear of any failure)
            self._fail(failure)

    def _step(self) -> bool:
        """Wait for work, one step of the batch, deliver its pieces. False when the engine is to stop."""
        with self._lock:
            self._lock.wait_for(self._has_work, timeout=1.0)
            self._handle_cancels()
            self._expire()
            self._admit()
        pieces = self._batch.step()
        with self._lock:
            for piece in pieces:
                self._deliver(piece)
            if not self._running:
                self._lock.notify_all()
            return not self._closed or not self._is_done()

    def _has_work(self) -> bool:
        return bool(
            self._closed or self._cancels or not self._batch.idle or any(self._is_settled(t) for t in self._queue)
        )

    @staticmethod
    def _is_settled(ticket: Ticket) -> bool:
        version = ticket.version
        return (version.ready and not version.leaving) or version.error is not None

    def _starts(self, ticket: Ticket) -> bool:
        version = ticket.version
        return version.error is not None or (self._batch.takes(ticket.client) and self.adapters.start(version))

    def _handle_cancels(self) -> None:
        for request_id in self._cancels:
            self._batch.end(request_id, "cancelled")
        self._cancels.clear()

    def _expire(self) -> None:
        """End requests whose time is over: waiting ones with an error, running ones with the tokens they have. When the
        engine ends, all requests are ended."""
        if not self._closed and not self.limits.max_request_s:
            return
        oldest = math.inf if self._closed else time.monotonic() - self.limits.max_request_s
        for ticket in [t for t in [*self._queue, *self._grammars.tickets()] if t.submitted_s < oldest]:
            late = "the time for this request was over before its turn came"
            error = shutting_down() if self._closed else QueueFullError(late, self._retry_after_s())
            self._leave_queue(ticket, Piece(ticket.id, "", error=error))
        for request_id, ticket in self._running.items():
            if ticket.submitted_s < oldest:
                self._batch.end(request_id, "length")

    def _admit(self) -> None:
        while (ticket := self._queue.take(self._starts)) is not None:
            if ticket.version.error is not None:
                self._end(ticket, Piece(ticket.id, "", error=ticket.version.error))
                continue
            self._batch.add(
                ticket.request,
                ticket.version.slot,
                request_id=ticket.id,
                prefix_key=self._prefix_key(ticket),
                owner=ticket.client,
                chooser=ticket.chooser,
            )
            ticket.started = True
            self._running[ticket.id] = ticket
            self._counters_of(ticket).queue_s.note(time.monotonic() - ticket.submitted_s)
            self._queue.charge((*ticket.client, ticket.request.adapter), len(ticket.request.prompt))

    def _counters_of(self, ticket: Ticket) -> Counters:
        return self._counters[ticket.client.key, ticket.request.adapter]

    def _prefix_key(self, ticket: Ticket) -> tuple[int, str]:
        """Whose prompts share pages of the cache: those of one load of an adapter, and of one key."""
        return ticket.version.residence, "" if self.limits.share_prefixes else ticket.client.key

    def _deliver(self, piece: Piece) -> None:
        ticket = self._running[piece.request]
        now, counters = time.monotonic(), self._counters_of(ticket)
        if piece.tokens:
            if ticket.last_token_s is None:
                counters.first_token_s.note(now - ticket.submitted_s)
            else:
                counters.between_tokens_s.note((now - ticket.last_token_s) / len(piece.tokens))
            ticket.last_token_s = now
            counters.completion_tokens += len(piece.tokens)
            self._queue.charge((*ticket.client, ticket.request.adapter), len(piece.tokens))
        if piece.completion is None and piece.error is None:
            self._send(ticket, piece)
            return
        del self._running[piece.request]
        if piece.completion is not None:
            counters.prompt_tokens += piece.completion.prompt_tokens
            counters.cached_tokens += piece.completion.cached_tokens
            self._found_tokens += piece.completion.cached_tokens
        self._mean_request_s += 0.1 * (now - ticket.submitted_s - self._mean_request_s)
        self._end(ticket, piece)

    def _leave_queue(self, ticket: Ticket, piece: Piece) -> None:
        if ticket in list(self._queue):
            self._queue.remove(ticket)
        elif not self._grammars.remove(ticket):
            return
        self._end(ticket, piece)

    def _on_grammar(self, ticket: Ticket, error: KameleonError | None) -> None:
        if error is None:
            self._queue.put(ticket, (*ticket.client, ticket.request.adapter))
        else:
            self._end(ticket, Piece(ticket.id, "", error=error))
        self._lock.notify_all()

    def _nothing(self, ticket: Ticket, finish: str) -> Completion:
        return Completion("", (), finish, len(ticket.request.prompt))  # type: ignore[arg-type]

    def _end(self, ticket: Ticket, piece: Piece) -> None:
        self.adapters.release(ticket.version, started=ticket.started)
        finished = self._counters_of(ticket).finished
        if isinstance(piece.error, RequestFaultError):
            _log.error("request %d failed, the others go on", ticket.id, exc_info=piece.error)
        how = piece.completion.finish if piece.completion is not None else "error"
        finished[how] = finished.get(how, 0) + 1
        self._send(ticket, piece)

    def _send(self, ticket: Ticket, piece: Piece) -> None:
        try:
            ticket.on_piece(piece)
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001 (this listener is broken; the other answers go on)
            self.cancel(ticket)

    def _fail(self, failure: BaseException) -> None:
        with self._lock:
            self._failure = failure
            error = KameleonError(f"the engine has failed: {failure}")
            for ticket in [*self._queue, *self._grammars.tickets(), *self._running.values()]:
                self._send(ticket, Piece(ticket.id, "", error=error))
            self._lock.notify_all()
        if self._on_failure is not None:
            self._on_failure(failure)
