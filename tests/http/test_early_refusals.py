"""What can be refused by method, path, headers and key is refused before a byte of the body is read."""

import asyncio

import pytest

from kameleon.http import KeyRing, create_app

ADMIN, USER = "the-key-of-an-admin", "the-key-of-a-user"
FORM = "multipart/form-data; boundary=b"
UPLOAD = "/v1/adapters/new"


@pytest.fixture
def keys(tmp_path):
    (tmp_path / "keys").write_text(f"{ADMIN}\n{USER} law\n")
    return KeyRing.read(tmp_path / "keys")


def ask(app, method, path, *, key, kind, length="400000000"):
    """The status of a request whose body must not be read."""
    headers = {"host": "models.example", "authorization": f"Bearer {key}", "content-type": kind}
    headers |= {"content-length": length} if length else {"transfer-encoding": "chunked"}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "server": ("127.0.0.1", 80),
    }
    sent = []

    async def receive():
        pytest.fail("the body is read")

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent[0]["status"]


REFUSED = [
    ("PUT", UPLOAD, USER, FORM, 403),
    ("PUT", UPLOAD, "a-key-that-nobody-has", FORM, 401),
    ("PUT", UPLOAD, ADMIN, "application/x-www-form-urlencoded", 415),
    ("PUT", UPLOAD, ADMIN, "multipart/form-data", 415),
    ("PUT", UPLOAD, ADMIN, "application/json", 415),
    ("PUT", "/v1/adapters/.new", ADMIN, FORM, 400),
    ("POST", UPLOAD, ADMIN, FORM, 405),
    ("POST", "/v1/load_lora_adapter", USER, "application/json", 403),
    ("POST", "/v1/unload_lora_adapter", USER, "application/json", 403),
    ("POST", "/v1/adapters/law/load", USER, "application/json", 403),
    ("POST", "/nowhere", USER, "application/json", 404),
    ("PUT", "/v1/chat/completions", USER, "application/json", 405),
    ("POST", "/v1/chat/completions", USER, "text/plain", 415),
    ("POST", "/v1/completions", USER, FORM, 415),
    ("POST", "/v1/embeddings", USER, "application/x-www-form-urlencoded", 415),
]


def test_a_refusal_comes_before_the_body(service, keys):
    app = create_app(service, keys=keys)
    for method, path, key, kind, status in REFUSED:
        for length in ("3000000", None):
            assert ask(app, method, path, key=key, kind=kind, length=length) == status, (method, path, kind)
    assert ask(app, "POST", "/v1/completions", key=USER, kind="application/json") == 413
    assert ask(app, "PUT", UPLOAD, key=ADMIN, kind=FORM, length="600000000") == 413
