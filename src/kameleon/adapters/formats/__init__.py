"""Adapters on disk, in the formats of PEFT, llama.cpp, mlx-lm and Ollama. The value does not know them."""

from kameleon.adapters.formats.gguf import read_gguf_adapter, write_gguf_adapter
from kameleon.adapters.formats.mlx import is_mlx_adapter, read_mlx_adapter, write_mlx_adapter
from kameleon.adapters.formats.ollama import modelfile, write_ollama
from kameleon.adapters.formats.peft import read_adapter, reading_adapter, write_adapter
from kameleon.adapters.formats.safetensors_views import ReadBuffer

__all__ = [
    "ReadBuffer",
    "is_mlx_adapter",
    "modelfile",
    "read_adapter",
    "read_gguf_adapter",
    "read_mlx_adapter",
    "reading_adapter",
    "write_adapter",
    "write_gguf_adapter",
    "write_mlx_adapter",
    "write_ollama",
]
