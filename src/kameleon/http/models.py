"""GET /v1/models: the base and every adapter, each a model."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from kameleon.http.errors import json_response
from kameleon.http.keys import Key, key_of
from kameleon.http.service import Service, service_of

router = APIRouter()


@router.get("/v1/models")
def models(request: Request) -> Response:
    """The values that `model` can have: the base and all adapters that this request's key may use."""
    service, key = service_of(request), key_of(request)
    names = [name for name in [service.name, *service.adapter_names()] if key.may_use(name)]
    return json_response({"object": "list", "data": [_model(service, key, name) for name in dict.fromkeys(names)]})


@router.get("/v1/models/{model:path}")
def model(model: str, request: Request) -> Response:
    """One model; its name may hold slashes, as a base's hub id does."""
    service, key = service_of(request), key_of(request)
    adapter = service.adapter_of(model, key)
    return json_response(_model(service, key, adapter or service.name))


def _model(service: Service, key: Key, name: str) -> dict[str, Any]:
    """OpenAI's object, and vLLM's `root`, `parent` and `max_model_len`. The base is named to those who may use it."""
    base = service.name if key.may_use(service.name) else None
    return {
        "id": name,
        "object": "model",
        "created": service.started,
        "owned_by": "kameleon",
        "root": base or name,
        "parent": None if name == service.name else base,
        "max_model_len": service.room_tokens,
    }
