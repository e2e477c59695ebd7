"""Checks of every request before a route sees it: host, origin, key, size and encoding."""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Callable, Collection

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kameleon.http.errors import ApiError, error_response
from kameleon.http.keys import EVERYBODY, NOBODY, Key, KeyRing

_OTHER_KEYS = ("api-key", "x-api-key", "x-goog-api-key", "openai-api-key")  # headers in which other servers take keys
_HOST = re.compile(r"(?:\[([0-9a-f.]*:[0-9a-f:.]*)\]|([a-z0-9._-]+))(?::\d{1,5})?|", re.IGNORECASE | re.ASCII)
_OPEN_PATHS = ("/health", "/ready")  # asked by programs that watch the process; they tell nothing else


def is_local(host: str) -> bool:
    """Whether a host is a loopback address or "localhost"."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Cors(CORSMiddleware):
    """Lets pages of the allowed origins in, from the internet too. Others are left to `Guard`, which says why not."""

    def __init__(self, app: ASGIApp, *, origins: Collection[str]) -> None:
        super().__init__(
            app, allow_origins=origins, allow_methods=["*"], allow_headers=["*"], allow_private_network=True
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = Headers(scope=scope).get("origin") if scope["type"] == "http" else None
        knows = origin is not None and self.is_allowed_origin(origin)
        await (super().__call__ if knows else self.app)(scope, receive, send)


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
        state = scope.setdefault("state", {})
        state["key"] = NOBODY
        try:
            self._check_origin(headers)
            state["key"] = self._check_key(scope, headers)
            _check_body(headers, limit)
        except ApiError as error:
            await error_response(error, HTTPConnection(scope))(scope, receive, send)
            return
        await self._app(scope, _counted(receive, limit), send)

    def _check_origin(self, headers: Headers) -> None:
        host = headers.get("host", "")
        name = _name(host)
        if name is None:
            message = f"the header Host is {host[:80]!r}; it must be a name or an address, with a port or without"
            raise ApiError(400, message, code="wrong_host")
        if self._keys is None and not is_local(name):
            raise ApiError(
                403,
                f"this server is for this machine only, but the request names the host {host[:80]!r}",
                code="wrong_host",
            )
        origin = headers.get("origin")
        if origin is None or self._origins & {origin, "*"} or origin in (f"http://{host}", f"https://{host}"):
            return
        page = origin[:80]
        raise ApiError(
            403,
            f"a page of {page!r} may not use this server; to let its pages in, start it with "
            f"--cors-origins {shlex.quote(page)}, or with --cors-origins '*' for all pages",
            code="wrong_origin",
        )

    def _check_key(self, scope: Scope, headers: Headers) -> Key:
        if self._keys is None:
            return EVERYBODY
        if scope["path"] in _OPEN_PATHS or scope["method"] == "OPTIONS":
            return NOBODY
        scheme, _, presented = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            message = f"{_came_instead(headers)}; send the header Authorization: Bearer KEY"
            raise ApiError(401, message, code="invalid_api_key")
        key = self._keys.find(presented.strip())
        if key is None:
            raise ApiError(401, "this server does not know the API key that came", code="invalid_api_key")
        return key


def _name(host: str) -> str | None:
    """A Host header without its port and the brackets of IPv6; "" for one that is missing, None for any other text."""
    found = _HOST.fullmatch(host)
    return found and (found[1] or found[2] or "")


def _came_instead(headers: Headers) -> str:
    if "authorization" in headers:
        return "the header Authorization lacks the word Bearer"
    other = next((name for name in _OTHER_KEYS if name in headers), None)
    return f"an API key came in the header {other}, which is not read" if other else "an API key is needed"


def _check_body(headers: Headers, limit: int) -> None:
    """Refuse a body by its headers."""
    length, encoding = headers.get("content-length", ""), headers.get("content-encoding", "identity")
    if length.isdecimal() and int(length[:20]) > limit:
        raise ApiError(413, _too_large(limit), code="too_large")
    if encoding.lower() != "identity":
        message = f"the header Content-Encoding says {encoding[:40]!r}; send the body as it is, without compression"
        raise ApiError(415, message, code="wrong_encoding")


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
