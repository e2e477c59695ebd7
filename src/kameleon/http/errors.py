"""Errors as OpenAI's clients expect them: a status, and one JSON object with the message."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from kameleon.errors import (
    AdapterError,
    AdapterNotFoundError,
    DataError,
    KameleonError,
    MissingExtraError,
    QueueFullError,
    SettingError,
)
from kameleon.http.request_log import word
from kameleon.words import did_you_mean

_log = logging.getLogger(__name__)
_CLIENT_GONE = 499  # nginx's number, for the log: no client is left to read it
_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(KameleonError):
    """The error response to a request. `code` is for programs, `param` names the field at fault."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param

    def response(self, headers: Mapping[str, str] | None = None) -> Response:
        """OpenAI's error object."""
        kind = _KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return json_response(
            {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}},
            self.status,
            headers=headers,
        )


class ClientGoneError(Exception):
    """The client closed its connection before it had its answer."""


def json_response(document: Any, status: int = 200, *, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON document in ASCII, because a message may repeat text that is not UTF-8."""
    return Response(json.dumps(document), status, headers, media_type="application/json")


def as_api_error(error: KameleonError) -> ApiError:
    """One of Kameleon's errors as a client sees it. An error that a request can cause is never a 5xx."""
    if isinstance(error, ApiError):
        return error
    message = str(error)
    match error:
        case QueueFullError():
            return ApiError(429, message, code="queue_full")
        case AdapterNotFoundError():
            return ApiError(404, message, code="model_not_found", param="model")
        case AdapterError():
            return ApiError(422, message, code="adapter_unusable", param="model")
        case SettingError() | DataError():
            return ApiError(400, message, code="invalid_value")
        case MissingExtraError():
            return ApiError(501, message, code="missing_extra")
        case _:
            return ApiError(500, message, code="internal_error")


def error_response(error: KameleonError) -> Response:
    """The response to one of Kameleon's own errors; a full queue says when to come back."""
    headers = {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))} if isinstance(error, QueueFullError) else {}
    return as_api_error(error).response(headers)


def install_error_handlers(app: FastAPI, fields: frozenset[str]) -> None:
    """Make every error of `app` an error object of OpenAI's shape. `fields`: known names of fields, for hints."""

    async def on_own(request: Request, error: Exception) -> Response:
        assert isinstance(error, KameleonError)
        return error_response(error)

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _validation_error(error, fields).response()

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return ApiError(error.status_code, str(error.detail)).response(error.headers)

    async def on_gone(request: Request, error: Exception) -> Response:
        return Response(status_code=_CLIENT_GONE)

    async def on_bug(request: Request, error: Exception) -> Response:
        _log.error("%s %s failed", word(request.method), word(request.url.path), exc_info=error)
        return ApiError(500, "the server failed at this request; its log says why", code="internal_error").response()

    app.add_exception_handler(KameleonError, on_own)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(ClientGoneError, on_gone)
    app.add_exception_handler(ClientDisconnect, on_gone)
    app.add_exception_handler(Exception, on_bug)


def _validation_error(error: RequestValidationError, fields: frozenset[str]) -> ApiError:
    """Up to five faults in one message, and the first one's field in `param`. Values are left out: they may be huge."""
    told, first = [], None
    for fault in list(error.errors())[:5]:
        words = [str(word)[:80] for word in fault["loc"][1:]]
        where = ".".join(words)
        if first is None:
            first = where or None
        if fault["type"] == "json_invalid":
            return ApiError(400, f"the body is not JSON: {fault.get('ctx', {}).get('error', 'it breaks off')}")
        if fault["type"] == "extra_forbidden":
            hint = did_you_mean(words[-1], fields)
            told.append(f"{where}: no such field{hint and '; ' + hint}")
        else:
            told.append(f"{where}: {fault['msg']}" if where else str(fault["msg"]))
    return ApiError(400, "; ".join(told), code="invalid_value", param=first)
