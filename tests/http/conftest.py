"""A server over a tiny base: in-process for most tests, on a port of its own for real clients."""

import sys
import threading
from pathlib import Path

import pytest
from starlette.testclient import TestClient

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

from fakes import random_adapter

from kameleon.http import Runner, Service, create_app, open_socket
from kameleon.serving import Engine, HotAdapters, Limits
from kameleon.settings import HttpSettings

LIMITS = Limits(kv_cache_bytes=4 << 20, adapter_bytes=64 << 20, max_queue=32)


@pytest.fixture
def make_service(tiny):
    """Make a service over the tiny base; every engine ends with the test."""
    made = []

    def make(limits=LIMITS, **fields):
        adapters = HotAdapters(tiny.base, tiny.shelf)
        engine = Engine(tiny.base, adapters, limits)
        made.append(engine)
        return Service(tiny.base, engine, adapters=adapters, shelf=tiny.shelf, **fields)

    yield make
    for engine in made:
        engine.close(0)


@pytest.fixture
def shelf(tiny):
    """The tiny base's shelf with two adapters that change what it says."""
    for seed, name in enumerate(("law", "medicine")):
        tiny.shelf.save(random_adapter(tiny.base, name, seed))
    return tiny.shelf


@pytest.fixture
def service(make_service, shelf):
    return make_service()


@pytest.fixture
def client(service):
    """A client of the real application, in this process."""
    with TestClient(create_app(service), base_url="http://127.0.0.1") as opened:
        yield opened


@pytest.fixture
def listen():
    """Serve an application on a free port of this machine; returns its address. Ends with the test."""
    running = []

    def start(app, **fields):
        settings = HttpSettings(port=0, drain_s=1, **fields)
        opened = open_socket(settings)
        runner, ready = Runner(settings), threading.Event()
        thread = threading.Thread(target=runner.run, args=(app, opened), kwargs={"on_ready": ready.set}, daemon=True)
        thread.start()
        assert ready.wait(10)
        running.append((runner, thread))
        return f"http://127.0.0.1:{opened.getsockname()[1]}"

    yield start
    for runner, thread in running:
        runner.stop()
        thread.join(10)


@pytest.fixture
def address(service, listen):
    """Where the tiny base is served."""
    return listen(create_app(service))
