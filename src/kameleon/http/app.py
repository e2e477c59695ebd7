"""The HTTP application: routes, guards, errors and metrics around one engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from anyio import CapacityLimiter
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from kameleon.http import adapters, chat, completions, embeddings, health, metrics, models, paths
from kameleon.http.guard import Cors, Guard
from kameleon.http.handlers import install_error_handlers
from kameleon.http.keys import KeyRing
from kameleon.http.paths import PlainPaths
from kameleon.http.request_log import LogRequests
from kameleon.http.service import Service
from kameleon.settings import HttpSettings

_LOADS = 40  # at once, by /v1/adapters; each has a thread, and may wait long for room


def create_app(service: Service, settings: HttpSettings | None = None, *, keys: KeyRing | None = None) -> FastAPI:
    """The application. When it shuts down, it lets the engine's running answers end, for at most `drain_s`."""
    settings = HttpSettings() if settings is None else settings

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.engine.close, settings.drain_s)

    # Without FastAPI's pages of documentation, which fetch scripts from other hosts; the schema itself is served.
    app = FastAPI(
        title="Kameleon",
        version=version("kameleon"),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.service = service
    app.state.registry, responses = metrics.make_registry(service)
    app.state.loading = CapacityLimiter(_LOADS)
    for part in (chat, completions, embeddings, models, adapters, health, metrics, paths):
        app.include_router(part.router)
    install_error_handlers(app)
    origins = list(settings.cors_origins)

    def max_bytes(path: str) -> int:
        return settings.max_upload_bytes if path.startswith("/v1/adapters/") else settings.max_request_bytes

    # The last one added is the outermost.
    app.add_middleware(Guard, keys=keys, origins=origins, max_bytes=max_bytes)
    if origins:
        app.add_middleware(Cors, origins=origins)
    app.add_middleware(metrics.CountResponses, responses=responses)
    app.add_middleware(PlainPaths)
    app.add_middleware(LogRequests)
    return app
