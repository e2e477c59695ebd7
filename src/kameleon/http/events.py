"""Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html) in OpenAI's dialect.

No library: an event is one line (`_event`), and the rest is OpenAI's dialect, which libraries do not have: an error
before the first event has a status, a later one is the last event, and a client that leaves cancels its answer.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from fastapi.responses import Response
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from kameleon.errors import KameleonError
from kameleon.http.answers import unless_client_leaves
from kameleon.http.errors import ClientGoneError, error_response

Events = AsyncGenerator[Mapping[str, Any], None]
_DONE = b"data: [DONE]\n\n"


async def event_stream(request: Request, events: Events) -> Response:
    """A response of `events`. The first event is awaited here, so that an error before it has its own status.

    Raises such an error, and ClientGoneError.
    """
    try:
        first = await unless_client_leaves(request, anext(events))
    except BaseException:
        await events.aclose()
        raise
    return _EventStream(request, first, events)


class _EventStream(Response):
    media_type = "text/event-stream"

    def __init__(self, request: Request, first: Mapping[str, Any], events: Events) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._request, self._first, self._events = request, first, events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events):
            try:
                await unless_client_leaves(self._request, self._send_all(send))
            except (ClientGoneError, OSError):  # the client left: we noticed, or the socket did
                return

    async def _send_all(self, send: Send) -> None:
        async def send_part(part: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": part, "more_body": more})

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send_part(_event(self._first))
        last = _DONE
        try:
            async for event in self._events:
                await send_part(_event(event))
        except KameleonError as error:  # too late for a status: it becomes the last event
            last = b"data: " + bytes(error_response(error, self._request).body) + b"\n\n"
        await send_part(last)
        await send_part(b"", more=False)


def _event(document: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(document)}\n\n".encode()
