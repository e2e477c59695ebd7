"""Clients that mean harm, one kind each. They repeat their kind of harm until they are told to stop."""

import http.client
import itertools
import json
import socket
import threading
from collections import Counter
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

KINDS = {}
"""What each kind does, by its name: a function of a `Hostile`."""


def kind(act):
    KINDS[act.__name__] = act
    return act


class Hostile(threading.Thread):
    """One client of a kind. `statuses` counts what the server answered; `begun` is set once something was sent."""

    numbers = itertools.count()

    def __init__(self, address, act, *, key, model, over):
        super().__init__(daemon=True)
        self.netloc, self.key, self.model, self.over = urlsplit(address).netloc, key, model, over
        self.act, self.statuses, self.begun = act, Counter(), threading.Event()

    def run(self):
        while not self.over.is_set():
            with suppress(OSError, http.client.HTTPException):  # the server may close what it does not want
                self.act(self)

    def headers(self, **more):
        return {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json", **more}

    def post(self, path, body, *, seconds=5.0):
        """Send a body and read the answer; leave after `seconds`."""
        connection = http.client.HTTPConnection(self.netloc, timeout=seconds)
        try:
            connection.request("POST", path, json.dumps(body).encode(), self.headers())
            self.begun.set()
            answer = connection.getresponse()
            self.statuses[answer.status] += 1
            return answer.status, answer.read()
        finally:
            connection.close()

    def complete(self, *, seconds=5.0, **fields):
        wish = {"model": self.model, "prompt": "harm", "max_tokens": 200, "temperature": 0, **fields}
        return self.post("/v1/completions", wish, seconds=seconds)

    @contextmanager
    def connected(self, sent):
        """A connection that has sent these bytes."""
        host, _, port = self.netloc.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=5) as opened:
            opened.sendall(sent)
            self.begun.set()
            yield opened

    def head(self, path, **headers):
        lines = [f"POST {path} HTTP/1.1", f"Host: {self.netloc}"]
        return "\r\n".join([*lines, *(f"{name}: {said}" for name, said in self.headers(**headers).items())]).encode()

    def new_schema(self, properties):
        """A schema that was never sent before."""
        number = next(self.numbers)
        return {
            "type": "object",
            "properties": {f"p{number}_{i}": {"type": "string"} for i in range(properties)},
            "required": [f"p{number}_{i}" for i in range(properties)],
        }


def form(schema):
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


@kind
def huge_schemas(client):
    client.complete(**form(client.new_schema(20_000)))


@kind
def many_schemas(client):
    client.complete(**form(client.new_schema(300)), seconds=0.5)


@kind
def slow_expressions(client):
    regex = f"({next(client.numbers)}|(a?){{999}}(.*b){{20}}){{999}}"
    client.complete(structured_outputs={"regex": regex}, seconds=0.5)


@kind
def many_tools(client):
    tools = [
        {"type": "function", "function": {"name": f"f{i}", "parameters": client.new_schema(50)}} for i in range(100)
    ]
    wish = {"model": client.model, "messages": [{"role": "user", "content": "x"}], "tools": tools}
    client.post("/v1/chat/completions", {**wish, "tool_choice": "required", "max_tokens": 50}, seconds=0.5)


@kind
def many_choices(client):
    client.complete(n=64, temperature=1)


@kind
def other_names(client):
    client.complete(n=8, temperature=1, user=f"user {next(client.numbers)}")


@kind
def biases(client):
    client.complete(n=16, temperature=1, logit_bias={str(token): token % 7 for token in range(250)})


@kind
def too_many_biases(client):
    client.complete(logit_bias={str(token): 1 for token in range(40_000)})


@kind
def stop_strings(client):
    client.complete(n=8, temperature=1, stop=["a" * 200_000] * 4)
    client.complete(n=8, temperature=1, stop=[f"{'e' * 400}{i}" for i in range(4)])


@kind
def penalties(client):
    client.complete(n=8, temperature=1, prompt="e " * 400, frequency_penalty=0.1, logprobs=5, top_p=0.99)


@kind
def long_prompts(client):
    client.complete(prompt=[f"{next(client.numbers)} {'word ' * 400}"] * 4, max_tokens=1)


@kind
def scored_prompts(client):
    client.complete(prompt=f"{next(client.numbers)} {'word ' * 400}", max_tokens=1, echo=True, logprobs=5)


@kind
def embeddings(client):
    client.post("/v1/embeddings", {"model": client.model, "input": ["word " * 400] * 16})


@kind
def many_messages(client):
    messages = [{"role": ("user", "assistant")[i % 2], "content": "x"} for i in range(20_001)]
    client.post("/v1/chat/completions", {"model": client.model, "messages": messages, "max_tokens": 1})


@kind
def deep_bodies(client):
    client.complete(metadata={}, response_format=json.loads("[" * 900 + "]" * 900))


@kind
def huge_bodies(client):
    client.complete(prompt="x" * 10_000_000)


@kind
def leaves_at_once(client):
    with client.connected(b""), suppress(OSError):
        pass
    client.complete(n=8, temperature=1, seconds=0.01)


@kind
def half_heads(client):
    """Connections that never say whole headers, as many as there may be."""
    host, _, port = client.netloc.rpartition(":")
    opened = []
    try:
        for _ in range(100):
            one = socket.create_connection((host, int(port)), timeout=1)
            opened.append(one)
            one.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: ")
        client.begun.set()
        client.over.wait(2)
    finally:
        for one in opened:
            one.close()


@kind
def slow_bodies(client):
    with client.connected(client.head("/v1/completions", **{"Content-Length": "100000"}) + b"\r\n\r\n{") as opened:
        for _ in range(20):
            if client.over.wait(0.1):
                return
            opened.sendall(b" ")


@kind
def slow_readers(client):
    body = json.dumps({"model": client.model, "prompt": "x", "max_tokens": 400, "stream": True, "n": 4}).encode()
    with client.connected(client.head("/v1/completions", **{"Content-Length": len(body)}) + b"\r\n\r\n" + body):
        client.over.wait(2)


@kind
def pipelines(client):
    with client.connected(f"GET /v1/models HTTP/1.1\r\nHost: {client.netloc}\r\n\r\n".encode() * 200) as opened:
        while opened.recv(65536):
            pass


@kind
def uploads(client):
    kind = "multipart/form-data; boundary=x"
    head = client.head("/v1/adapters", **{"Content-Length": "400000000", "Content-Type": kind})
    with client.connected(head + b"\r\n\r\n--x\r\n") as opened:
        for _ in range(50):
            opened.sendall(b"x" * 100_000)


@kind
def garbage(client):
    with client.connected(b"\x00\xff GET / \r\n" * 100) as opened:
        opened.recv(1000)
