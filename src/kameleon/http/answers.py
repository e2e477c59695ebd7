"""The bridge between the event loop and the engine's thread: it submits requests, awaits answers and cancels them."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, TypeVar

from starlette.requests import Request as HttpRequest

from kameleon.generation import Completion, Piece, Request
from kameleon.http.errors import ClientGoneError
from kameleon.http.request_log import Entry
from kameleon.http.service import Service
from kameleon.serving.client import Client
from kameleon.serving.engine import Ticket

_Result = TypeVar("_Result")


class Answers:
    """The answers to one HTTP request. Submitted together; the end of the block cancels those that run."""

    def __init__(self, service: Service, *, client: Client, entry: Entry) -> None:
        self._engine, self._preparing = service.engine, service.preparing
        self._client, self._entry = client, entry
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        self._tickets: list[Ticket] = []
        self._unfinished = 0
        self._lock = threading.Lock()
        self._is_closed = False

    async def __aenter__(self) -> Answers:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._is_closed = True
            tickets = list(self._tickets)
        if self._unfinished:
            for ticket in tickets:
                self._engine.cancel(ticket)
            if tickets:
                self._entry.finishes.append("cancelled")

    async def ask(self, prepare: Callable[[], Sequence[Request]]) -> Sequence[Request]:
        """Run `prepare` and submit its requests, in a thread of its key, because tokenising megabytes takes seconds.

        Raises the errors of `prepare`, AdapterNotFoundError, SettingError, QueueFullError.
        """
        return await self._preparing.run(lambda: self._ask(prepare), key=self._client.key)

    def _ask(self, prepare: Callable[[], Sequence[Request]]) -> Sequence[Request]:
        requests = prepare()
        for index, request in enumerate(requests):
            self._unfinished += 1
            ticket = self._engine.submit(request, self._listener(index), self._client)
            with self._lock:  # held only for a moment: the event loop waits for it too
                self._tickets.append(ticket)
                is_closed = self._is_closed
            if is_closed:  # the client left meanwhile
                self._engine.cancel(ticket)
                break
        return requests

    def _listener(self, index: int) -> Callable[[Piece], None]:
        def on_piece(piece: Piece) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the server is ending
                self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, piece))

        return on_piece

    async def pieces(self) -> AsyncIterator[tuple[int, Piece]]:
        """Pieces of all answers as they come, each with its answer's number. Raises the error that a piece carries."""
        while self._unfinished:
            index, piece = await self._queue.get()
            self._entry.note(index, piece)
            if piece.error is not None or piece.completion is not None:
                self._unfinished -= 1
            if piece.error is not None:
                raise piece.error
            yield index, piece

    async def completions(self) -> list[Completion]:
        """All complete answers, in the order of their requests."""
        done = {index: piece.completion async for index, piece in self.pieces() if piece.completion is not None}
        return [done[index] for index in sorted(done)]


async def unless_client_leaves(request: HttpRequest, work: Coroutine[Any, Any, _Result]) -> _Result:
    """The result of `work`, which is cancelled when the client closes its connection. Raises ClientGoneError."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_leaving(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGoneError
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _leaving(request: HttpRequest) -> None:
    """Wait until the client closes its connection. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
