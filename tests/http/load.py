"""Many clients of all kinds at once: those who check their answers, those who leave, those who send nonsense.

Each adapter's right answers are known beforehand, so an answer of another adapter shows.
"""

import http.client
import json
import math
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit

TOKENS = 8
FLEETING = ("gone", "swap")  # adapters that are deleted now and then, perhaps while they are being read


@dataclass
class Report:
    """What came of it."""

    statuses: Counter = field(default_factory=Counter)
    checked: int = 0
    left: int = 0
    faults: list = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Swaps:
    """Which version of the adapter "swap" was current when."""

    def __init__(self):
        self._spans, self._lock = [(0, 0.0, math.inf)], threading.Lock()

    def change(self, version, save):
        begun = time.monotonic()
        save()
        with self._lock:
            last, since, _ = self._spans[-1]
            self._spans[-1:] = [(last, since, time.monotonic()), (version, begun, math.inf)]

    def between(self, start, end):
        with self._lock:
            return {version for version, since, until in self._spans if since <= end and until >= start}


class Server:
    """Which server there is, and when one was killed."""

    def __init__(self, address):
        self.netloc, self.up, self.killed_s = urlsplit(address).netloc, threading.Event(), -math.inf
        self.up.set()

    def is_killed(self):
        self.up.clear()
        self.killed_s = time.monotonic()

    def may_have_been_down(self, since_s):
        return not self.up.is_set() or since_s <= self.killed_s


class Client(threading.Thread):
    """One client: does one thing after the other until the time is over. `expected`: texts by model and prompt, one for
    each version."""

    def __init__(self, server, expected, report, until, seed, *, key, swaps=None):
        super().__init__(daemon=True)
        self._server, self._key = server, key
        self._expected, self._report = expected, report
        self._until, self._random, self._swaps = until, random.Random(seed), swaps
        self._connection, self._connected_s = None, -math.inf
        kinds = (self._check, self._check_stream, self._leave, self._garbage, self._wrong_types, self._huge)
        self._kinds = [*kinds, self._unknown, self._embed]
        self._weights = [60, 20, 6, 3, 3, 0.3, 4, 4]

    def run(self):
        while time.monotonic() < self._until:
            (act,) = self._random.choices(self._kinds, self._weights)
            self._server.up.wait(60)
            begun_s = time.monotonic()
            try:
                act()
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                if not self._server.may_have_been_down(begun_s):
                    self._tell(f"{act.__name__}: {error!r}")
        self._drop()

    def _post(self, path, body):
        if self._server.may_have_been_down(self._connected_s):
            self._drop()
        if self._connection is None:
            self._connected_s = time.monotonic()
            self._connection = http.client.HTTPConnection(self._server.netloc, timeout=60)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        self._connection.request("POST", path, content, headers)
        response = self._connection.getresponse()
        if response.status == 429 and not int(response.headers.get("Retry-After", 0)) > 0:
            self._tell(f"429 with Retry-After {response.headers.get('Retry-After')!r}")
        with self._report.lock:
            self._report.statuses[response.status] += 1
        return response

    def _whole(self, path, body):
        response = self._post(path, body)
        content = response.read()
        if response.status >= 500:
            self._tell(f"{response.status}: {content[:300]}")
        return response.status, content

    def _drop(self):
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _tell(self, fault):
        with self._report.lock:
            self._report.faults.append(fault)

    def _wish(self, **fields):
        model, prompt = self._random.choice(list(self._expected))
        return {"model": model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, **fields}

    def _judge(self, wish, text, asked_s):
        right = self._expected[wish["model"], wish["prompt"]]
        if len(right) > 1:
            right = [right[version] for version in self._swaps.between(asked_s, time.monotonic())]
        with self._report.lock:
            self._report.checked += 1
        if text not in right:
            self._tell(f"{wish['model']} answered {wish['prompt']!r} with {text!r}, not {right!r}")

    def _check(self):
        wish, asked_s = self._wish(), time.monotonic()
        status, content = self._whole("/v1/completions", wish)
        if status == 200:
            self._judge(wish, json.loads(content)["choices"][0]["text"], asked_s)
        elif status == 429:
            time.sleep(0.05)
        elif status not in (404, 422) or wish["model"] not in FLEETING:
            self._tell(f"{status} for {wish['model']}: {content[:200]}")

    def _check_stream(self):
        wish, asked_s = self._wish(stream=True), time.monotonic()
        response = self._post("/v1/completions", wish)
        lines = [line for line in response.read().split(b"\n\n") if line]
        if response.status == 200:
            if lines[-1] != b"data: [DONE]":
                self._tell(f"a stream ended with {lines[-1][:200]!r}")
                return
            events = [json.loads(line.removeprefix(b"data: ")) for line in lines[:-1]]
            self._judge(wish, "".join(event["choices"][0]["text"] for event in events), asked_s)

    def _leave(self):
        """Vanish in mid-stream, or while waiting."""
        self._drop()
        try:
            response = self._post("/v1/completions", self._wish(stream=True, max_tokens=100, n=3))
            response.read(self._random.randrange(200))
            response.close()
        finally:
            self._drop()
        with self._report.lock:
            self._report.left += 1

    def _garbage(self):
        self._refused("/v1/chat/completions", self._random.randbytes(200))

    def _wrong_types(self):
        wrong = self._random.choice([None, [], {}, "x", -1, 1e400, [["x"]], {"a": [1]}, True])
        name = self._random.choice(["model", "prompt", "max_tokens", "temperature", "stop", "logit_bias", "n", "seed"])
        status, content = self._whole("/v1/completions", {**self._wish(), name: wrong})
        if status not in (200, 400, 404, 429):
            self._tell(f"{status} for {name} = {wrong!r}: {content[:200]}")

    def _huge(self):
        """Ten megabytes: over the limit, so that the server may close the connection before all is sent."""
        self._drop()
        try:
            self._refused("/v1/completions", {"model": "tiny", "prompt": "x" * 10_000_000})
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            self._drop()

    def _unknown(self):
        self._refused("/v1/completions", {"model": f"nobody{self._random.random()}", "prompt": "x"})

    def _embed(self):
        model, prompt = self._random.choice([pair for pair in self._expected if pair[0] != "gone"])
        self._whole("/v1/embeddings", {"model": model, "input": prompt})

    def _refused(self, path, body):
        status, content = self._whole(path, body)
        if status not in (400, 404, 413, 429):
            self._tell(f"{status} instead of a refusal: {content[:200]}")
