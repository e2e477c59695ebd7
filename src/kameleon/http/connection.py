"""One client's connection: uvicorn's protocol on h11, with limits on a client's pace and on the number of connections.

uvicorn sweeps no connections itself: `process.py` calls `sweep` of each one every second.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Network, ip_address
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from kameleon.http.errors import ApiError
from kameleon.settings import HttpSettings

_log = logging.getLogger(__name__)
_RETRY_AFTER_S = 1
_UNFINISHED = (h11.IDLE, h11.SEND_BODY)  # states of a client whose request has not come yet, or not as a whole
_ODD_LINES = re.compile(rb"\n[ \t]|(?<!\r)\n")  # a folded header; a line feed alone
_LENGTHS = re.compile(rb"\ncontent-length[^\n]*", re.IGNORECASE)


class Connection(H11Protocol):
    """A connection that ends when its client is too slow, or when others need its place."""

    conn: _Http

    def __init__(self, *, settings: HttpSettings, **given: Any) -> None:
        super().__init__(**given)
        self._settings = settings
        self.conn = _Http(settings.max_head_bytes)
        self._reading, self._sending = _Pace(settings, self.loop.time()), _Pace(settings, self.loop.time())
        self._since = self.loop.time()  # when it began to wait for a request
        self._place: IPv4Address | IPv6Network | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._place = None if self.client is None else _place(self.client[0])
        self._make_room()

    def _make_room(self) -> None:
        """Where there are too many, end the one that waits longest for a request, or refuse this one if none waits."""
        crowd = [one for one in self.connections if isinstance(one, Connection)]
        near = [one for one in crowd if one._place == self._place]
        if len(near) > self._settings.max_address_connections:
            crowd = near
        elif len(crowd) <= self._settings.max_connections:
            return
        if waiting := waiting_in(one for one in crowd if one is not self):
            waiting[0].drop()
            _log.warning("too many connections: one that has not sent its request is closed")
        else:
            _log.warning("too many connections: a new one is refused")
            error = ApiError(503, "too many connections are open; try again", code="too_many_connections")
            self.app = error.response({"Retry-After": str(_RETRY_AFTER_S), "Connection": "close"})

    def drop(self) -> None:
        """End the connection at once; what is unsent is dropped."""
        self.connections.discard(self)
        self.transport.abort()

    def on_response_complete(self) -> None:
        self._since = self.loop.time()
        super().on_response_complete()

    def sweep(self, now: float) -> None:
        """End the connection if its client reads or sends too slowly; `now` is the loop's time."""
        conn, unsent = self.conn, self.transport.get_write_buffer_size()
        if self._sending.is_late(now, conn.written - unsent, waits=unsent > 0):
            _log.warning("a client reads its answer too slowly; its connection is closed")
            self.drop()
            return
        waits = (
            conn.their_state in _UNFINISHED
            and self.timeout_keep_alive_task is None  # uvicorn's own timer, between two requests
            and not self.flow.read_paused
            and not self.transport.is_closing()
        )
        # The rest of a body behind its answer moves nothing: it is read only so that the client may notice the answer.
        if not self._reading.is_late(now, 0 if conn.our_state is h11.DONE else conn.received, waits=waits):
            return
        _log.warning("a client sends its request too slowly; its connection is closed")
        if conn.their_state is h11.SEND_BODY or conn.trailing_data[0]:
            self._refuse(ApiError(408, "the request did not come in time", code="too_slow"))
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no proper request, with the reason; uvicorn's own sends `msg` alone."""
        self._refuse(self.conn.fault or ApiError(400, msg, code="invalid_http"))

    def _refuse(self, error: ApiError) -> None:
        """Answer with an error if no answer has begun, and close. The application sees that its client has left."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = bytes(error.response().body)
            head = (
                f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade is answered as a request without it; uvicorn would write two lines about missing libraries."""


def waiting_in(connections: Iterable[object]) -> list[Connection]:
    """Those that wait for their client's request: first those that wait for its head, the longest wait first."""
    waiting = [one for one in connections if isinstance(one, Connection) and one.conn.their_state in _UNFINISHED]
    return sorted(waiting, key=lambda one: (one.conn.their_state is h11.SEND_BODY, one._since))


class _Pace:
    """Whether a client moves enough bytes in each span of time in which the server waits for it."""

    def __init__(self, settings: HttpSettings, now: float) -> None:
        self._span_s, self._least_bytes = settings.slow_client_s, settings.slow_client_bytes
        self._since, self._moved = now, 0

    def is_late(self, now: float, moved: int, *, waits: bool) -> bool:
        """`moved` counts the bytes so far. The span begins anew where the server does not wait for the client."""
        if waits and now - self._since < self._span_s:
            return False
        enough = moved - self._moved >= self._least_bytes
        self._since, self._moved = now, moved
        return waits and not enough


class _Http(h11.Connection):
    """h11's state of one connection. It counts bytes, and refuses requests that two programs may read differently."""

    def __init__(self, max_head_bytes: int) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=max_head_bytes)
        self._max_head_bytes = max_head_bytes
        self.received = self.written = 0
        self.fault: ApiError | None = None
        """Why the last request is refused."""

    def receive_data(self, data: bytes) -> None:
        self.received += len(data)
        super().receive_data(data)

    def send(self, event: Any) -> bytes | None:  # type: ignore[override]
        data = super().send(event)
        self.written += len(data or b"")
        return data

    def next_event(self) -> Any:
        before = self.trailing_data[0] if self.their_state is h11.IDLE else b""
        try:
            event = super().next_event()
            if isinstance(event, h11.Request):
                self._check(event, before[: len(before) - len(self.trailing_data[0])])
        except h11.RemoteProtocolError as error:
            status = 431 if error.error_status_hint == 431 else 400
            self.fault = ApiError(status, f"this is no request of HTTP/1.1: {error}", code="invalid_http")
            raise
        return event

    def _check(self, request: h11.Request, head: bytes) -> None:
        """Raise RemoteProtocolError. A proxy before this server may end such a request elsewhere than h11 does."""
        names = [name for name, _ in request.headers]
        if len(head) > self._max_head_bytes:
            raise h11.RemoteProtocolError(
                f"its headers have more than {self._max_head_bytes:,} bytes", error_status_hint=431
            )
        for reason, is_so in (
            ("a header goes on in a second line, or a line ends with a line feed alone", _ODD_LINES.search(head)),
            ("two lengths", len(found := _LENGTHS.findall(head)) > 1 or b"," in b"".join(found)),
            ("Content-Length and Transfer-Encoding", b"transfer-encoding" in names and b"content-length" in names),
            ("Transfer-Encoding in HTTP/1.0", b"transfer-encoding" in names and request.http_version == b"1.0"),
            ("an unknown version", request.http_version not in (b"1.0", b"1.1")),
            ("the target is no path", not request.target.startswith(b"/")),
        ):
            if is_so:
                raise h11.RemoteProtocolError(reason)


def _place(host: str) -> IPv4Address | IPv6Network | None:
    """The address of a client; of IPv6 its network of 64 bits, because one client has all addresses of a network."""
    try:
        address = ip_address(host)
    except ValueError:  # a socket of the file system has no address
        return None
    if isinstance(address, IPv4Address):
        return address
    return address.ipv4_mapped or IPv6Network((int(address), 64), strict=False)
