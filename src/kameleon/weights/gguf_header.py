"""The header of a GGUF file (the specification is ggml's docs/gguf.md), read without trusting any number in it.

Memory is allocated only for bytes that the file has, and only those are read; a header may claim more. It is read by
hand because the `gguf` package's reader trusts its file, and takes seconds for a large vocabulary.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import gguf
import numpy as np

from kameleon.errors import WeightsError
from kameleon.weights.tensor_info import TensorInfo

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_DEEPEST_ARRAY = 4
_MOST_DIMS = 4
_LARGEST_ALIGNMENT = 1 << 16
# Far beyond any real header. Without these limits a large file could claim its tensors' bytes as a header.
_LONGEST_HEADER_BYTES = 256 << 20
_MOST_VALUES = 1 << 24


@dataclass(frozen=True)
class GgufHeader:
    """All metadata as plain Python values, and all tensors in the order of the file.

    `spans` holds the place of each key with its value, so that both can be copied without change.
    """

    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]
    spans: dict[str, slice]
    alignment: int


class _Cut(Exception):
    """The header ends beyond the last byte."""


def read_header(data: memoryview, size_bytes: int | None = None) -> GgufHeader:
    """The header at the start of `data`; `size_bytes` is the size of the whole file if `data` is only its beginning.

    Versions 2 and 3, little-endian. Raises WeightsError, naming the wrong key or tensor and the fault: a truncated
    header, impossible counts, unknown kinds, tensors that overlap or lie outside of the file.
    """
    cursor = _Cursor(data[:_LONGEST_HEADER_BYTES])
    try:
        return _read(cursor, len(data) if size_bytes is None else size_bytes)
    except _Cut:
        where = f" at {cursor.reading}" if cursor.reading else ""
        raise WeightsError(f"its header is cut short{where}, after {len(cursor.data):,} bytes") from None


class _Cursor:
    """A position in the header; `reading` names the part that is being read, for messages."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.at, self.reading, self.values = data, 0, "", 0

    def bytes(self, count: int) -> memoryview:
        if count > len(self.data) - self.at:
            raise _Cut
        self.at += count
        return self.data[self.at - count : self.at]

    def scalar(self, letter: str) -> Any:
        return struct.unpack(f"<{letter}", self.bytes(struct.calcsize(f"<{letter}")))[0]

    def text(self, what: str) -> str:
        """A name: it must be UTF-8."""
        try:
            return str(self.bytes(self.scalar("Q")), "utf-8")
        except UnicodeDecodeError as error:
            raise WeightsError(f"{what} is not UTF-8 text: {error}") from None


def _read(cursor: _Cursor, size_bytes: int) -> GgufHeader:
    if bytes(cursor.data[:4]) != _MAGIC:
        raise WeightsError("it does not begin with GGUF")
    cursor.at = 4
    version = cursor.scalar("I")
    if version not in _VERSIONS:
        swapped = version & 0xFFFF == 0 and version >> 24 in _VERSIONS
        kind = "big-endian GGUF" if swapped else f"GGUF version {version}"
        raise WeightsError(f"{kind} is not read here, only little-endian versions 2 and 3")
    tensor_count, key_count = cursor.scalar("Q"), cursor.scalar("Q")
    metadata: dict[str, Any] = {}
    spans: dict[str, slice] = {}
    for _ in range(_possible(cursor, key_count, 8 + 4 + 1, "keys")):
        cursor.reading, first = "a key of its metadata", cursor.at
        key = cursor.text("a key of its metadata")
        cursor.reading = key
        if key in metadata:
            raise WeightsError(f"its metadata holds {key} twice")
        metadata[key] = _value(cursor, cursor.scalar("I"), key, 0)
        spans[key] = slice(first, cursor.at)
    alignment = metadata.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or not 0 < alignment <= _LARGEST_ALIGNMENT or alignment & (alignment - 1):
        raise WeightsError(f"general.alignment is {alignment!r}; it must be a power of two up to {_LARGEST_ALIGNMENT}")
    listed = [_listed(cursor) for _ in range(_possible(cursor, tensor_count, 8 + 4 + 8 + 4 + 8, "tensors"))]
    start = -(-cursor.at // alignment) * alignment
    tensors = tuple(_placed(*one, start, alignment, size_bytes) for one in listed)
    _check_apart(tensors)
    return GgufHeader(metadata, tensors, spans, alignment)


def _possible(cursor: _Cursor, count: int, least_bytes: int, what: str) -> int:
    """`count`, if the rest of the header has room for `count` things of `least_bytes` each."""
    left = len(cursor.data) - cursor.at
    cursor.values += count
    if cursor.values > _MOST_VALUES:
        raise WeightsError(f"{cursor.reading or 'its header'} claims {count:,} {what} in {left:,} bytes")
    if count * least_bytes > left:
        raise _Cut
    return count


def _value(cursor: _Cursor, kind: int, key: str, depth: int) -> Any:
    if kind in _SCALARS:
        return cursor.scalar(_SCALARS[kind])
    if kind == _STRING:
        return cursor.text(key)
    if kind != _ARRAY:
        raise WeightsError(f"{key} has a value of unknown type {kind}")
    if depth == _DEEPEST_ARRAY:
        raise WeightsError(f"{key} nests arrays deeper than {_DEEPEST_ARRAY}")
    inner, count = cursor.scalar("I"), cursor.scalar("Q")
    if inner in _SCALARS:
        letter = _SCALARS[inner]
        size = struct.calcsize(f"<{letter}")
        # An array of numbers is read at once: vocabularies have a hundred thousand.
        numbers = np.frombuffer(cursor.bytes(_possible(cursor, count, size, "numbers") * size), np.dtype(f"<{letter}"))
        return numbers.tolist()
    least = {_STRING: 8, _ARRAY: 12}.get(inner, 1)
    return [_value(cursor, inner, key, depth + 1) for _ in range(_possible(cursor, count, least, "values"))]


def _listed(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """One entry of the list of tensors: name, shape, kind's number, offset within the data."""
    cursor.reading = "the list of its tensors"
    name = cursor.text("the name of a tensor")
    cursor.reading = name
    dims = cursor.scalar("I")
    if not 1 <= dims <= _MOST_DIMS:
        raise WeightsError(f"{name} has {dims} axes; it must have 1 to {_MOST_DIMS}")
    return name, tuple(cursor.scalar("Q") for _ in range(dims)), cursor.scalar("I"), cursor.scalar("Q")


def _placed(
    name: str, shape: tuple[int, ...], number: int, offset: int, start: int, alignment: int, size_bytes: int
) -> TensorInfo:
    try:
        kind = gguf.GGMLQuantizationType(number)
    except ValueError:
        raise WeightsError(f"{name} is stored in a kind that is not known here (number {number})") from None
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    if 0 in shape:
        raise WeightsError(f"{name} is {_times(shape)}: it is empty")
    if shape[0] % block:
        raise WeightsError(f"{name} has rows of {shape[0]} numbers, which are not whole {kind.name} blocks of {block}")
    size = block_bytes
    for length in (shape[0] // block, *shape[1:]):
        size *= length
    if offset % alignment:
        raise WeightsError(f"{name} lies at offset {offset}, which is not a multiple of the alignment {alignment}")
    if start + offset + size > size_bytes:
        raise WeightsError(
            f"{name} ({_times(shape)}, {kind.name}) is not whole: it ends at byte {start + offset + size:,} of a file "
            f"of {size_bytes:,}"
        )
    return TensorInfo(name, shape, kind.name, start + offset, size)


def _check_apart(tensors: Sequence[TensorInfo]) -> None:
    if len({tensor.name for tensor in tensors}) < len(tensors):
        seen: set[str] = set()
        twice = next(t.name for t in tensors if t.name in seen or seen.add(t.name))
        raise WeightsError(f"it lists {twice} twice")
    ordered = sorted(tensors, key=lambda tensor: tensor.offset)
    for before, after in pairwise(ordered):
        if before.offset + before.size_bytes > after.offset:
            raise WeightsError(f"{before.name} and {after.name} overlap in it")


def _times(shape: Sequence[int]) -> str:
    return " × ".join(f"{size:,}" for size in shape)
