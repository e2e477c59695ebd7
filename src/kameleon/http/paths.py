"""Paths of requests: other spellings made plain, and an index of the paths that exist at /."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

router = APIRouter()
_BESIDE = {"/metrics": "Counts for Prometheus", "/openapi.json": "This interface as an OpenAPI schema"}


class PlainPaths:
    """ASGI middleware: doubled and trailing slashes of a path do not count, and HEAD is answered as GET is.

    The server itself leaves out the body of an answer to HEAD.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = re.sub("//+", "/", scope["path"]).rstrip("/") or "/"
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            scope = {**scope, "path": path, "method": method}
        await self._app(scope, receive, send)


def paths_of(app: FastAPI) -> list[str]:
    """The paths that `app` answers."""
    return [*app.openapi()["paths"], *_BESIDE]


@router.get("/", include_in_schema=False)
async def index(request: Request) -> Response:
    """The paths that exist, as a page for a browser and as text for others."""
    app, address = request.app, address_of(request)
    title = f"Kameleon {app.version}"
    about = f"OpenAI's interface to one base and its adapters. The base URL for clients: {address}/v1"
    routes = [*_routes(app), *(("GET", path, does) for path, does in _BESIDE.items())]
    if "text/html" not in request.headers.get("accept", ""):
        lines = [f"{method:6}{path:36}{does}" for method, path, does in routes]
        return PlainTextResponse("\n".join([title, about, "", *lines, ""]))
    rows = "".join(f"<tr><td>{method}<td>{_link(method, path)}<td>{escape(does)}\n" for method, path, does in routes)
    page = f"<!doctype html><title>{title}</title><h1>{title}</h1><p>{escape(about)}</p><table>\n{rows}</table>"
    return HTMLResponse(page, headers={"Content-Security-Policy": "default-src 'none'"})


def address_of(request: Request) -> str:
    """The address that the client used for this server, such as "http://127.0.0.1:8000"."""
    return str(request.base_url).rstrip("/")


def _routes(app: FastAPI) -> Iterator[tuple[str, str, str]]:
    """Method, path and first sentence of each route's description."""
    for path, methods in app.openapi()["paths"].items():
        for method, route in methods.items():
            yield method.upper(), path, route["description"].partition("\n")[0].partition(". ")[0].rstrip(".")


def _link(method: str, path: str) -> str:
    return f'<a href="{path}">{path}</a>' if method == "GET" and "{" not in path else escape(path)
