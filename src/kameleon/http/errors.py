"""Errors as OpenAI's clients expect them: a status, and one JSON object with the message."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from fastapi.responses import Response
from starlette.requests import HTTPConnection

from kameleon.errors import (
    AdapterError,
    AdapterNotFoundError,
    ContextLengthError,
    DataError,
    KameleonError,
    MissingExtraError,
    QueueFullError,
    RequestFaultError,
    SettingError,
    TemplateLimitError,
)
from kameleon.http.request_log import entry_of

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


def internal_error() -> ApiError:
    """What a client is told of a fault of ours: it may hold what is nobody else's business."""
    return ApiError(500, "the server failed at this request; its log says why", code="internal_error")


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
        case ContextLengthError():
            return ApiError(400, message, code="context_length_exceeded")
        case SettingError() | DataError() | TemplateLimitError():
            return ApiError(400, message, code="invalid_value")
        case MissingExtraError():
            return ApiError(501, message, code="missing_extra")
        case RequestFaultError():
            return internal_error()
        case _:
            return ApiError(500, message, code="internal_error")


def error_response(error: KameleonError, request: HTTPConnection) -> Response:
    """The response to one of Kameleon's own errors, noted for the log.

    A full queue says when to come back, and a missing key which kind is wanted.
    """
    shown, headers = as_api_error(error), dict[str, str]()
    if isinstance(error, QueueFullError):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if shown.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    refusal = {"code": shown.code, "param": shown.param}
    entry_of(request).refusal = {name: value for name, value in refusal.items() if value is not None}
    return shown.response(headers)
