"""Contenders that are HTTP servers: Kameleon itself, llama-server, vLLM's CPU backend."""

from __future__ import annotations

import http.client
import json
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from kameleon.adapters.formats import read_adapter, write_gguf_adapter
from kameleon.bases import load_base
from kameleon.bench.serving.contender import Contender, Program, Stage
from kameleon.bench.serving.load import Drive, drive

ADAPTER_BYTES = 1 << 30  # a hundred of SmolLM2's adapters of rank 16, as on a laptop
_PLAIN_ADAPTERS = 16  # adapters that vLLM gets at its start


def free_port() -> int:
    """A free port."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


class KameleonServer(Contender):
    """kameleon serve, on the base as bf16 weights or as GGUF."""

    def __init__(self, stage: Stage, *, gguf: bool = False) -> None:
        base = stage.gguf if gguf else stage.folder
        command = [Path(sys.executable).with_name("kameleon"), "serve", "--base", base, "--port", "0", "--json"]
        words = ["--any-base", "--max-batch", "64", "--max-queue", "2000", "--adapter-bytes", str(ADAPTER_BYTES)]
        words += ["--compute", stage.settings.compute] if stage.settings.compute else []
        self._program = Program([*command, *words], stage.settings.used_threads, {"KAMELEON_HOME": str(stage.home)})
        ready = json.loads(self._program.line())
        self._base, self.netloc = ready["base"], ready["address"].removeprefix("http://")

    def run(self, adapters: Sequence[int | None], prompts: Sequence[Sequence[int]], tokens: int) -> Drive:
        bodies = [
            _openai_body(self._base if adapter is None else f"a{adapter}", prompt, tokens)
            for adapter, prompt in zip(adapters, prompts, strict=True)
        ]
        return drive(self.netloc, "/v1/completions", bodies)

    def adapter_bytes(self) -> int:
        """Memory of the adapters that are resident now."""
        connection = http.client.HTTPConnection(self.netloc, timeout=60)
        connection.request("GET", "/v1/adapters")
        listed = json.loads(connection.getresponse().read())["data"]
        connection.close()
        return sum(one["resident_bytes"] for one in listed)

    def unload(self, adapter: int) -> None:
        """Take an adapter out of memory, so that the next request loads it from disk."""
        connection = http.client.HTTPConnection(self.netloc, timeout=30)
        connection.request("POST", f"/v1/adapters/a{adapter}/unload")
        connection.getresponse().read()
        connection.close()

    def close(self) -> None:
        self._program.end()


class LlamaServer(Contender):
    """llama.cpp's server on the GGUF file, with four adapters, which it loads at its start."""

    def __init__(self, stage: Stage, binary: str) -> None:
        base, files = load_base(str(stage.folder), torch.bfloat16), []
        for at, folder in enumerate(stage.adapters[:4]):
            path = stage.home / f"a{at}.gguf"
            write_gguf_adapter(read_adapter(folder), base, path)
            files.append(str(path))
        port, threads = free_port(), stage.settings.used_threads
        command = [binary, "-m", str(stage.gguf), "--lora", ",".join(files), "--lora-init-without-apply"]
        command += ["--host", "127.0.0.1", "--port", str(port), "-t", str(threads), "-np", "16", "-c", "16384"]
        self._program = Program([*command, "--no-webui"], threads, {"LD_LIBRARY_PATH": str(Path(binary).parent)})
        self._netloc = f"127.0.0.1:{port}"
        self._program.wait_until_ready(self._netloc, "/health")

    def can(self, adapters: Sequence[int | None]) -> bool:
        return all(adapter is None or adapter < 4 for adapter in adapters) and len(adapters) <= 16

    def run(self, adapters: Sequence[int | None], prompts: Sequence[Sequence[int]], tokens: int) -> Drive:
        bodies = []
        for adapter, prompt in zip(adapters, prompts, strict=True):
            # If no adapter is named, all have scale 1; if one is named, all others have scale 0.
            lora = [{"id": 0, "scale": 0.0}] if adapter is None else [{"id": adapter, "scale": 1.0}]
            wish = {"prompt": list(prompt), "n_predict": tokens, "ignore_eos": True, "temperature": 0, "stream": True}
            bodies.append({**wish, "cache_prompt": False, "lora": lora})
        return drive(self._netloc, "/completion", bodies)

    def close(self) -> None:
        self._program.end()


class Vllm(Contender):
    """vLLM's CPU backend, from an environment of its own."""

    def __init__(self, stage: Stage, binary: str) -> None:
        port, threads = free_port(), stage.settings.used_threads
        modules = [f"a{at}={path}" for at, path in enumerate(stage.adapters[:_PLAIN_ADAPTERS])]
        command = [binary, "serve", str(stage.folder), "--port", str(port), "--host", "127.0.0.1"]
        command += ["--served-model-name", "base", "--dtype", "bfloat16", "--max-model-len", "1024"]
        command += ["--max-num-seqs", "64", "--no-enable-prefix-caching", "--enable-lora", "--max-loras", "4"]
        command += ["--max-lora-rank", str(stage.settings.rank), "--max-cpu-loras", "16", "--lora-modules", *modules]
        environment = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}"}
        self._program = Program(command, threads, {**environment, "VLLM_NO_USAGE_STATS": "1"})
        self._netloc = f"127.0.0.1:{port}"
        self._program.wait_until_ready(self._netloc, "/health")

    def can(self, adapters: Sequence[int | None]) -> bool:
        return all(adapter is None or adapter < _PLAIN_ADAPTERS for adapter in adapters)

    def run(self, adapters: Sequence[int | None], prompts: Sequence[Sequence[int]], tokens: int) -> Drive:
        bodies = [
            _openai_body("base" if adapter is None else f"a{adapter}", prompt, tokens)
            for adapter, prompt in zip(adapters, prompts, strict=True)
        ]
        return drive(self._netloc, "/v1/completions", bodies)

    def close(self) -> None:
        self._program.end()


def _openai_body(model: str, prompt: Sequence[int], tokens: int) -> dict[str, Any]:
    wish = {"model": model, "prompt": list(prompt), "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    return {**wish, "stream": True, "stream_options": {"include_usage": True}}
