"""Many requests over HTTP at once; each answer is streamed to its own client."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from kameleon.errors import ContenderError

ANSWER_S = 120.0
"""Seconds of silence after which a contender has failed: several times the longest that a working one has taken."""
_LONGEST_S = 600.0  # of one load


class Drive(NamedTuple):
    """The result of one load: its seconds, all tokens, and the seconds to the first token of each answer."""

    seconds: float
    tokens: int
    first_token_s: list[float]


def joined(drives: Sequence[Drive]) -> Drive:
    """Several loads in succession as one."""
    first = [first_s for one in drives for first_s in one.first_token_s]
    return Drive(sum(one.seconds for one in drives), sum(one.tokens for one in drives), first)


def drive(netloc: str, path: str, bodies: Sequence[dict[str, Any]], *, silent_s: float = ANSWER_S) -> Drive:
    """Post all bodies at once and read their streams.

    Streams are parsed at the end, since clients share the machine with the server. Raises ContenderError when a stream
    fails, is silent for `silent_s`, or does not end.
    """
    clients = [_Client(netloc, path, body, silent_s) for body in bodies]
    start = time.perf_counter()
    for client in clients:
        client.start()
    for client in clients:
        client.join(max(0.0, start + _LONGEST_S - time.perf_counter()))
    seconds = time.perf_counter() - start
    for client in clients:
        if client.is_alive():
            raise ContenderError(f"a request was not answered in {_LONGEST_S:.0f} s")
        if client.fault is not None:
            raise ContenderError(f"a request failed: {client.fault}")
    return Drive(seconds, sum(map(_Client.tokens, clients)), [client.first_s for client in clients])


class _Client(threading.Thread):
    def __init__(self, netloc: str, path: str, body: dict[str, Any], silent_s: float) -> None:
        super().__init__(daemon=True)
        self._connection = http.client.HTTPConnection(netloc, timeout=silent_s)
        self._path, self._body = path, json.dumps(body)
        self._content = b""
        self.first_s = 0.0
        self.fault: str | None = None

    def run(self) -> None:
        start = time.perf_counter()
        try:
            self._connection.request("POST", self._path, self._body, {"Content-Type": "application/json"})
            with self._connection.getresponse() as response:
                first = response.readline()
                self.first_s = time.perf_counter() - start
                self._content = first + response.read()
                if response.status != 200:
                    self.fault = f"{response.status}: {self._content[:300]!r}"
        except TimeoutError:
            self.fault = f"it said nothing for {self._connection.timeout:.0f} s"
        except (OSError, http.client.HTTPException) as error:
            self.fault = repr(error)
        finally:
            self._connection.close()

    def tokens(self) -> int:
        """Generated tokens, as the last event with a count says."""
        for event in reversed(self._content.split(b"\n\n")):
            if event.startswith(b"data: {"):
                document = json.loads(event[6:])
                if document.get("usage"):
                    return int(document["usage"]["completion_tokens"])
                if "tokens_predicted" in document:  # llama-server's own
                    return int(document["tokens_predicted"])
        raise ContenderError(f"a stream did not say how many tokens it had: {self._content[-300:]!r}")
