"""llama.cpp as the program on the other side: its server, and its converter of PEFT's adapters.

Found through KAMELEON_LLAMA_SERVER, the PATH, or ~/.cache/kameleon-llama.cpp (tests/README.md says how it is built).
"""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

_CACHE = Path("~/.cache/kameleon-llama.cpp").expanduser()


def llama_server():
    """The path of llama-server; the test is skipped where there is none."""
    places = (os.environ.get("KAMELEON_LLAMA_SERVER"), shutil.which("llama-server"), _CACHE / "build/bin/llama-server")
    found = next((str(place) for place in places if place and Path(place).exists()), None)
    return found or pytest.skip("there is no llama-server here: KAMELEON_LLAMA_SERVER, or tests/README.md")


def llama_converter():
    """llama.cpp's convert_lora_to_gguf.py beside the cached build; the test is skipped where there is none."""
    found = next(_CACHE.glob("*/llama.cpp/convert_lora_to_gguf.py"), None)
    return str(found) if found else pytest.skip("there is no source of llama.cpp here: tests/README.md")


@contextmanager
def serving(model, adapter=None, log=subprocess.DEVNULL):
    """A running server; yields a function of (prompt token ids, number of tokens to generate greedily).

    It returns [(token id, log-probability)].
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [llama_server(), "-m", str(model), "--port", str(port), "-c", "2048", "-np", "1", "-t", "1", "-fa", "off"]
    command += ["--cache-type-k", "f32", "--cache-type-v", "f32", "--no-warmup"]
    command += ["--lora", str(adapter)] if adapter else []
    process = subprocess.Popen(command, stdout=log, stderr=log)

    def ask(path, body=None, timeout=120):
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode() if body else None)
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return json.load(answer)

    def complete(prompt, tokens):
        wish = {"n_predict": tokens, "temperature": 0, "top_k": 1, "n_probs": 1, "cache_prompt": False}
        answer = ask("/completion", {"prompt": list(prompt), "return_tokens": True, **wish})
        return [(one["id"], one["logprob"]) for one in answer["completion_probabilities"]]

    try:
        for _ in range(600):
            assert process.poll() is None, f"llama-server ended with {process.returncode}"
            try:
                ask("/health", timeout=2)
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        yield complete
    finally:
        process.terminate()
        process.wait()
