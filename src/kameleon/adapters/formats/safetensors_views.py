"""The tensors of an untrusted safetensors file as views of its bytes, so that the same bytes are hashed and used.

The format's own library copies every tensor out of bytes in memory, which took as long as all the rest of a load.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kameleon.errors import AdapterFileError, WeightsError
from kameleon.weights.kinds import FLOATS
from kameleon.weights.safetensors_header import header_end, parse_header
from kameleon.weights.tensor_info import TensorInfo

_TYPES = {
    **FLOATS,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_LONGEST_HEADER_BYTES = 4 << 20  # that of the largest bases' adapters has a tenth


class ReadBuffer:
    """Memory that one file after the other is read into: fetching it from the system anew takes longer than reading."""

    def __init__(self) -> None:
        self._room = torch.empty(0, dtype=torch.uint8)

    def read(self, path: Path) -> Tensor:
        """A file's bytes, uint8 [size], until the next one is read. Raises AdapterFileError."""
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if len(self._room) < size:
                    self._room = torch.empty(size, dtype=torch.uint8)
                return self._room[: file.readinto(raw_bytes(self._room[:size]))]
        except OSError as error:
            raise AdapterFileError(f"{path} cannot be read: {error}") from error


def raw_bytes(content: Tensor) -> memoryview:
    """The same memory as bytes."""
    array: Any = content.numpy()  # whose type does not say that it is a buffer
    return memoryview(array)


def views(path: Path, content: Tensor) -> dict[str, Tensor]:
    """Every tensor of the file at `path` whose bytes are `content`, of its own type.

    Raises AdapterFileError unless the tensors are floating-point numbers that fill the bytes behind the header, each in
    its own place.
    """
    try:
        end = header_end(raw_bytes(content), len(content), longest_bytes=_LONGEST_HEADER_BYTES)
        tensors = {}
        for tensor in _floats(bytes(raw_bytes(content[:end])), len(content)):
            dtype = _TYPES[tensor.kind]
            part = content[tensor.offset : tensor.offset + tensor.size_bytes]
            if part.storage_offset() % dtype.itemsize:
                part = part.clone()
            tensors[tensor.name] = part.view(dtype).view(tensor.shape)
    except WeightsError as error:
        raise AdapterFileError(f"{path} is damaged or cut short: {error}; take a whole copy") from error
    return tensors


@lru_cache(maxsize=4)
def _floats(begin: bytes, size_bytes: int) -> tuple[TensorInfo, ...]:
    """Where the tensors lie in a file of that beginning; adapters of one kind have the same."""
    tensors = parse_header(begin, size_bytes).tensors
    for tensor in tensors:
        if tensor.kind not in _TYPES:
            raise WeightsError(f"{tensor.name[:80]!r} holds {tensor.kind}, not floating-point numbers")
        if not tensor.size_bytes:  # so that no side of a shape can be larger than the file
            raise WeightsError(f"{tensor.name[:80]!r} of shape {str(tensor.shape)[:40]} is empty")
    return tensors
