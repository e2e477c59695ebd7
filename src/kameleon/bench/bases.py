"""The bases of the cases: real ones, and random weights in the shape of larger ones, built once on this machine."""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase, Qwen2Config

from kameleon.errors import BaseModelError
from kameleon.home import cache_dir
from kameleon.model import locate
from kameleon.model.tokenizer import load_tokenizer
from kameleon.weights import open_weights

_QWEN25 = {"vocab_size": 151936, "max_position_embeddings": 32768, "rope_theta": 1e6, "tie_word_embeddings": True}
# Speed does not depend on what the weights say, so random ones spare a download of gigabytes.
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-0.5b-random": {
        **_QWEN25,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
    "qwen2.5-1.5b-random": {
        **_QWEN25,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
    },
}


def base_path(ref: str) -> Path:
    """The files of a case's base, built or fetched if need be. Raises FetchError, BaseModelError."""
    if ref not in SHAPES:
        return locate(ref).path
    folder = cache_dir() / "bench" / ref
    if not (folder / "config.json").exists():
        # In a process of its own: gigabytes held here would count in the peaks of the processes started later.
        builder = multiprocessing.get_context("spawn").Process(target=_build, args=(ref, folder))
        builder.start()
        builder.join()
        if builder.exitcode != 0:
            raise BaseModelError(f"{ref} could not be built in {folder}; is there room for its weights?")
    return folder


def _build(ref: str, folder: Path) -> None:
    # Its tokens are random numbers; a tokenizer is there because a base has one, and SmolLM2's is at hand.
    path = locate("smollm2").path
    write_shape(folder, SHAPES[ref], load_tokenizer(path, open_weights(path)))


def write_shape(folder: Path, sizes: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> None:
    """A Qwen2 base with random weights in bf16, in Hugging Face layout; `folder` appears whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(Qwen2Config(**sizes), dtype=torch.bfloat16)
        model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
