"""How long a polite client of a server waits for its first token while others mean harm.

    .venv/bin/python benchmarks/hostile.py [KIND ...]

Serves SmolLM2 with two keys. Clients of each kind of tests/http/hostile_clients.py have one. Beside them a client with
the other key asks for one token, one request after the other; in turn with that it asks while nobody else does.
Writes benchmarks/hostile.json: the milliseconds to the first token, the answers' statuses, the memory of the server,
and how long it takes to end after SIGTERM while all kinds go on.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE.parent / "tests" / "http")]

from hostile_clients import KINDS, Hostile  # noqa: E402  # pyright: ignore[reportMissingImports]
from served import Served, serving  # noqa: E402  # pyright: ignore[reportMissingImports]

REQUESTS = 50
"""A turn's requests; alone and beside a kind there are two turns each."""
CLIENTS = 4
DRAIN_S = 5
POLITE, HARM = "polite-" * 4, "hostile-" * 4
PROMPT = "The whale is the largest animal that has ever lived. It breathes air, and its young drink milk. " * 2


def main(kinds: list[str]) -> None:
    from kameleon.bench.machine import machine

    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys"
        keys.touch(mode=0o600)
        keys.write_text(f"{POLITE}\n{HARM} smollm2\n")
        words = ("--api-key-file", str(keys), "--drain-s", str(DRAIN_S))
        with serving("smollm2", *words) as served:
            first_tokens_ms(served, REQUESTS)
            rows = [row(served, one) for one in kinds]
            ended_s = seconds_to_end(served, kinds)
    result = {
        "machine": machine(),
        "clients": CLIENTS,
        "requests": 2 * REQUESTS,
        "drain_s": DRAIN_S,
        "end_after_sigterm_s": ended_s,
        "kinds": rows,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


def row(served: Served, act: str) -> dict:
    """One kind beside the same without it, in turn."""
    alone: list[float] = []
    beside: list[float] = []
    statuses: Counter[str] = Counter()
    for _ in range(2):
        alone += first_tokens_ms(served, REQUESTS)
        with harm(served, [act]) as answered:
            beside += first_tokens_ms(served, REQUESTS)
        statuses.update(answered)
    figures = {
        "kind": act,
        "alone_ms": spread(alone),
        "beside_ms": spread(beside),
        "p99_ratio": round(spread(beside)["p99"] / spread(alone)["p99"], 2),
        "hostile_statuses": dict(statuses),
        "server_bytes": served.resident_bytes(),
    }
    print(json.dumps(figures), flush=True)
    return figures


def spread(values: list[float]) -> dict[str, float]:
    return {"median": round(median(values), 1), "p99": round(quantiles(values, n=100)[98], 1)}


def first_tokens_ms(served: Served, count: int) -> list[float]:
    """Milliseconds from a request to the first event of its stream. Raises RuntimeError for a refusal."""
    body = {"model": "smollm2", "prompt": PROMPT, "max_tokens": 1, "temperature": 0, "stream": True}
    headers = {"Authorization": f"Bearer {POLITE}", "Content-Type": "application/json"}
    found = []
    for number in range(count):
        connection = http.client.HTTPConnection(urlsplit(served.address).netloc, timeout=120)
        content = json.dumps({**body, "prompt": f"{number}. {PROMPT}"})
        begun = time.monotonic()
        connection.request("POST", "/v1/completions", content, headers)
        answer = connection.getresponse()
        answer.readline()
        found.append(1000 * (time.monotonic() - begun))
        if answer.status != 200:
            raise RuntimeError(f"the polite client got {answer.status}: {answer.read()[:300]!r}")
        connection.close()
    return found


@contextmanager
def harm(served: Served, acts: list[str]):
    """Hostile clients in a process of their own; gives their answers' statuses, filled in at the end."""
    statuses: Counter[str] = Counter()
    command = [sys.executable, __file__, "--harm", served.address, *acts]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdin
        process.stdout.readline()
        try:
            yield statuses
        finally:
            process.stdin.close()
            statuses.update(json.loads(process.stdout.read() or "{}"))


def do_harm(address: str, acts: list[str]) -> None:
    over = threading.Event()
    clients = [
        Hostile(address, KINDS[act], key=HARM, model="smollm2", over=over) for act in acts for _ in range(CLIENTS)
    ]
    for one in clients:
        one.start()
    for one in clients:
        one.begun.wait(10)
    print("begun", flush=True)
    sys.stdin.read()
    over.set()
    time.sleep(1)
    print(json.dumps(sum((one.statuses for one in clients), Counter())), flush=True)
    os._exit(0)


def seconds_to_end(served: Served, kinds: list[str]) -> float:
    """Seconds from SIGTERM to the end of the process, while all kinds go on."""
    with harm(served, kinds):
        time.sleep(3)
        begun = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        served.process.wait(120)
        return round(time.monotonic() - begun, 2)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--harm"]:
        do_harm(sys.argv[2], sys.argv[3:])
    else:
        main(sys.argv[1:] or list(KINDS))
