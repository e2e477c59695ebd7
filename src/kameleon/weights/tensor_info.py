"""Where a tensor lies in a weight file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as its file lists it: name, shape, kind ("BF16", "Q4_K"), and the place of its bytes from the start of
    the file. In a GGUF file a shape begins with the length of a row, in safetensors it ends with it.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    offset: int
    size_bytes: int
