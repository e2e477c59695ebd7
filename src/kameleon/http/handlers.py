"""What becomes of every exception in a request: an error object that says what to do, and a note for the log."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from kameleon.errors import KameleonError
from kameleon.http.bodies import UNKNOWN_FIELDS
from kameleon.http.elsewhere import unknown_path
from kameleon.http.errors import ApiError, ClientGoneError, error_response, internal_error
from kameleon.http.paths import address_of, paths_of
from kameleon.http.request_log import entry_of, word
from kameleon.words import first_few

_log = logging.getLogger(__name__)
_CLIENT_GONE = 499  # nginx's number, for the log: no client is left to read it
_SHOWN_FAULTS = 5


def install_error_handlers(app: FastAPI) -> None:
    """Make every error of `app` an error object of OpenAI's shape."""

    async def on_own(request: Request, error: Exception) -> Response:
        assert isinstance(error, KameleonError)
        return error_response(error, request)

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        if isinstance(error.body, dict) and isinstance(model := error.body.get("model"), str):
            entry_of(request).model = model
        return error_response(_invalid(error), request)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        response = error_response(_http_error(error, request), request)
        response.headers.update(error.headers or {})
        return response

    async def on_gone(request: Request, error: Exception) -> Response:
        return Response(status_code=_CLIENT_GONE)

    async def on_bug(request: Request, error: Exception) -> Response:
        _log.error("%s %s failed", word(request.method), word(request.url.path), exc_info=error)
        return internal_error().response()

    app.add_exception_handler(KameleonError, on_own)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(ClientGoneError, on_gone)
    app.add_exception_handler(ClientDisconnect, on_gone)
    app.add_exception_handler(Exception, on_bug)


def _http_error(error: HTTPException, request: Request) -> ApiError:
    """An error of the libraries below: a path or method that is not here, or a body that cannot be read."""
    path, detail = request.scope["path"], str(error.detail)
    match error.status_code:
        case 404:
            message = unknown_path(path, paths_of(request.app), address=address_of(request))
            return ApiError(404, message, code="unknown_path")
        case 405:
            allowed = (error.headers or {}).get("Allow", "another method")
            return ApiError(405, f"{path[:80]} takes {allowed}, not {request.method[:20]}", code="wrong_method")
        case 413:
            return ApiError(413, detail, code="too_large")
        case status:
            told = f"{detail}: {error.__cause__}" if error.__cause__ else detail
            return ApiError(status, told, code="invalid_body" if status < 500 else "internal_error")


def _invalid(error: RequestValidationError) -> ApiError:
    """The faults of a request, the first one's field in `param`. Values are left out: they may be huge."""
    faults, body = list(error.errors())[:100], error.body
    if faults[0]["type"] == "json_invalid":
        reason = faults[0].get("ctx", {}).get("error", "it breaks off")
        return ApiError(400, f"the body is not JSON: {reason}", code="invalid_json")
    if faults[0]["loc"] == ("body",) and not isinstance(body, dict):
        came = "is empty" if body in (None, b"") else "is a list" if isinstance(body, list) else "is no object"
        message = f"the body {came}; send a JSON object with the header Content-Type: application/json"
        return ApiError(400, message, code="invalid_value")
    told: dict[str, list[str]] = {}
    for fault in faults:
        place = _place(fault["loc"][1:], body, is_missing=fault["type"] == "missing")
        for field, said in _said(fault).items():
            where = ".".join([*place, *([field[:80]] if field else [])])
            if said not in told.setdefault(where, []):
                told[where].append(said)
    # A fault inside of a value says more than one of the value as a whole, which was tried as another type.
    told = {where: said for where, said in told.items() if not any(it.startswith(f"{where}.") for it in told)}
    lines = [f"{where}: {' or '.join(said)}" for where, said in told.items()]
    return ApiError(
        400, first_few(lines, _SHOWN_FAULTS, separator="; "), code="invalid_value", param=next(iter(told)) or None
    )


def _said(fault: dict[str, Any]) -> dict[str, str]:
    """What is said of each field of a place; "" is the place itself."""
    if fault["type"] == UNKNOWN_FIELDS:
        return fault["ctx"]["told"]
    if fault["type"] == "missing":
        hint = "; GET /v1/models lists the names that it can have" if fault["loc"][-1] == "model" else ""
        return {"": f"this field is missing{hint}"}
    return {"": fault["msg"]}


def _place(location: Sequence[str | int], body: Any, *, is_missing: bool) -> list[str]:
    """The path of a fault in the body. Its location also names the types that were tried, and these are left out."""
    place, at = list[str](), body
    for step in location[:-1] if is_missing else location:
        if (isinstance(at, dict) and step in at) or (isinstance(at, list) and step in range(len(at))):
            at = at[step]  # type: ignore[index]  (a number in a list, a name in a dict)
            place.append(str(step)[:80])
    return [*place, str(location[-1])] if is_missing else place
