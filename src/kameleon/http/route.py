"""Routes that refuse a request by its headers before they read its body, which may have hundreds of megabytes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from email.message import Message
from typing import Any

from fastapi import Request
from fastapi.params import Form
from fastapi.responses import Response
from fastapi.routing import APIRoute

from kameleon.http.errors import ApiError


class Route(APIRoute):
    """A route that takes a body of its own kind only: JSON, or a form with files."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, which reads the body, behind `refuse`."""
        handle = super().get_route_handler()

        async def checked(request: Request) -> Response:
            self.refuse(request)
            return await handle(request)

        return checked

    def refuse(self, request: Request) -> None:
        """Raise ApiError 415 for a body that does not say the right kind."""
        headers = request.headers
        if self.body_field is None or not (
            "transfer-encoding" in headers or headers.get("content-length", "0").strip("0")
        ):
            return
        given = headers.get("content-type")
        kind = Message()
        kind["content-type"] = given or ""
        if isinstance(self.body_field.field_info, Form):
            fits = kind.get_content_type() == "multipart/form-data" and bool(kind.get_boundary())
            wanted = "a form with files, and with the header Content-Type: multipart/form-data; boundary=…"
        else:
            subtype = kind.get_content_subtype()
            fits = kind.get_content_maintype() == "application" and (subtype == "json" or subtype.endswith("+json"))
            wanted = "JSON with the header Content-Type: application/json"
        if not fits:
            came = f"came with Content-Type: {given[:80]}" if given else "came without a Content-Type"
            raise ApiError(415, f"the body {came}; send {wanted}", code="wrong_content_type")
