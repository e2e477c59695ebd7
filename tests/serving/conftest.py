"""Engines over the tiny base."""

import pytest
from serving.engines import LIMITS

from kameleon.serving import Engine, HotAdapters


@pytest.fixture
def serve(tiny):
    """Start an engine; each one ends with the test."""
    engines = []

    def start(limits=LIMITS, on_failure=None, adapters=None):
        engines.append(Engine(tiny.base, adapters or HotAdapters(tiny.base, tiny.shelf), limits, on_failure=on_failure))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close(0)
