"""GET /v1/models: the base and every adapter, each a model."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from kameleon.http.errors import json_response
from kameleon.http.guard import key_of
from kameleon.http.service import Service, service_of

router = APIRouter()


@router.get("/v1/models")
def models(request: Request) -> Response:
    """The values that `model` can have: the base and all adapters that this request's key may use."""
    service, key = service_of(request), key_of(request)
    names = [name for name in [service.name, *service.adapter_names()] if key is None or key.may_use(name)]
    return json_response({"object": "list", "data": [_model(service, name) for name in dict.fromkeys(names)]})


@router.get("/v1/models/{model:path}")
def model(model: str, request: Request) -> Response:
    """One model; its name may hold slashes, as a base's hub id does."""
    service = service_of(request)
    adapter = service.adapter_of(model, key_of(request))
    return json_response(_model(service, adapter or service.name))


def _model(service: Service, name: str) -> dict[str, Any]:
    """OpenAI's object, and vLLM's `root`, `parent` and `max_model_len`."""
    is_base = name == service.name
    return {
        "id": name,
        "object": "model",
        "created": service.started,
        "owned_by": "kameleon",
        "root": service.name,
        "parent": None if is_base else service.name,
        "max_model_len": service.room_tokens,
    }
