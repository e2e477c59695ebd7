"""Requests to an engine of tests, and what comes of them."""

import threading

from kameleon import Sampling
from kameleon.generation import Request
from kameleon.serving import Client, Limits

LIMITS = Limits(kv_cache_bytes=1 << 21, adapter_bytes=1 << 20, max_request_s=60)


class Answer:
    """What came of one request."""

    def __init__(self):
        self.text, self.last, self.ended = "", None, threading.Event()

    def __call__(self, piece):
        self.text += piece.text
        if piece.completion is not None or piece.error is not None:
            self.last = piece
            self.ended.set()

    def wait(self):
        assert self.ended.wait(60), "no answer came"
        return self.last


def ask(engine, tiny, text, adapter=None, client=Client(), **wish):  # noqa: B008 (immutable)
    answer = Answer()
    wish = {"max_tokens": 8, **wish}
    answer.ticket = engine.submit(Request(tiny.encode_prompt(text), adapter, Sampling(**wish)), answer, client)
    return answer


def expected(tiny, text, adapter=None, **wish):
    wish = {"max_tokens": 8, **wish}
    return tiny.generate([text], [adapter], sampling=Sampling(**wish))[0]
