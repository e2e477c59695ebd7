"""GET /health and /ready, for programs that watch the process."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from kameleon.http.errors import ApiError, json_response
from kameleon.http.service import service_of

router = APIRouter()


@router.get("/health")
async def health() -> Response:
    """Whether the process answers at all."""
    return json_response({"status": "ok"})


@router.get("/ready")
async def ready(request: Request) -> Response:
    """Whether it takes requests: not while it shuts down."""
    if not service_of(request).engine.state().alive:
        raise ApiError(503, "the server is shutting down", code="shutting_down")
    return json_response({"status": "ready"})
