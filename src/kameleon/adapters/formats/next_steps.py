"""The commands with which other programs take an exported adapter or a merged model."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

from kameleon.adapters.adapter import Adapter

Kind = Literal["peft", "gguf", "ollama", "mlx"]
_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank takes


def next_steps(adapter: Adapter, kind: Kind, place: str, *, base_file: str = "BASE.gguf") -> list[str]:
    """Commands for an export that lies at `place`; `base_file` is the base's own `.gguf` file.

    A base without a known hub id is called BASE.
    """
    name, hub_id, at = adapter.name, shlex.quote(adapter.card.base_hub_id or "BASE"), shlex.quote(place)
    if kind == "peft":
        rank = max(factors.rank for factors in adapter.factors.values())
        allowed = next((most for most in _VLLM_RANKS if most >= rank), rank)
        served = shlex.quote(f"{name}={place}")
        return [f"vllm serve {hub_id} --enable-lora --max-lora-rank {allowed} --lora-modules {served}"]
    if kind == "ollama":
        return [f"ollama create {name} -f {shlex.quote(str(Path(place) / 'Modelfile'))}", f"ollama run {name}"]
    if kind == "mlx":
        return [f'mlx_lm.generate --model {hub_id} --adapter-path {at} --prompt "Hello"']
    return [
        f"llama-server -m {shlex.quote(base_file)} --lora {at}",
        f"for LM Studio, which takes no adapters: kameleon adapter merge {name} --out {name}-merged.gguf "
        f"--requantise Q8_0, then lms import {name}-merged.gguf",
    ]


def steps_after_merge(path: Path) -> list[str]:
    """Commands for a merged model: a `.gguf` file, or a folder in Hugging Face layout."""
    at = shlex.quote(str(path))
    if path.suffix == ".gguf":
        return [f"llama-server -m {at}", f"for LM Studio: lms import {at}"]
    return [f"vllm serve {at}"]
