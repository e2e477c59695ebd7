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
from kameleon.http.keys import key_of
from kameleon.http.request_log import entry_of

_GONE = "there is no such model any more; GET /v1/models lists those that there are"
_UNUSABLE = "this model cannot be used: its files are damaged or do not fit the base; the server's log says more"
_MISSING = "this server lacks a library for that; its log says which"
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


def as_api_error(error: KameleonError, *, is_admin: bool) -> ApiError:
    """One of Kameleon's errors as a client sees it. An error that a request can cause is never a 5xx.

    What an error says of the shelf, of files and of the server's own state (names of other adapters, folders, sizes) is
    for an admin only. Others get a sentence that is the same for all; the log has what they do not see.
    """
    if isinstance(error, ApiError):
        return error
    message = str(error)
    match error:
        case QueueFullError():
            return ApiError(429, message, code="queue_full")
        case AdapterNotFoundError():
            return ApiError(404, message if is_admin else _GONE, code="model_not_found", param="model")
        case AdapterError():
            return ApiError(422, message if is_admin else _UNUSABLE, code="adapter_unusable", param="model")
        case ContextLengthError():
            return ApiError(400, message, code="context_length_exceeded")
        case SettingError() | DataError() | TemplateLimitError():
            return ApiError(400, message, code="invalid_value")
        case MissingExtraError():
            return ApiError(501, message if is_admin else _MISSING, code="missing_extra")
        case RequestFaultError():
            return internal_error()
        case _:
            return ApiError(500, message, code="internal_error") if is_admin else internal_error()


def error_response(error: KameleonError, request: HTTPConnection) -> Response:
    """The response to one of Kameleon's own errors, noted for the log.

    A full queue says when to come back, and a missing key which kind is wanted.
    """
    shown, headers = as_api_error(error, is_admin=key_of(request).is_admin), dict[str, str]()
    if isinstance(error, QueueFullError):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if shown.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    refusal = {"code": shown.code, "param": shown.param}
    entry = entry_of(request)
    entry.refusal = {name: value for name, value in refusal.items() if value is not None}
    entry.hidden = str(error) if str(shown) != str(error) else None
    return shown.response(headers)
