"""A .gguf file, as llama.cpp and Ollama use it, under Hugging Face names."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from kameleon.errors import WeightsError
from kameleon.weights.files import WeightFile

_OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_FLOATS = {
    gguf.GGMLQuantizationType.F32: torch.float32,
    gguf.GGMLQuantizationType.F16: torch.float16,
    gguf.GGMLQuantizationType.BF16: torch.bfloat16,
}


# What the reader runs into where a file is cut short or its numbers are nonsense.
_DAMAGED = (ValueError, LookupError, OSError, ArithmeticError, TypeError, MemoryError, RecursionError)


class GgufFile(WeightFile):
    """Mapped read-only. Float tensors are views of the map; quantised ones are unpacked when they are read.

    Raises WeightsError for a file that is damaged or cut short, naming what is wrong.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with np.errstate(over="raise"):
                self._reader = gguf.GGUFReader(path)
        except _DAMAGED as error:
            raise WeightsError(f"{path} is not a whole GGUF file: {error}; fetch it again") from error
        self._tensors = {hf_name(t.name): t for t in self._reader.tensors}
        self._names = sorted(self._tensors)

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """Every key of the header with its value as plain Python."""
        try:
            return {name: field.contents() for name, field in self._reader.fields.items()}
        except _DAMAGED as error:
            raise WeightsError(f"{self.path} is not a whole GGUF file: {error}; fetch it again") from error

    def names(self) -> Sequence[str]:
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._tensors:
            raise self._missing(name)
        return tuple(int(size) for size in reversed(self._tensors[name].shape))

    def _read(self, name: str) -> Tensor:
        stored = self._tensors[name]
        dtype = _FLOATS.get(stored.tensor_type)
        try:
            if dtype is None:
                with np.errstate(invalid="raise", over="raise"):
                    tensor = torch.from_numpy(gguf.dequantize(stored.data, stored.tensor_type))
            else:
                tensor = _view(stored.data).view(dtype)
            return self._unpermute(name, tensor.reshape(self.shape(name)))
        except (*_DAMAGED, RuntimeError) as error:  # RuntimeError: torch's for sizes, NotImplementedError for types
            raise WeightsError(
                f"{name} ({stored.tensor_type.name}) in {self.path} cannot be read: {error or type(error).__name__}"
            ) from error

    def _unpermute(self, name: str, tensor: Tensor) -> Tensor:
        """Undo llama.cpp's order of Q and K rows: it keeps the two numbers of a rotated pair next to each other."""
        projection = re.search(r"self_attn\.([qk])_proj\.", name)
        family = self.metadata["general.architecture"]
        if family != "llama" or projection is None:
            return tensor
        count = self.metadata[f"{family}.attention.head_count"]
        if projection[1] == "k":
            count = self.metadata.get(f"{family}.attention.head_count_kv", count)
        return tensor.unflatten(0, (count, -1, 2)).transpose(1, 2).flatten(0, 2)

    def _files(self) -> list[Path]:
        return [self.path]

    def _stored(self) -> Iterable[tuple[str, Sequence[int], str, memoryview]]:
        return (
            (
                t.name,
                [int(size) for size in t.shape],
                t.tensor_type.name,
                np.ascontiguousarray(t.data).reshape(-1).view(np.uint8).data,
            )
            for t in sorted(self._reader.tensors, key=lambda t: t.name)
        )


def _view(mapped: np.ndarray[Any, Any]) -> Tensor:
    with warnings.catch_warnings():
        # PyTorch has no read-only tensors and says so; nothing here ever writes to a weight.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(np.asarray(mapped))


def hf_name(name: str) -> str:
    """The Hugging Face name of a GGUF tensor; names that no supported family has stay as they are."""
    if name in _OUTER:
        return _OUTER[name]
    inner = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if inner and inner[2] in _INNER:
        return f"model.layers.{inner[1]}.{_INNER[inner[2]]}.{inner[3]}"
    return name
