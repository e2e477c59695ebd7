"""The bases of the cases: real ones, and random weights in the shape of larger ones, built once on this machine."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from kameleon.bases import locate
from kameleon.bench.packed_bases import MIXES, write_packed_shape
from kameleon.errors import BaseModelError
from kameleon.home import atomic_folder, cache_dir
from kameleon.model import open_weights
from kameleon.text.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Shape:
    """The sizes of a known base. With `mix` (see `MIXES`) it is written as a packed GGUF file, else in bf16."""

    family: str
    sizes: dict[str, Any]
    mix: str | None = None


_SMOLLM2 = {
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "rope_theta": 1e5,
    "tie_word_embeddings": True,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}
_QWEN25 = {"vocab_size": 151936, "max_position_embeddings": 32768, "rope_theta": 1e6, "tie_word_embeddings": True}
_QWEN25_05B = {
    **_QWEN25,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
}
_QWEN25_15B = {
    **_QWEN25,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
}
_LLAMA3_8B = {
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rope_theta": 5e5,
    "tie_word_embeddings": False,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
# Speed does not depend on the values of weights, so random ones spare a download of gigabytes.
SHAPES = {
    "smollm2-135m-random": Shape("llama", _SMOLLM2),
    "qwen2.5-0.5b-random": Shape("qwen2", _QWEN25_05B),
    "qwen2.5-0.5b-q4_0-random": Shape("qwen2", _QWEN25_05B, "Q4_0, Q8_0"),
    "qwen2.5-1.5b-random": Shape("qwen2", _QWEN25_15B),
    "qwen2.5-1.5b-q4_0-random": Shape("qwen2", _QWEN25_15B, "Q4_0"),
    "llama3-8b-q4_k_m-random": Shape("llama", _LLAMA3_8B, "Q4_K_M"),
    "llama3-8b-4-layers-q4_k_m-random": Shape("llama", {**_LLAMA3_8B, "num_hidden_layers": 4}, "Q4_K_M"),
}


def base_path(ref: str) -> Path:
    """The files of a case's base, built or fetched if they are not here. Raises FetchError, BaseModelError."""
    if ref not in SHAPES:
        return locate(ref).path
    path = cache_dir() / "bench" / (ref if SHAPES[ref].mix is None else f"{ref}.gguf")
    if not path.exists() and not built_apart(_build, ref, path):
        raise BaseModelError(f"{ref} could not be built in {path}; is there room for its weights?")
    return path


def built_apart(build: Callable[..., None], *arguments: Any) -> bool:
    """Run `build` in a process of its own, and say whether it succeeded.

    Gigabytes that this process once held would count in the peaks of processes that it starts later.
    """
    builder = multiprocessing.get_context("spawn").Process(target=build, args=arguments)
    builder.start()
    builder.join()
    return builder.exitcode == 0


def _build(ref: str, path: Path) -> None:
    shape = SHAPES[ref]
    if shape.mix is not None:
        write_packed_shape(path, shape.family, shape.sizes, MIXES[shape.mix])
        return
    # The cases' tokens are random numbers; a base needs some tokenizer, and SmolLM2's is here.
    smollm2 = locate("smollm2").path
    write_shape(path, shape, load_tokenizer(smollm2, open_weights(smollm2)))


def write_shape(folder: Path, shape: Shape, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write a base with random weights in bf16 in Hugging Face layout; `folder` appears whole or not at all."""
    with atomic_folder(folder) as fresh:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(shape.family, **shape.sizes), dtype=torch.bfloat16
        )
        model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
