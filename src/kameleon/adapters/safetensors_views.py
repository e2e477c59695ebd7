"""The tensors of an untrusted safetensors file as views of its bytes, which whoever hashes them sees too.

The format's own library copies every tensor out of bytes in memory, which took as long as all the rest of a load.
"""

from __future__ import annotations

import math
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kameleon.adapters.card import read_json
from kameleon.errors import AdapterFileError

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_PREFIX_BYTES = 8  # which hold the header's length
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
        text, data = _split(content)
        tensors = {}
        for name, start, stop, dtype, shape in _places(text, len(data)):
            part = data[start:stop]
            if part.storage_offset() % dtype.itemsize:
                part = part.clone()
            tensors[name] = part.view(dtype).view(shape)
    except _DamageError as error:
        raise AdapterFileError(f"{path} is damaged or cut short: {error}") from error
    return tensors


class _DamageError(Exception):
    """What is wrong with a file."""


class _Place(NamedTuple):
    name: str
    start: int
    stop: int
    dtype: torch.dtype
    shape: tuple[int, ...]


def _split(content: Tensor) -> tuple[str, Tensor]:
    """Header and data."""
    raw = raw_bytes(content)
    length = int.from_bytes(raw[:_PREFIX_BYTES], "little")
    if len(raw) < _PREFIX_BYTES or length > min(len(raw) - _PREFIX_BYTES, _LONGEST_HEADER_BYTES):
        raise _DamageError(f"it has {len(raw):,} bytes and claims a header of {length:,}")
    start = _PREFIX_BYTES + length
    try:
        return str(raw[_PREFIX_BYTES:start], "utf-8"), content[start:]
    except UnicodeDecodeError as error:
        raise _DamageError(str(error)) from error


@lru_cache(maxsize=4)
def _places(text: str, size: int) -> list[_Place]:
    """Where the tensors lie in `size` bytes of data; adapters of one kind have the same header."""
    try:
        header = read_json(text, "its header")
    except AdapterFileError as error:
        raise _DamageError(str(error)) from error
    found = [_place(name, entry) for name, entry in header.items() if name != "__metadata__"]
    places = sorted(found, key=lambda place: (place.start, place.stop))
    at = 0
    for name, start, stop, dtype, shape in places:
        # None is empty, so that no side of a shape can be larger than the file.
        if start != at or not start < stop <= size or stop - start != math.prod(shape) * dtype.itemsize:
            raise _DamageError(f"{name[:80]!r} of shape {str(shape)[:40]} is said to lie in bytes {start} to {stop}")
        at = stop
    if at != size:
        raise _DamageError(f"its tensors take {at:,} bytes of {size:,}")
    return places


def _place(name: str, entry: Any) -> _Place:
    try:
        kind, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise _DamageError(f"what it says about {name[:80]!r} is not whole") from error
    if not isinstance(kind, str) or not all(type(n) is int and n >= 0 for n in (*shape, start, stop)):
        raise _DamageError(f"what it says about {name[:80]!r} cannot be")
    if kind not in _TYPES:
        raise _DamageError(f"{name[:80]!r} holds {kind[:20]}, not floating-point numbers")
    return _Place(name, start, stop, _TYPES[kind], shape)
