"""Adapters on disk, in the formats of PEFT, llama.cpp, mlx-lm and Ollama. The value does not know them."""

from kameleon.adapters.formats.gguf import read_gguf_adapter, write_gguf_adapter
from kameleon.adapters.formats.mlx import is_mlx_adapter, read_mlx_adapter, write_mlx_adapter
from kameleon.adapters.formats.ollama import modelfile, write_ollama

__all__ = [
    "is_mlx_adapter",
    "modelfile",
    "read_gguf_adapter",
    "read_mlx_adapter",
    "write_gguf_adapter",
    "write_mlx_adapter",
    "write_ollama",
]
