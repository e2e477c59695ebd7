"""Requests whose grammar is not compiled yet, and the thread that compiles one after the other, beside the answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from kameleon.errors import KameleonError, QueueFullError
from kameleon.generation import Chooser, Grammars
from kameleon.serving.fair_queue import FairQueue
from kameleon.serving.ticket import Ticket
from kameleon.settings import Form

_AHEAD = 8  # requests with a compiled grammar that may wait for their turn: each holds up to some 30 MB
_TOKENS_A_SECOND = 1000.0  # as which a client pays for compiling, so that one with other forms all the time comes last


class GrammarQueue:
    """Requests wait here for their grammar, in the order of `FairQueue`; those with the same form get theirs together.

    Every method is called with `lock` held, which is the engine's. `on_done` is called with it too, for each request
    that has its chooser or failed. `ahead` says how many requests with a grammar wait for their turn.
    """

    def __init__(
        self,
        grammars: Grammars,
        lock: threading.Condition,
        *,
        most_forms: int,
        on_done: Callable[[Ticket, KameleonError | None], None],
        ahead: Callable[[], int],
    ) -> None:
        self._grammars, self._lock, self._most_forms = grammars, lock, most_forms
        self._on_done, self._ahead = on_done, ahead
        self._queue: FairQueue[Ticket] = FairQueue()
        self._now: Ticket | None = None  # whose grammar is compiled now
        self._closed = False
        self._thread = threading.Thread(target=self._main, name="kameleon-grammars", daemon=True)

    def __len__(self) -> int:
        return len(self._queue) + (self._now is not None)

    def put(self, ticket: Ticket, *, retry_after_s: float) -> None:
        """Take a request in whose answer has a form; `on_done` comes at once if its grammar is compiled already. Raises
        QueueFullError where too many other forms wait, of this client's key or of all."""
        form = _form(ticket)
        if (constraint := self._grammars.kept(form)) is not None:
            ticket.chooser = Chooser(ticket.request, constraint)
            self._on_done(ticket, None)
            return
        waiting = {_form(other): other.client.key for other in self.tickets()}
        own = sum(key == ticket.client.key for key in waiting.values())
        if form not in waiting and (len(waiting) >= self._most_forms or own >= max(1, self._most_forms // 2)):
            raise QueueFullError(f"{len(waiting)} grammars wait to be compiled already; try again later", retry_after_s)
        self._queue.put(ticket, (*ticket.client, ticket.request.adapter))
        if not self._thread.is_alive():
            self._thread.start()
        self._lock.notify_all()

    def tickets(self) -> list[Ticket]:
        """All that wait."""
        return [*([] if self._now is None else [self._now]), *self._queue]

    def remove(self, ticket: Ticket) -> bool:
        """Take a request out; false if it is not here. A try of its grammar ends, unless others wait for the same."""
        if ticket not in self.tickets():
            return False
        if ticket is not self._now:
            self._queue.remove(ticket)
            return True
        self._now = next((other for other in self._queue if _form(other) == _form(ticket)), None)
        if self._now is None:
            self._grammars.end(_form(ticket))
        else:
            self._queue.remove(self._now)
        return True

    def close(self) -> None:
        """End the thread, after what it compiles now. No request waits any more."""
        self._closed = True
        self._lock.notify_all()

    def _main(self) -> None:
        while (ticket := self._next()) is not None:
            started_s, error = time.monotonic(), None
            try:
                self._grammars.constraint(_form(ticket))
            except KameleonError as refusal:
                error = refusal
            except BaseException as fault:  # noqa: BLE001 (of this request, a panic of the library too; the thread goes on)
                error = KameleonError(f"the grammar could not be compiled: {fault}")
            cost = (time.monotonic() - started_s) * _TOKENS_A_SECOND
            with self._lock:
                self._queue.charge((*ticket.client, ticket.request.adapter), round(cost))
                self._finish(_form(ticket), error)

    def _next(self) -> Ticket | None:
        with self._lock:
            self._lock.wait_for(lambda: self._closed or (len(self._queue) and self._ahead() < _AHEAD))
            self._now = None if self._closed else self._queue.take(lambda _: True)
            return self._now

    def _finish(self, form: Form, error: KameleonError | None) -> None:
        now, self._now = self._now, None
        if error is not None and now is None:
            return  # it was ended because its client left; who came for the same form meanwhile has the next try
        same = [ticket for ticket in self._queue if _form(ticket) == form]
        for ticket in same:
            self._queue.remove(ticket)
        for ticket in [*([] if now is None else [now]), *same]:
            constraint = self._grammars.kept(form) if error is None else None
            if constraint is not None:
                ticket.chooser = Chooser(ticket.request, constraint)
            self._on_done(ticket, error)


def _form(ticket: Ticket) -> Form:
    form = ticket.request.sampling.form
    assert form is not None
    return form
