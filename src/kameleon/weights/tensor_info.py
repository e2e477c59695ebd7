"""Where a tensor lies in a weight file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as its file lists it: name, shape, kind ("BF16", "Q4_K"), and where its bytes lie, counted from the
    start of the file. A GGUF file's shapes begin with the axis that runs along a row, safetensors' end with it."""

    name: str
    shape: tuple[int, ...]
    kind: str
    offset: int
    size_bytes: int
