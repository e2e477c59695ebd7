"""OpenAI's HTTP interface around an engine (FastAPI, uvicorn): one base, and every adapter as a model."""

from __future__ import annotations

from importlib.util import find_spec

from kameleon.errors import MissingExtraError

_missing = [name for name in ("fastapi", "uvicorn", "prometheus_client", "python_multipart") if find_spec(name) is None]
if _missing:
    raise MissingExtraError(f"serving needs {', '.join(_missing)}", "serve")

from kameleon.http.app import create_app  # noqa: E402
from kameleon.http.keys import Key, KeyRing  # noqa: E402
from kameleon.http.process import Runner, open_socket  # noqa: E402
from kameleon.http.service import Service  # noqa: E402

__all__ = ["Key", "KeyRing", "Runner", "Service", "create_app", "open_socket"]
