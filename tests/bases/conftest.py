"""Each test has a hub's cache of its own, and may ask a small hub."""

import threading
from http.server import ThreadingHTTPServer

import huggingface_hub.constants
import pytest
from hub import Hub


@pytest.fixture(autouse=True)
def hub_cache(tmp_path, monkeypatch):
    """The hub's library reads its environment when it is imported, so the cache is moved here."""
    cache = tmp_path / "hub-cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return cache


@pytest.fixture(scope="module")
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()
