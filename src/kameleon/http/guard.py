"""Checks of every request before a route sees it: host, origin, key and size."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kameleon.http.errors import ApiError
from kameleon.http.keys import Key, KeyRing

_OPEN_PATHS = ("/health", "/ready")  # asked by programs that watch the process; they tell nothing else


def is_local(host: str) -> bool:
    """Whether a host is a loopback address or "localhost"."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Guard:
    """ASGI middleware. It refuses a request before its body is read; the body's size is counted while it comes.

    Without keys, the Host header must name this machine. This stops web pages whose own host name leads to 127.0.0.1
    (DNS rebinding). Pages of other origins are refused too, because browsers send simple forms to any host.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: KeyRing | None,
        origins: Collection[str],
        max_bytes: Callable[[str], int],
    ) -> None:
        self._app, self._keys, self._origins, self._max_bytes = app, keys, frozenset(origins), max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limit = self._max_bytes(scope["path"])
        try:
            self._check_origin(headers)
            scope.setdefault("state", {})["key"] = self._check_key(scope, headers)
            _check_length(headers.get("content-length"), limit)
        except ApiError as error:
            await error.response(_challenge(error))(scope, receive, send)
            return
        await self._app(scope, _counted(receive, limit), send)

    def _check_origin(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if self._keys is None and not is_local(_name(host)):
            raise ApiError(
                403,
                f"this server is for this machine only, but the request names the host {host[:80]!r}",
                code="wrong_host",
            )
        origin = headers.get("origin")
        if origin is not None and origin not in self._origins and origin.partition("://")[2] != host:
            raise ApiError(
                403,
                f"a page of {origin[:80]!r} may not use this server; allow it with --cors-origins",
                code="wrong_origin",
            )

    def _check_key(self, scope: Scope, headers: Headers) -> Key | None:
        if self._keys is None or scope["path"] in _OPEN_PATHS or scope["method"] == "OPTIONS":
            return None
        scheme, _, presented = headers.get("authorization", "").partition(" ")
        key = self._keys.find(presented.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            raise ApiError(401, "no valid API key: send Authorization: Bearer KEY", code="invalid_api_key")
        return key


def _name(host: str) -> str:
    """A Host header without its port."""
    return host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]


def _challenge(error: ApiError) -> dict[str, str]:
    return {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}


def _check_length(declared: str | None, limit: int) -> None:
    if declared is not None and declared.isdecimal() and int(declared[:20]) > limit:
        raise ApiError(413, _too_large(limit), code="too_large")


def _too_large(limit: int) -> str:
    return f"the request is larger than {limit:,} bytes, the most this server takes here"


def _counted(receive: Receive, limit: int) -> Receive:
    """A `receive` that raises after `limit` bytes of body, because the Content-Length header may be wrong."""
    seen = 0

    async def counting() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > limit:
                raise HTTPException(413, _too_large(limit))  # the parsers of bodies let this error through
        return message

    return counting


def key_of(request: Request) -> Key | None:
    """The key that a request came with; None on a server without keys."""
    return request.state.key
