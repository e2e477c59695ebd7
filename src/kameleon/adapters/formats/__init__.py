"""Adapters on disk, in the formats of PEFT, llama.cpp, mlx-lm and Ollama. The value does not know them."""

from kameleon.adapters.formats.gguf import read_gguf_adapter, write_gguf_adapter
from kameleon.adapters.formats.mlx import is_mlx_adapter, read_mlx_adapter, write_mlx_adapter
from kameleon.adapters.formats.model_card import merged_readme, write_readme
from kameleon.adapters.formats.next_steps import next_steps, steps_after_merge
from kameleon.adapters.formats.ollama import modelfile, write_ollama
from kameleon.adapters.formats.peft import read_adapter, reading_adapter, write_adapter
from kameleon.adapters.formats.safetensors_views import ReadBuffer

__all__ = [
    "ReadBuffer",
    "is_mlx_adapter",
    "merged_readme",
    "modelfile",
    "next_steps",
    "read_adapter",
    "read_gguf_adapter",
    "read_mlx_adapter",
    "reading_adapter",
    "steps_after_merge",
    "write_adapter",
    "write_gguf_adapter",
    "write_mlx_adapter",
    "write_ollama",
    "write_readme",
]
